"""Which parameters a backward pass will reach, read from the autograd graph before it runs.

The graph is walked from the loss over ``next_functions`` down to its AccumulateGrad nodes. The
walk is iterative (graphs are deep) and costs about a microsecond per edge; a Mask R-CNN step has
some hundred to some thousand nodes. What it finds is a superset of what will accumulate: a custom
function may return no gradient. What it cannot see is a graph inside a backward, as reentrant
checkpointing has one.

A node's post hook runs in both cases and is handed the incoming gradient, None where none came. The
post-accumulate hook of a tensor runs in both cases too, but cannot tell them apart: so it must not
be used to count contributors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def accumulator(parameter: nn.Parameter) -> Any:
    """The node that accumulates into ``parameter.grad``; it lives as long as someone holds it."""
    with torch.enable_grad():
        return parameter.view_as(parameter).grad_fn.next_functions[0][0]


AccumulateGrad = type(accumulator(nn.Parameter(torch.zeros(()))))


def leaves(loss: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """Every leaf that ``loss.backward()`` may reach, once each.

    Args:
        loss: a tensor with a graph, or a leaf itself.

    Yields:
        (AccumulateGrad node, leaf tensor); the node is None where the loss is the leaf.
    """
    if loss.grad_fn is None:
        if loss.requires_grad:
            yield None, loss
        return
    seen = {loss.grad_fn}
    todo = [loss.grad_fn]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node) is AccumulateGrad:
                yield node, node.variable
            else:
                todo.append(node)
