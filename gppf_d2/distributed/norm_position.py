"""One norm position of a layer: its entries, and one autograd function that normalises them all.

What a rank sends forward is one flat vector in the order of the position's norms, whatever has
inputs here::

    [n of each norm (K) | m of each norm (K) | mean of each channel (C) | variance (C)]

and backward [S1 (C) | S2 (C)], zeros where it has nothing (`moments` has the mathematics). Legend
as there. The function's node is part of the graph through its token even on a rank without a single
input, and accepts undefined gradients of any output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gppf_d2.distributed import moments
from gppf_d2.distributed.moments import Merged
from gppf_d2.distributed.statistics_cache import recording, replaying

if TYPE_CHECKING:
    from gppf_d2.distributed.sync_bn import CrossTaskSyncBN


@dataclass
class Entry:
    """Norms whose channels lie in one tensor, their gates, this rank's tensors (None: not run)."""

    norms: tuple[CrossTaskSyncBN, ...]
    tensors: list[Tensor] | None
    scales: tuple[Tensor | None, ...]

    def __post_init__(self) -> None:
        self.channels = sum(norm.num_features for norm in self.norms)
        self.eps = self.norms[0].eps
        assert len(self.scales) == len(self.norms), "give one scale per norm of a fused entry"
        assert all(norm.eps == self.eps for norm in self.norms), "a fused entry needs one eps"
        for x in self.tensors or ():
            if x.dim() != 4 or x.shape[1] != self.channels:
                raise ValueError(
                    f"input of shape {list(x.shape)} for norms of {self.channels} channels: "
                    f"give a tensor [B, {self.channels}, H, W]"
                )

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias [c] with the gates folded in, differentiable."""
        pairs = [
            (norm.weight, norm.bias) if u is None else (norm.weight * u, norm.bias * u)
            for norm, u in zip(self.norms, self.scales)
        ]
        weights, biases = zip(*pairs)
        return joined(weights), joined(biases)

    def evaluate(self) -> list[Tensor] | None:
        """Batch norm with the running statistics."""
        if self.tensors is None:
            return None
        mean = joined([norm.running_mean for norm in self.norms])
        var = joined([norm.running_var for norm in self.norms])
        affine = self.affine()
        return [F.batch_norm(x, mean, var, *affine, False, 0.0, self.eps) for x in self.tensors]

    def normalise_alone(self) -> list[Tensor] | None:
        """Training without partners: torch's own batch norm, of several tensors' union."""
        if self.tensors is None:
            return None
        if len(self.tensors) > 1:
            return synchronise([self], None, self.tensors[0].new_zeros(()))[0][0]
        x = self.tensors[0]
        momenta = {norm.momentum for norm in self.norms}
        if len(self.norms) > 1 and (len(momenta) > 1 or None in momenta):
            return [torch.cat([part.normalise_alone()[0] for part in self._apart(x)], dim=1)]
        return [self._train_alone(x, momenta.pop())]

    def _apart(self, x: Tensor) -> list[Entry]:
        x = moments.dense(x)
        parts = x.split([norm.num_features for norm in self.norms], dim=1)
        return [
            Entry((norm,), [moments.dense_like(part, x)], (gate,))
            for norm, part, gate in zip(self.norms, parts, self.scales)
        ]

    def _train_alone(self, x: Tensor, momentum: float | None) -> Tensor:
        moving = [norm.moving_statistics() for norm in self.norms]
        if replaying() is not None:  # move copies: what autograd saves must match the first run
            moving = [tuple(buffer.clone() for buffer in buffers) for buffers in moving]
        for _, _, batches in moving:
            batches.add_(1)
        if momentum is None:
            momentum = 1.0 / float(moving[0][2])
        mean, var = joined([m for m, _, _ in moving]), joined([v for _, v, _ in moving])
        y = F.batch_norm(x, mean, var, *self.affine(), True, momentum, self.eps)
        if len(self.norms) > 1:
            channels = [norm.num_features for norm in self.norms]
            for (m, v, _), new_m, new_v in zip(moving, mean.split(channels), var.split(channels)):
                m.copy_(new_m)
                v.copy_(new_v)
        if replaying() is None:
            for norm, (m, v, _) in zip(self.norms, moving):
                norm.observe(m, v)
        return y


def joined(vectors: Sequence[Tensor]) -> Tensor:
    """One vector of all, the vector itself when there is one."""
    return vectors[0] if len(vectors) == 1 else torch.cat(list(vectors))


def synchronise(
    entries: Sequence[Entry], group: dist.ProcessGroup | None, token: Tensor
) -> tuple[list[list[Tensor] | None], Tensor]:
    """Normalise all entries with the group's merged statistics.

    Collective: all ranks of the group must call.

    Args:
        entries: of the whole position, with and without tensors.
        group: None merges this rank's tensors alone.
        token: see `sync_norms`.

    Returns:
        Outputs aligned with the entries, and the next token.
    """
    position = _Position(entries, group)
    arguments = []
    for entry in entries:
        if entry.tensors is None:
            continue
        affine = [parameter.to(position.dtype) for parameter in entry.affine()]
        arguments += [*affine, *(moments.dense(x) for x in entry.tensors)]
    token, *flat = _SyncedNorms.apply(position, token, *arguments)
    remaining = iter(flat)
    outputs = [None if e.tensors is None else [next(remaining) for _ in e.tensors] for e in entries]
    return outputs, token


class _Place(NamedTuple):
    """Where an entry with tensors lies: its channels, its arguments (weight, bias, tensors)."""

    channels: slice
    arguments: slice
    eps: float


class _Position:
    """Where each entry's channels and arguments lie, and how its statistics come about."""

    def __init__(self, entries: Sequence[Entry], group: dist.ProcessGroup | None) -> None:
        self.entries, self.group = entries, group
        self.norms = [norm for entry in entries for norm in entry.norms]
        self.channels = [norm.num_features for norm in self.norms]
        self.dtype = moments.statistics_dtype(self.norms[0].weight)
        self.places: list[_Place] = []
        channel = argument = 0
        for entry in entries:
            if entry.tensors is not None:
                end = argument + 2 + len(entry.tensors)
                span = slice(channel, channel + entry.channels)
                self.places.append(_Place(span, slice(argument, end), entry.eps))
                argument = end
            channel += entry.channels

    def statistics(self, arguments: Sequence[Tensor], like: Tensor) -> Merged:
        """The merged moments: gathered (one collective) and accounted for, or replayed."""
        replayed, recorded = replaying(), recording()
        if replayed is not None and self.group is not None:
            return replayed.take()
        row = self._row(arguments, like)
        rank = 0 if self.group is None else dist.get_rank(self.group)
        rows = row.unsqueeze(0) if self.group is None else _gather(row, self.group)
        merged = moments.merge_moments(rows, rank, self.channels, self.norms[0].weighting)
        if replayed is None:
            self._observe(row)
            self._move_running_statistics(merged)
        if recorded is not None and self.group is not None:
            recorded.store(merged)
        return merged

    def _row(self, arguments: Sequence[Tensor], like: Tensor) -> Tensor:
        """This rank's flat vector [2K + 2C]; counts are filled in, not copied to the device."""
        samples, pixels, means, variances = [], [], [], []
        places = iter(self.places)
        for entry in self.entries:
            if entry.tensors is None:
                zeros = like.new_zeros(entry.channels, dtype=self.dtype)
                local = moments.Moments(0, 0, zeros, zeros)
            else:
                xs = arguments[next(places).arguments][2:]
                local = moments.local_moments(xs, self.dtype)
            samples += [local.samples] * len(entry.norms)
            pixels += [local.pixels] * len(entry.norms)
            means.append(local.mean)
            variances.append(local.var)
        counts = [
            like.new_full((len(list(run)),), float(count), dtype=self.dtype)
            for count, run in groupby(samples + pixels)
        ]
        return torch.cat([*counts, *means, *variances])

    def _observe(self, row: Tensor) -> None:
        _, means, variances = row.split([2 * len(self.norms), *[sum(self.channels)] * 2])
        local = zip(means.split(self.channels), variances.split(self.channels))
        runs = chain.from_iterable([e.tensors is not None] * len(e.norms) for e in self.entries)
        for norm, (mean, var), run in zip(self.norms, local, runs):
            if run:
                norm.observe(mean, var)

    def _move_running_statistics(self, merged: Merged) -> None:
        """Move all running statistics; where nobody contributed the factor is 0."""
        means, variances, batches = zip(*(norm.moving_statistics() for norm in self.norms))
        torch._foreach_add_(batches, merged.contributed.unbind())
        contributed = merged.contributed.to(merged.mean.dtype)
        factors = [
            c / b.clamp(min=1) if norm.momentum is None else c * norm.momentum
            for c, b, norm in zip(contributed.unbind(), batches, self.norms)
        ]
        new = [*merged.mean.split(self.channels), *merged.unbiased.split(self.channels)]
        for buffer, value, factor in zip([*means, *variances], new, factors * 2):
            buffer.lerp_(value.to(buffer.dtype), factor.to(buffer.dtype))


def _gather(row: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The vectors of all ranks [R, ...] in rank order. Collective: all ranks must call."""
    rows = row.new_empty(dist.get_world_size(group), row.numel())
    if dist.get_backend(group) == "nccl":
        dist.all_gather_into_tensor(rows, row, group=group)
    else:
        dist.all_gather(list(rows.unbind()), row, group=group)
    return rows


class _SyncedNorms(torch.autograd.Function):
    """Arguments: position, token, then weight, bias and tensors of each entry that has tensors."""

    @staticmethod
    def forward(ctx, position: _Position, token: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
        merged = position.statistics(arguments, token)
        outputs = []
        for span, part, eps in position.places:
            weight, bias, *xs = arguments[part]
            mean, var = merged.mean[span], merged.var[span]
            outputs += [moments.normalise(x, weight, bias, mean, var, eps) for x in xs]
        # not the position itself: it holds the tensors, which checkpointing must be able to free
        ctx.places, ctx.group = position.places, position.group
        ctx.save_for_backward(token, merged.mean, merged.var, merged.share, *arguments)
        ctx.set_materialize_grads(False)
        return token.clone(), *outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, token_grad: Tensor | None, *grads: Tensor | None) -> tuple:
        token, mean, var, share, *arguments = ctx.saved_tensors
        results: list[Tensor | None] = [None] * len(arguments)
        sums = mean.new_zeros(2, len(mean))
        remaining = iter(grads)
        dense: list[Tensor | None] = [None] * len(arguments)  # gradients of the outputs
        for span, part, eps in ctx.places:
            weight, _, *xs = arguments[part]
            local = []
            for place, (x, grad) in enumerate(zip(xs, remaining), start=part.start + 2):
                if grad is not None and x.numel():
                    dense[place] = grad = moments.dense_like(grad, x)
                    local.append(moments.gradient_sums(grad, x, weight, mean[span], var[span], eps))
            if local:
                sum_grad, sum_xhat = (sum(column) for column in zip(*local))
                results[part.start : part.start + 2] = sum_xhat, sum_grad
                torch.mul(weight, sum_grad, out=sums[0, span])
                torch.mul(weight, sum_xhat, out=sums[1, span])
        if ctx.group is not None:
            dist.all_reduce(sums, group=ctx.group)
        for span, part, eps in ctx.places:
            merged = mean[span], var[span], eps
            for place in range(part.start + 2, part.stop):
                if ctx.needs_input_grad[2 + place]:
                    results[place] = moments.input_gradient(
                        dense[place],
                        arguments[place],
                        arguments[part.start],
                        merged,
                        (sums[0, span], sums[1, span]),
                        share[span],
                    )
        return None, torch.zeros_like(token) if token_grad is None else token_grad, *results
