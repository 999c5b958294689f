"""Cross-task batch norm in ONE process, slow and plain: what `sync_norms` must equal on many.

All ranks' tensors are at hand, so the statistics are ordinary differentiable expressions and
autograd does the rest. The gradient is that of the sum of all ranks' losses, as in the distributed
norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def pixels_of(tensors: Sequence[Tensor]) -> Tensor:
    """All pixels of one rank's tensors [B_i, c, H_i, W_i] as [m, c]."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in tensors])


def rank_weights(ranks: Sequence[Sequence[Tensor] | None], weighting: str) -> list[float]:
    """q_r of every rank, 0 for those without a pixel."""
    pixels = [0 if xs is None else len(pixels_of(xs)) for xs in ranks]
    samples = [0 if xs is None else sum(len(x) for x in xs if x.numel()) for xs in ranks]
    raw = {"equal": [float(m > 0) for m in pixels], "n": samples, "nhw": pixels}[weighting]
    total = sum(raw)
    return [w / total if total else 0.0 for w in raw]


@dataclass
class Statistics:
    """Merged mean, biased variance [c], and the number of pixels."""

    mean: Tensor
    var: Tensor
    pixels: int


def merged_statistics(
    ranks: Sequence[Sequence[Tensor] | None], weighting: str
) -> Statistics | None:
    """mean = sum q mean_r, var = sum q E_r[(x - mean)^2]; None when no rank has a pixel."""
    q = rank_weights(ranks, weighting)
    flat = [(w, pixels_of(xs)) for w, xs in zip(q, ranks) if w > 0]
    if not flat:
        return None
    mean = sum(w * x.mean(0) for w, x in flat)
    var = sum(w * ((x - mean) ** 2).mean(0) for w, x in flat)
    return Statistics(mean, var, sum(len(x) for _, x in flat))


def reference_norm(
    ranks: Sequence[Sequence[Tensor] | None],
    affine: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    weighting: str,
    eps: float = 1e-5,
) -> tuple[list[list[Tensor] | None], Statistics | None]:
    """Apply one norm to the tensors of all ranks.

    Args:
        ranks: each rank's tensors, None for a rank that does not run the norm.
        affine: each rank's own copy of weight and bias, and its gate (0-dim or None).
        weighting: "equal", "n" or "nhw".

    Returns:
        Each rank's outputs, and the statistics.
    """
    statistics = merged_statistics(ranks, weighting)
    outputs: list[list[Tensor] | None] = []
    for xs, (weight, bias, gate) in zip(ranks, affine):
        if xs is None:
            outputs.append(None)
            continue
        gate = 1.0 if gate is None else gate
        column = (1, -1, 1, 1)
        if statistics is None:
            outputs.append(list(xs))
            continue
        rstd = (statistics.var + eps) ** -0.5
        outputs.append(
            [
                (x - statistics.mean.view(column)) * (rstd * weight * gate).view(column)
                + (bias * gate).view(column)
                for x in xs
            ]
        )
    return outputs, statistics


def moved(
    running: tuple[Tensor, Tensor], statistics: Statistics | None, momentum: float
) -> tuple[Tensor, Tensor]:
    """Running mean and variance after one update; as they were when nobody contributed."""
    if statistics is None:
        return running
    mean, var = running
    m = statistics.pixels
    new = statistics.mean.detach(), statistics.var.detach() * m / (m - 1)
    return mean + momentum * (new[0] - mean), var + momentum * (new[1] - var)
