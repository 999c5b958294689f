"""The norm of averaged gradients and clipping by it, without a device synchronisation.

Norms are taken per parameter and then combined, as ``torch.nn.utils.clip_grad_norm_`` does;
squares of different families of parameters add up, so heads that live on other ranks enter as one
scalar.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-6


def squared_norm(parameters: Sequence[nn.Parameter], device: torch.device) -> Tensor:
    """Sum of squares of all gradients that are not None, 0-dim fp64 on ``device``.

    The dtype does not depend on the parameters: ranks with different heads can add their sums.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for members in _by_kind(parameters):
        norms = torch.stack(list(torch._foreach_norm(members)))
        total += norms.to(total).square().sum()
    return total


def scale_to(parameters: Sequence[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Multiply every gradient by max_norm / norm where the norm is larger."""
    factor = (max_norm / (norm + EPSILON)).clamp(max=1.0)
    for members in _by_kind(parameters):
        torch._foreach_mul_(members, factor.to(members[0]))


def _by_kind(parameters: Sequence[nn.Parameter]) -> Iterable[list[Tensor]]:
    """The gradients that are not None, one list per device and dtype."""
    kinds: dict[tuple, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kind = (parameter.grad.device, parameter.grad.dtype)
            kinds.setdefault(kind, []).append(parameter.grad)
    return kinds.values()
