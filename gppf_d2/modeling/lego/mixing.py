"""Autograd functions of the gates: the mixed end of residual blocks, and the straight-through
factor.

Both give a gate u_k its gradient sum(grad * what it multiplies) in one pass over the activation
and without a temporary of its size, and give activations theirs without a copy where autograd
would make one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def add_skip_and_mix(x: Tensor, branches: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
    """sum_k relu(z_k + u_k x), the end of a layer of residual blocks with identity shortcuts.

    Args:
        x: input of the layer [B, C, H, W].
        branches: z_k [B, C, H, W], gates folded in; they are overwritten.
        gates: u_k, 0-dim.

    Returns:
        The layer's output [B, C, H, W].
    """
    return _AddSkipAndMix.apply(x, len(branches), *branches, *gates)


def straight_through(y: Tensor, gate: Tensor) -> Tensor:
    """y itself, with the gradient of ``gate * y`` at gate = 1 (GPPF: the "hard sample trick").

    Args:
        y: the output of the one unit that ran [B, C, H, W].
        gate: its soft gate u, 0-dim.
    """
    return _StraightThrough.apply(y, gate)


class _AddSkipAndMix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *branches_and_gates: Tensor) -> Tensor:
        branches = [z.detach() for z in branches_and_gates[:count]]
        gates = branches_and_gates[count:]
        for z, gate in zip(branches, gates):
            z.addcmul_(x.to(z.dtype), gate.to(z.dtype)).relu_()
        ctx.count = count
        ctx.save_for_backward(x, *branches, *gates)
        y = branches[0] + branches[1] if count > 1 else branches[0].clone()
        for z in branches[2:]:
            y += z
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        branches, gates = saved[: ctx.count], saved[ctx.count :]
        grads = [torch.ops.aten.threshold_backward(grad, z, 0) for z in branches]
        grad_x = None
        for g, gate in zip(grads, gates):
            gate = gate.to(g.dtype)
            grad_x = g * gate if grad_x is None else grad_x.addcmul_(g, gate)
        return grad_x, None, *grads, *(_inner(g, x) for g in grads)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, _inner(grad, ctx.saved_tensors[0])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """sum(a * b), accumulated in fp32 or better."""
    if a.dtype in (torch.float16, torch.bfloat16):
        return (a * b).sum(dtype=torch.float32)
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    nhwc_a, nhwc_b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    if nhwc_a.is_contiguous() and nhwc_b.is_contiguous():
        return torch.dot(nhwc_a.view(-1), nhwc_b.view(-1))
    return (a * b).sum()
