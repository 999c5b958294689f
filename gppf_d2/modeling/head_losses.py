"""Losses of a head, whatever it is: a dict of scalars, without NaN where there is nothing to learn.

A batch whose semantic labels are all "ignore" has nothing to learn: cross entropy gives NaN, which
is replaced by a zero that keeps the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def losses_of(head: nn.Module, samples: list[dict[str, Any]], whose: str) -> dict[str, Tensor]:
    """Run a head that is in training mode.

    Args:
        head: any.
        samples: what it takes.
        whose: named in the message, such as "task 'coco'".

    Returns:
        Named scalar losses.

    Raises:
        TypeError: the head returned no dict of losses.
    """
    losses = head(samples)
    if not isinstance(losses, dict) or not losses:
        raise TypeError(
            f"The head of {whose} returned {type(losses).__name__} in training; "
            "it must return a dict of named losses."
        )
    return _without_empty_losses(losses, head, samples)


def _without_empty_losses(
    losses: Mapping[str, Tensor], head: nn.Module, samples: Any
) -> dict[str, Tensor]:
    """Turn losses that are NaN because all semantic labels are ignored into zeros with a graph."""
    if not isinstance(samples, list) or not all("sem_seg" in sample for sample in samples):
        return dict(losses)
    ignore = {getattr(module, "ignore_value", None) for module in head.modules()} - {None} or {255}
    empty = torch.stack(
        [torch.stack([(s["sem_seg"] == v).all() for v in ignore]).any() for s in samples]
    ).all()
    return {
        name: torch.where(empty.to(loss.device) & loss.isnan(), torch.zeros_like(loss), loss)
        if len(losses) == 1 or "sem_seg" in name
        else loss
        for name, loss in losses.items()
    }
