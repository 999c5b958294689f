"""Moments of activations: taken on one rank, merged over ranks, applied, and differentiated.

Legend: R ranks, K norms of a position, C the sum of their channels; x [B, c, H, W]. Rank r holds
m_r pixels of n_r samples for a norm, with mean_r and biased var_r per channel. Merged::

    mean = sum_r q_r mean_r          var = sum_r q_r (var_r + (mean_r - mean)^2)
    q_r  = 1/R_c ("equal", R_c ranks with m_r > 0) | n_r / sum n ("n") | m_r / sum m ("nhw")

Only centred terms are added: nothing cancels however large |mean| / std is. With xhat the
normalised x, rstd = 1 / sqrt(var + eps), g the gradient of xhat, and S1, S2 the sums of g and
g xhat over all pixels of all ranks, the gradient of the sum of all ranks' losses is
dx = rstd (g - q_r/m_r (S1 + xhat S2)). The passes over activations are ATen's own batch norm
kernels; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WEIGHTINGS = ("equal", "n", "nhw")


class Moments(NamedTuple):
    """Moments of one rank: samples n and pixels m (host integers), mean [c], biased var [c]."""

    samples: int
    pixels: int
    mean: Tensor
    var: Tensor


class Merged(NamedTuple):
    """Moments of a whole group, per channel [C] and per norm [K].

    Attributes:
        mean, var: merged mean and biased variance [C].
        share: q_r / m_r of this rank [C], 0 where it holds no pixel.
        unbiased: var * m / (m - 1) with m the pixels of all contributors [C].
        contributed: 1 where any rank contributed, else 0, int64 [K].
    """

    mean: Tensor
    var: Tensor
    share: Tensor
    unbiased: Tensor
    contributed: Tensor


def statistics_dtype(parameter: Tensor) -> torch.dtype:
    """float64 for a float64 norm, float32 for every other: half precision reduces in float32."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def dense(x: Tensor) -> Tensor:
    """x itself when it is contiguous or channels_last, a contiguous copy otherwise."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def dense_like(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the memory format of x, which is dense."""
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    return grad.contiguous(memory_format=layout)


def tensor_moments(x: Tensor, dtype: torch.dtype) -> Moments:
    """Moments of one non-empty dense tensor [B, c, H, W], in ``dtype``."""
    samples, channels = x.shape[:2]
    if x.is_cuda or x.dtype == dtype:
        mean, var = torch.ops.aten.batch_norm_update_stats(x, None, None, 0.0)
    else:  # the CPU kernel returns half precision unless full precision buffers come along
        scratch = torch.zeros(2, channels, dtype=dtype)
        mean, var = torch.ops.aten.batch_norm_update_stats(x, scratch[0], scratch[1], 0.0)
    return Moments(samples, x.numel() // channels, mean.to(dtype), var.to(dtype))


def local_moments(xs: Sequence[Tensor], dtype: torch.dtype) -> Moments:
    """Moments over all pixels of one rank's tensors (several: the batches of a multi-view task).

    Args:
        xs: dense tensors [B_i, c, H_i, W_i], empty ones allowed.
        dtype: of the result.

    Returns:
        Their moments; n = m = 0 and zeros when there is no pixel at all.
    """
    parts = [tensor_moments(x, dtype) for x in xs if x.numel()]
    if not parts:
        zeros = torch.zeros(xs[0].shape[1], dtype=dtype, device=xs[0].device)
        return Moments(0, 0, zeros, zeros)
    if len(parts) == 1:
        return parts[0]
    samples, pixels = sum(p.samples for p in parts), sum(p.pixels for p in parts)
    mean = sum(p.mean.double() * (p.pixels / pixels) for p in parts)
    var = sum((p.var + (p.mean - mean).square()) * (p.pixels / pixels) for p in parts)
    return Moments(samples, pixels, mean.to(dtype), var.to(dtype))


def per_channel(values: Tensor, channels: Sequence[int]) -> Tensor:
    """Repeat [..., K] values of norms over their channels: [..., C]."""
    if len(set(channels)) == 1:
        return values.unsqueeze(-1).expand(*values.shape, channels[0]).flatten(-2)
    columns = values.unsqueeze(-1).unbind(-2)
    return torch.cat([v.expand(*v.shape[:-1], c) for v, c in zip(columns, channels)], dim=-1)


def merge_moments(rows: Tensor, rank: int, channels: Sequence[int], weighting: str) -> Merged:
    """Merge the moments of all ranks, in rank order and double precision.

    Args:
        rows: [R, 2K + 2C], of every rank its n [K], m [K], mean [C], var [C].
        rank: row of this rank.
        channels: channels of each of the K norms.
        weighting: "equal", "n" or "nhw".

    Returns:
        The merged moments in the dtype of ``rows``; everything but ``share`` is bit-equal on all
        ranks.
    """
    norms, total = len(channels), sum(channels)
    samples, pixels, means, variances = rows.double().split([norms, norms, total, total], dim=1)
    present = (pixels > 0).double()
    weights = {"equal": present, "n": samples, "nhw": pixels}[weighting]
    q = weights / weights.sum(0).clamp(min=1)
    q_channel = per_channel(q, channels)
    mean = (q_channel * means).sum(0)
    var = (q_channel * (variances + (means - mean).square())).sum(0)
    count = pixels.sum(0)
    bessel = per_channel(count / (count - 1).clamp(min=1), channels)
    share = per_channel(q[rank] / pixels[rank].clamp(min=1), channels)
    return Merged(
        mean.to(rows.dtype),
        var.to(rows.dtype),
        share.to(rows.dtype),
        (var * bessel).to(rows.dtype),
        (count > 0).long(),
    )


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
) -> Tensor:
    """xhat * weight + bias in the dtype and memory format of a dense x; all else [c] in float."""
    if not x.numel():
        return torch.empty_like(x)
    if x.is_cuda:  # keeps channels_last, which batch_norm without cuDNN does not
        return torch.batch_norm_elemt(x, weight, bias, mean, (var + eps).rsqrt(), eps)
    return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, False)


def gradient_sums(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Sums of grad and of grad * xhat over the pixels of x: two vectors [c]."""
    if x.is_cuda:
        rstd = (var + eps).rsqrt()
        sum_grad, sum_centred, _, _ = torch.batch_norm_backward_reduce(
            grad, x, mean, rstd, weight, True, False, False
        )
        return sum_grad, sum_centred * rstd
    _, sum_xhat, sum_grad = torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, mean, var, None, None, False, eps, [False, True, True]
    )
    return sum_grad, sum_xhat


def input_gradient(
    grad: Tensor | None,
    x: Tensor,
    weight: Tensor,
    statistics: tuple[Tensor, Tensor, float],
    sums: tuple[Tensor, Tensor],
    share: Tensor,
) -> Tensor:
    """Gradient of x (formula of the module docstring), in two passes.

    Args:
        grad: gradient of the output, dense like x; None counts as zeros.
        weight: folded affine weight [c], so that g = weight * grad.
        statistics: merged mean [c], var [c] and eps.
        sums: S1 and S2 [c], over all ranks.
        share: q_r / m_r [c].
    """
    mean, var, eps = statistics
    rstd = (var + eps).rsqrt()
    factor = -rstd * share
    result = normalise(x, factor * sums[1], factor * sums[0], mean, var, eps)
    if grad is None:
        return result
    slope = weight * rstd
    if grad.is_cuda or grad.dtype == slope.dtype:
        return result.addcmul_(grad, slope.view(1, -1, 1, 1))
    # on the CPU addcmul would first convert all of its half precision operands
    zeros, ones = torch.zeros_like(slope), torch.ones_like(slope)
    return result.add_(torch.batch_norm(grad, slope, zeros, zeros, ones, False, 0.0, 0.0, False))
