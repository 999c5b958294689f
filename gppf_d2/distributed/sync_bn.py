"""Batch norm with statistics from every rank that runs the unit, whatever its task and shape.

One *norm position* of a layer (conv1's norms of all units, say) is one call of `sync_norms`: ONE
all_gather of local moments forward, ONE all_reduce of gradient sums backward, for all its norms.
Why ranks with different routes stay in step:

1. every rank calls every position in the same order with all its norms (no input: count 0);
2. what is sent depends on the norms alone, not on which have inputs or how inputs are fused;
3. the ``token`` threads all positions into one autograd chain: a position's backward waits for that
   of the position which consumed its token, so backward collectives come in reverse order on every
   rank. The caller adds the last token, times zero, to the loss: then even an idle rank takes part.

Gradients are those of the sum of all ranks' losses (`moments`); affine and gate gradients stay
local. ``group`` None, world size 1 and evaluation are nn.BatchNorm2d without any collective.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from gppf_d2.distributed import moments
from gppf_d2.distributed.norm_position import Entry, synchronise
from gppf_d2.distributed.statistics_cache import (
    StatisticsCache,
    record,
    replay,
    statistics_contexts,
)

__all__ = [
    "CrossTaskSyncBN",
    "StatisticsCache",
    "attach_statistics_group",
    "commit_statistics",
    "discard_statistics",
    "first_non_finite",
    "record",
    "replay",
    "statistics_contexts",
    "sync_norms",
]

_calls = itertools.count()


class CrossTaskSyncBN(NaiveSyncBatchNorm):
    """BatchNorm2d with statistics over all ranks of ``group`` (weightings: `moments`).

    Args:
        num_features: channels c.
        eps: added to the variance.
        momentum: of the running statistics; None for their cumulative average.
        weighting: "equal" per contributing rank, by samples ("n") or by pixels ("nhw").

    Attributes:
        group: process group of the statistics; None (the default, and what copies get) stays local.
        deferred: True keeps moved running statistics aside until `commit_statistics`.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        weighting: str = "equal",
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        if weighting not in moments.WEIGHTINGS:
            raise ValueError(
                f"weighting {weighting!r} is unknown: choose one of {', '.join(moments.WEIGHTINGS)}"
            )
        self.weighting = weighting
        self.group: dist.ProcessGroup | None = None
        self.deferred = False
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        self._observed: list[tuple[int, Tensor, Tensor]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have no partners and nothing pending."""
        return {**self.__dict__, "group": None, "_pending": None, "_observed": []}

    def extra_repr(self) -> str:
        """What BatchNorm2d prints, and the weighting."""
        return f"{super().extra_repr()}, weighting={self.weighting}"

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, c, H, W]. Collective in training with a group: all ranks must call."""
        outputs, _ = sync_norms([self], [[input]])
        return outputs[0][0]

    def moving_statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Running mean, variance and batch count as training moves them; pending if deferred."""
        buffers = self.running_mean, self.running_var, self.num_batches_tracked
        if not self.deferred:
            return buffers
        if self._pending is None:
            self._pending = tuple(buffer.clone() for buffer in buffers)
        return self._pending

    def observe(self, mean: Tensor, var: Tensor) -> None:
        """Remember this step's local moments for `first_non_finite`, in the order of the calls."""
        if not self.deferred:
            self._observed.clear()
        self._observed.append((next(_calls), mean, var))

    def settle(self, accept: bool) -> None:
        """End the step: pending running statistics become the buffers or are dropped."""
        if accept and self._pending is not None:
            buffers = self.running_mean, self.running_var, self.num_batches_tracked
            for buffer, value in zip(buffers, self._pending):
                buffer.copy_(value)
        self._pending = None
        self._observed.clear()


def sync_norms(
    norms: Sequence[CrossTaskSyncBN | Sequence[CrossTaskSyncBN]],
    inputs: Sequence[Sequence[Tensor] | None],
    scales: Sequence[Tensor | Sequence[Tensor | None] | None] | None = None,
    token: Tensor | None = None,
) -> tuple[list[list[Tensor] | None], Tensor]:
    """Apply all norms of one position. Collective in training with a group: all ranks must call.

    Args:
        norms: the entries of the position: a norm, or a sequence of norms whose inputs come fused,
            their channels one after another in one tensor. Flattened, the norms and their order are
            the same on every rank; the grouping may differ.
        inputs: per entry a list of tensors [B, c, H, W] (several: a multi-view batch, normalised
            together), or None where this rank does not run it.
        scales: per entry a gate (0-dim) that multiplies weight and bias, for a fused entry one gate
            for all or a sequence with one per norm; None for no gate. May differ from rank to rank.
        token: 0-dim tensor from the previous position, on the norms' device; None starts a chain.

    Returns:
        The outputs, aligned with ``inputs``, and the token for the next position.

    Raises:
        ValueError: an input whose channels are not those of its norms.
    """
    scales = [None] * len(norms) if scales is None else scales
    assert len(norms) == len(inputs) == len(scales) > 0, (
        f"{len(norms)} norms, {len(inputs)} inputs, {len(scales)} scales: give one of each an entry"
    )
    entries = [_entry(*columns) for columns in zip(norms, inputs, scales)]
    first = entries[0].norms[0]
    traits = {(n.training, n.group, n.weighting) for entry in entries for n in entry.norms}
    assert len(traits) == 1, "norms of a position must agree in training mode, group, weighting"
    if token is None:
        token = first.weight.new_zeros((), dtype=moments.statistics_dtype(first.weight))
    if not first.training:
        return [entry.evaluate() for entry in entries], token
    if first.group is None:
        return [entry.normalise_alone() for entry in entries], token
    if torch.is_grad_enabled() and not token.requires_grad:
        token = token.detach().requires_grad_()
    return synchronise(entries, first.group, token)


def _entry(
    norms: CrossTaskSyncBN | Sequence[CrossTaskSyncBN],
    tensors: Sequence[Tensor] | None,
    scales: Tensor | Sequence[Tensor | None] | None,
) -> Entry:
    norms = (norms,) if isinstance(norms, nn.Module) else tuple(norms)
    if scales is None or isinstance(scales, Tensor):
        scales = (scales,) * len(norms)
    return Entry(norms, list(tensors) if tensors else None, tuple(scales))


def _norms_of(model: nn.Module) -> Iterator[tuple[str, CrossTaskSyncBN]]:
    for name, module in model.named_modules():
        if isinstance(module, CrossTaskSyncBN):
            yield name, module


def attach_statistics_group(
    model: nn.Module, group: dist.ProcessGroup | None, deferred: bool | None = None
) -> None:
    """Give every CrossTaskSyncBN of a model its process group.

    Args:
        model: searched with its children.
        group: None, or a group of one rank: statistics stay local and no collective is issued.
        deferred: when not None, also set whether running statistics wait for `commit_statistics`.
    """
    if group is not None and dist.get_world_size(group) == 1:
        group = None
    for _, norm in _norms_of(model):
        norm.group = group
        if deferred is not None:
            norm.deferred = deferred


def commit_statistics(model: nn.Module) -> None:
    """The step is accepted: pending running statistics become the buffers."""
    for _, norm in _norms_of(model):
        norm.settle(accept=True)


def discard_statistics(model: nn.Module) -> None:
    """The step is refused: pending running statistics are dropped."""
    for _, norm in _norms_of(model):
        norm.settle(accept=False)


def first_non_finite(model: nn.Module) -> str | None:
    """Name of the norm that first met non-finite LOCAL moments since the last commit or discard.

    Local means: before the collective that would have spread them. Waits for the device once.

    Returns:
        The module's name in ``model``, or None when all were finite.
    """
    seen = [(*record, name) for name, norm in _norms_of(model) for record in norm._observed]
    if not seen:
        return None
    seen.sort(key=lambda item: item[0])
    finite = torch.stack([(mean + var).isfinite().all() for _, mean, var, _ in seen]).tolist()
    return next((name for (*_, name), good in zip(seen, finite) if not good), None)
