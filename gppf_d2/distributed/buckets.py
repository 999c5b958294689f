"""Flat gradient buckets: gradients as views into one tensor, contributor flags in its tail.

Layout of one bucket, all of one dtype on one device:

    [ gradient 0 | pad | gradient 1 | pad | ... | one flag per parameter | extra flags ]

A gradient is a view with its parameter's own strides, so later micro-steps accumulate in place and
nothing is copied out. The flags travel with the gradients: after the sum over ranks, flag j is the
number of ranks that used parameter j. A bucket knows how to travel (``launch``, ``wait``); in
which order the buckets travel is the business of ``task_average``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gppf_d2.distributed.collective_log import tag

ALIGNMENT = 16  # elements; keeps every view aligned for vectorised kernels
LAST_BUCKET_SHARE = 1 / 16


@dataclass(eq=False)
class Slot:
    """One parameter's place: its gradient's view and whether this rank used it in this iteration.

    Args:
        name: of the parameter.
        parameter: the parameter itself.
        task: whose head it belongs to, ``None`` for shared parameters.
        fired: whether autograd accumulated into it (in the virtual rank that is open).
        uses: contributors on this process that are closed already (virtual ranks).
        bucket: where its gradient lives; ``None`` at world size 1.
        view: its gradient; ``None`` at world size 1.
    """

    name: str
    parameter: nn.Parameter
    task: str | None
    fired: bool = False
    uses: int = 0
    bucket: Bucket | None = None
    view: Tensor | None = None


class Route(NamedTuple):
    """How a bucket travels in one iteration.

    Args:
        travels: whether there is a collective at all.
        sends: whether this rank's values matter: they are summed, sent, or kept.
        group: process group of the collective.
        source: rank that broadcasts; ``None`` for a sum over the group.
    """

    travels: bool
    sends: bool
    group: dist.ProcessGroup | None = None
    source: int | None = None


class Bucket:
    """Gradients of some parameters in one flat tensor.

    Args:
        label: its name in messages and in the collective log.
        slots: parameters of one dtype on one device, in the order of their views. May be empty.
        extra: number of extra flags behind those of the parameters.
        compress: send bfloat16 instead of the bucket's own dtype.
        device: of a bucket without slots.
    """

    def __init__(
        self,
        label: str,
        slots: Sequence[Slot],
        extra: int = 0,
        compress: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.label, self.slots = label, list(slots)
        self.task = slots[0].task if slots else None
        offsets, end = [], 0
        for slot in self.slots:
            offsets.append(end)
            end += -(-slot.parameter.numel() // ALIGNMENT) * ALIGNMENT
        device = slots[0].parameter.device if slots else device or torch.device("cpu")
        dtype = slots[0].parameter.dtype if slots else torch.float32
        self.flat = torch.zeros(end + len(slots) + extra, dtype=dtype, device=device)
        self.gradients = self.flat[:end]
        self.tail = self.flat[end:]
        self.extra = self.flat[end + len(slots) :]
        for slot, offset in zip(self.slots, offsets):
            slot.bucket, slot.view = self, _view(self.flat, offset, slot.parameter)
        compress = compress and dtype.itemsize > torch.bfloat16.itemsize
        self._wire = torch.empty_like(self.flat, dtype=torch.bfloat16) if compress else None
        self._staging = torch.zeros(len(slots), dtype=dtype, pin_memory=device.type == "cuda")
        self.reset(Route(travels=False, sends=False))

    def reset(self, route: Route) -> None:
        """Open an iteration; the values stay until gradients overwrite them.

        Args:
            route: how the bucket travels in this iteration.
        """
        self.route = route
        self.launched = False
        self.pending = 0
        self._work: Any = None
        self.extra.zero_()

    def take(self, slot: Slot) -> None:
        """Bring the gradient that autograd left in ``slot`` into the bucket.

        The first gradient of an iteration is copied, which is cheaper than adding it to zeros; from
        then on autograd accumulates into the view, unless it replaced the tensor.
        """
        slot.fired = True
        if slot.parameter.grad is not slot.view:
            slot.view.copy_(slot.parameter.grad)
            slot.parameter.grad = slot.view

    def _complete(self) -> None:
        """Write zeros where no gradient came, and the flags, without waiting for a device."""
        flags = [float(slot.fired) for slot in self.slots]
        if not any(flags):
            self.gradients.zero_()
        elif not all(flags):
            torch._foreach_zero_([slot.view for slot in self.slots if not slot.fired])
        self._staging.copy_(torch.tensor(flags, dtype=self._staging.dtype))
        self.tail[: len(flags)].copy_(self._staging, non_blocking=True)

    def launch(self) -> None:
        """Start the bucket's collective, if it travels.

        Collective: all ranks of the route's group must call.
        """
        assert not self.launched, f"{self.label} is launched already"
        self.launched = True
        if self.route.sends:
            self._complete()
        if not self.route.travels:
            return
        wire = self.flat if self._wire is None else self._wire.copy_(self.flat)
        group, source = self.route.group, self.route.source
        with tag(self.label):
            if source is None:
                self._work = dist.all_reduce(wire, group=group, async_op=True)
            else:
                self._work = dist.broadcast(wire, source, group=group, async_op=True)

    def wait(self) -> None:
        """Wait for the collective, on the device's stream where the backend can."""
        if self._work is None:
            return
        self._work.wait()
        self._work = None
        if self._wire is not None:
            self.flat.copy_(self._wire)

    def divide(self, counts: Sequence[int]) -> None:
        """Divide every gradient by its number of contributors; None where there are none."""
        for slot, count in zip(self.slots, counts):
            slot.parameter.grad = slot.view if count else None
        used = [count for count in counts if count]
        if used and min(used) == max(used):
            if used[0] > 1:
                self.gradients.div_(used[0])
            return
        views = [slot.view for slot, count in zip(self.slots, counts) if count > 1]
        if views:
            torch._foreach_div_(views, [float(count) for count in counts if count > 1])


def _view(flat: Tensor, offset: int, parameter: nn.Parameter) -> Tensor:
    """The gradient of one parameter inside ``flat``, with the parameter's strides where it is
    dense."""
    strides = torch.empty_like(parameter, device="meta").stride()
    return flat[offset : offset + parameter.numel()].as_strided(parameter.shape, strides)


def split_sizes(sizes: Sequence[int], limit: int, small_last: bool = False) -> list[int]:
    """Cut a sequence of sizes into consecutive runs that end once ``limit`` is reached.

    Args:
        sizes: of the elements, in bytes.
        limit: bytes after which a run ends.
        small_last: keep the end of the sequence, up to a sixteenth of ``limit``, as a run of its
            own: the last bucket completes when backward is over and cannot overlap with it.

    Returns:
        Lengths of the runs, their sum is ``len(sizes)``.
    """
    end = len(sizes)
    if small_last:
        room = limit * LAST_BUCKET_SHARE
        while end > 1 and sizes[end - 1] <= room:
            end -= 1
            room -= sizes[end]
    runs, length, filled = [], 0, 0
    for size in sizes[:end]:
        length, filled = length + 1, filled + size
        if filled >= limit:
            runs.append(length)
            length, filled = 0, 0
    runs.extend(run for run in (length, len(sizes) - end) if run)
    return runs


def build_buckets(
    label: str,
    slots: Sequence[Slot],
    bucket_bytes: int,
    compress: bool = False,
    extra: int = 0,
    device: torch.device | None = None,
) -> list[Bucket]:
    """Buckets for parameters in the order in which their gradients complete.

    Parameters of one dtype on one device keep their order; a bucket is closed at ``bucket_bytes``.

    Args:
        label: name of the family, for example ``shared`` or a task.
        slots: the parameters, first those whose gradient is complete first.
        bucket_bytes: bytes after which a bucket is closed.
        compress: send bfloat16.
        extra: number of extra flags behind the last bucket; with any, there is at least one bucket.
        device: of a bucket that holds flags alone; NCCL sends none that lies on the CPU.

    Returns:
        The buckets in launch order.
    """
    kinds: dict[tuple, list[Slot]] = {}
    for slot in slots:
        kinds.setdefault((slot.parameter.dtype, slot.parameter.device), []).append(slot)
    runs: list[list[Slot]] = []
    for members in kinds.values():
        sizes = [slot.parameter.numel() * slot.parameter.element_size() for slot in members]
        start = 0
        for length in split_sizes(sizes, bucket_bytes, small_last=extra > 0):
            runs.append(members[start : start + length])
            start += length
    if extra and not runs:
        runs.append([])
    position = {slot: index for index, slot in enumerate(slots)}
    runs.sort(key=lambda run: position[run[-1]] if run else 0)
    return [
        Bucket(f"{label} bucket {i}", run, extra if i == len(runs) - 1 else 0, compress, device)
        for i, run in enumerate(runs)
    ]


def describe(slots: Mapping[str, Slot]) -> dict[str, list]:
    """Name -> [shape, strides, dtype] as JSON-able values, to compare the layout over ranks."""
    return {
        name: [list(s.parameter.shape), list(s.parameter.stride()), str(s.parameter.dtype)]
        for name, s in slots.items()
    }
