"""The task average: every gradient divided by the number of ranks that used its parameter.

    g[p] = 1/|S_p| * sum over i in S_p of g_i[p]        (GPPF section 3.2; S_p: contributors)

i is in S_p if autograd accumulated into p on rank i in this iteration, over all its micro-steps; a
gradient that happens to be zero counts. Without a contributor p.grad is None on every rank (I3).

1. ``begin``: gradients are None; as they come they are moved into flat buckets and are views there.
2. ``backward``, once per micro-step. In the last one buckets travel while backward still runs:
   heads in task order, then shared parameters from the end of the network to its start.
3. ``finish``: what did not fire is flushed, one read of all counters, division.

Which gradients to wait for is read from the autograd graph. One that came after its bucket was
sent would be lost silently: that raises. The caller guarantees the same parameters in the same
order and the same ``ranks_of`` on all ranks. Gloo takes CUDA buckets too (it stages them through
pinned memory itself), so several processes may share a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gppf_d2.distributed.autograd_leaves import accumulator, leaves
from gppf_d2.distributed.bucket_queue import BucketQueue
from gppf_d2.distributed.buckets import Bucket, Route, Slot, build_buckets, describe
from gppf_d2.distributed.collective_log import tag
from gppf_d2.distributed.gradient_norm import scale_to, squared_norm
from gppf_d2.distributed.groups import ProcessGroups

BUCKET_BYTES = 25 << 20
FLAG_CAPACITY = 8
COMPRESSIONS = (None, "bf16")
BF16_EXACT = 256


@dataclass(frozen=True)
class SyncResult:
    """What an iteration's exchange brought besides the gradients.

    Args:
        counts: parameter name -> number of contributors |S_p|.
        flags: sum over ranks of the vectors given to ``finish`` [n], fp32 on the CPU.
    """

    counts: dict[str, int]
    flags: Tensor


class TaskAverage:
    """Averages gradients over their contributors. World size 1: no bucket, no collective.

    Args:
        shared: name -> parameter of backbone and controllers, in the order of the forward pass.
        heads: task -> name inside the head -> parameter, all tasks in task order; pinned: this
            rank's task alone. In results they are called ``heads.<task>.<name>``.
        groups: the process groups of this rank.
        world_size: number of ranks.
        rank: of this process.
        bucket_bytes: bytes after which a bucket is closed.
        compression: ``"bf16"`` halves the bytes that travel; gradients are rounded to bfloat16
            before and while they are summed, counts stay exact.
        pinned: heads are reduced inside ``groups.heads[task]``, not at all where that is ``None``.
        late: prefixes of shared names whose gradients complete last whatever their place in
            ``shared``: the gates of all layers are drawn before the first layer runs.

    Parameters that do not require gradients are left out.

    Raises:
        ValueError: an unknown compression, too many ranks for bfloat16 counts, a parameter twice.
    """

    def __init__(
        self,
        shared: Mapping[str, nn.Parameter],
        heads: Mapping[str, Mapping[str, nn.Parameter]],
        groups: ProcessGroups,
        world_size: int,
        rank: int,
        bucket_bytes: int = BUCKET_BYTES,
        compression: str | None = None,
        pinned: bool = False,
        late: Sequence[str] = ("controllers.",),
    ) -> None:
        _check_options(world_size, bucket_bytes, compression)
        self.groups, self.world_size, self.rank, self.pinned = groups, world_size, rank, pinned
        self.tasks = tuple(heads)
        self._settings = {"bucket_bytes": bucket_bytes, "compression": compression}
        shared = _late_first(shared, late)
        self.slots = _slots(shared, heads)
        self._by_id = {id(slot.parameter): slot for slot in self.slots.values()}
        self._queue: BucketQueue | None = None
        if world_size > 1:
            self._queue = BucketQueue(self._build(bucket_bytes, compression == "bf16"))
        self._nodes = {slot: accumulator(slot.parameter) for slot in self.slots.values()}
        self._handles = [
            node.register_hook(lambda _, incoming, slot=slot: self._accumulated(slot, incoming[0]))
            for slot, node in self._nodes.items()
        ]
        self._active = False
        self._ranks_of: dict[str, tuple[int, ...]] = {}
        self._result: SyncResult | None = None

    def _build(self, bucket_bytes: int, compress: bool) -> list[Bucket]:
        buckets: list[Bucket] = []
        for task in (*self.tasks, None):
            label, extra = ("shared", FLAG_CAPACITY) if task is None else (f"head {task}", 0)
            members = [slot for slot in self.slots.values() if slot.task == task][::-1]
            buckets += build_buckets(label, members, bucket_bytes, compress, extra, self._device)
        return buckets

    @property
    def _device(self) -> torch.device:
        """Where parameters are that train; the CPU where none does."""
        return next((s.parameter.device for s in self.slots.values()), torch.device("cpu"))

    @property
    def buckets(self) -> list[Bucket]:
        """The buckets in launch order; none at world size 1."""
        return self._queue.buckets if self._queue is not None else []

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()
        self._active = False

    def fingerprint(self) -> dict[str, object]:
        """What must be equal on all ranks, JSON-able (``consensus.compare``)."""
        common = {n: s for n, s in self.slots.items() if s.task is None or not self.pinned}
        return {"parameters": describe(common), "order": list(common), **self._settings}

    def begin(self, ranks_of: Mapping[str, Sequence[int]]) -> None:
        """Open an iteration: no gradients, and nobody has contributed.

        Args:
            ranks_of: task -> the ranks that run it in this iteration (virtual ranks at world size
                1). Heads that nobody runs are not sent, those of one rank are broadcast from it.

        Raises:
            KeyError: a task of ``heads`` is missing.
        """
        missing = [task for task in self.tasks if task not in ranks_of]
        if missing:
            raise KeyError(f"ranks_of lacks {missing}; it has {sorted(ranks_of)}: give every task")
        self._ranks_of = {task: tuple(ranks) for task, ranks in ranks_of.items()}
        self._active, self._result = True, None
        for slot in self.slots.values():
            slot.fired, slot.uses = False, 0
            slot.parameter.grad = None
        if self._queue is not None:
            self._queue.reset(self._route(bucket.task) for bucket in self.buckets)

    def _runs(self, task: str | None) -> bool:
        """Whether this rank may bring gradients for a head in this iteration; shared ones
        always."""
        return task is None or self.world_size == 1 or self.rank in self._ranks_of[task]

    def _route(self, task: str | None) -> Route:
        """How the gradients of a head (``None``: of the shared part) travel in this iteration."""
        if task is None:
            return Route(True, True, self.groups.gradients)
        ranks = self._ranks_of[task]
        if self.pinned:
            group = self.groups.heads.get(task)
            assert group is not None or len(ranks) == 1, f"{task!r} has {ranks} but no group"
            return Route(group is not None, True, group)
        if len(ranks) < 2:
            source = ranks[0] if ranks else None
            return Route(bool(ranks), self._runs(task), self.groups.gradients, source)
        return Route(True, True, self.groups.gradients)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Run ``loss.backward()``; in the last micro-step send the buckets while it runs.

        Collective: all ranks must call with ``last`` once, or go to ``finish`` directly.

        Args:
            loss: of one micro-step, divided by the micro-steps of a rank by the caller.
            last: no backward follows on this rank in this iteration. Without a meaning at world
                size 1.

        Raises:
            RuntimeError: a gradient came after its bucket was sent, or for a head that this rank
                does not run, or for a parameter that is not known here.
        """
        assert self._active, "backward belongs between begin and finish"
        if self._queue is None or not last:
            assert self._queue is None or not self._queue.is_open, "last=True comes last"
            loss.backward()
            return
        assert not self._queue.is_open, "last=True comes once an iteration"
        self._queue.open(list(self._expected(loss)))
        loss.backward()
        self._queue.flush()

    def _expected(self, loss: Tensor) -> Iterator[Slot]:
        """The parameters that this backward may bring gradients for."""
        for node, leaf in leaves(loss):
            slot = self._by_id.get(id(leaf))
            if slot is None and isinstance(leaf, nn.Parameter):
                raise RuntimeError(
                    f"the loss depends on a parameter of shape {list(leaf.shape)} that the task "
                    "average does not know: it was added or unfrozen after the run was set up"
                )
            if slot is None:
                continue
            if node is not None and node is not self._nodes[slot]:
                raise RuntimeError(
                    f"{slot.name} was moved or cast after the task average was built on it: its "
                    "gradient would not be noticed; move the model first"
                )
            yield slot

    def _accumulated(self, slot: Slot, incoming: Tensor | None) -> None:
        """Autograd is done with a parameter; ``incoming`` is None where no gradient came."""
        if not self._active:
            return
        if incoming is not None and not self._runs(slot.task):
            raise RuntimeError(
                f"{slot.name} got a gradient on rank {self.rank}, but the schedule gives task "
                f"{slot.task!r} to ranks {list(self._ranks_of[slot.task])}: it would be lost"
            )
        if self._queue is not None:
            self._queue.arrived(slot, incoming is not None)
        elif incoming is not None:
            slot.fired = True

    def next_virtual_rank(self) -> None:
        """Close one virtual rank's contribution; what follows belongs to the next one."""
        assert self.world_size == 1, "virtual ranks stand in for partners: world size 1 only"
        for slot in self.slots.values():
            slot.uses += slot.fired
            slot.fired = False

    def finish(self, flags: Tensor | None = None) -> SyncResult:
        """Send what is left, wait, divide; gradients without a contributor become None.

        Collective: all ranks must call, with ``flags`` of one length. Waits for the device once.

        Args:
            flags: at most eight small numbers of this rank [n] on which all ranks are to decide
                together, for example 1 where its loss was not finite.

        Returns:
            Contributor counts and the flags summed over the ranks.

        Raises:
            ValueError: too many flags.
        """
        assert self._active, "finish belongs after begin"
        flags = torch.zeros(0) if flags is None else flags.detach()
        if flags.numel() > FLAG_CAPACITY:
            raise ValueError(f"{flags.numel()} flags; a bucket's tail has room for {FLAG_CAPACITY}")
        if self._queue is None:
            counts, summed = self._finish_alone(), flags.float().cpu()
        else:
            tails = self._queue.collect(flags)
            counts = {}
            for bucket, tail in zip(self.buckets, tails):
                contributors = [round(count) for count in tail[: len(bucket.slots)]]
                bucket.divide(contributors)
                counts.update(zip((slot.name for slot in bucket.slots), contributors))
            summed = torch.tensor(tails[-1][len(self.buckets[-1].slots) :])[: flags.numel()]
        self._active = False
        self._result = SyncResult(counts, summed)
        return self._result

    def _finish_alone(self) -> dict[str, int]:
        self.next_virtual_rank()
        for slot in self.slots.values():
            gradient = slot.parameter.grad
            assert (gradient is not None) == (slot.uses > 0), (
                f"{slot.name}: {slot.uses} contributors noticed, but the gradient is "
                f"{'missing' if gradient is None else 'there'}; was the model moved after set-up?"
            )
            if slot.uses > 1:
                gradient.div_(slot.uses)
        return {name: slot.uses for name, slot in self.slots.items()}

    def grad_norm(self, result: SyncResult) -> Tensor:
        """Total 2-norm of the averaged gradients, every head counted once; equal on every rank.

        Collective when pinned (one scalar sum): all ranks must call. ``norm.isfinite()`` is the
        agreed answer to "is every averaged gradient finite"; a norm that overflows is not finite.

        Args:
            result: what ``finish`` of this iteration returned: there is no norm before it.

        Returns:
            The norm, 0-dim fp64, on the device of the gradients; 0 where there are none.
        """
        assert result is self._result, "grad_norm belongs to the iteration that finish closed last"
        shared = self._squared((None,))
        if not self.pinned or self.world_size == 1:
            return (shared + self._squared(self.tasks)).sqrt()
        owned = self._squared([t for t in self.tasks if min(self._ranks_of[t]) == self.rank])
        with tag("gradient norm"):
            dist.all_reduce(owned, group=self.groups.gradients)
        return (shared + owned).sqrt()

    def _squared(self, tasks: Sequence[str | None]) -> Tensor:
        parameters = [s.parameter for s in self.slots.values() if s.task in tasks]
        return squared_norm(parameters, self._device)

    def clip_(self, max_norm: float, norm: Tensor) -> None:
        """Scale all gradients so that their total norm is at most ``max_norm``.

        Args:
            max_norm: allowed norm, above 0.
            norm: what ``grad_norm`` returned; the caller has checked that it is finite.
        """
        scale_to([slot.parameter for slot in self.slots.values()], max_norm, norm)


def _check_options(world_size: int, bucket_bytes: int, compression: str | None) -> None:
    if compression not in COMPRESSIONS:
        raise ValueError(f"compression is {compression!r}; allowed are None and 'bf16'")
    if compression == "bf16" and world_size > BF16_EXACT:
        raise ValueError(
            f"compression 'bf16' counts contributors exactly up to {BF16_EXACT} ranks, not "
            f"{world_size}: use None"
        )
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes is {bucket_bytes}; give a number of bytes above 0")


def _late_first(shared: Mapping[str, nn.Parameter], late: Sequence[str]) -> dict[str, nn.Parameter]:
    """Shared parameters as if ``late`` ones were used first; a stable sort."""
    return dict(sorted(shared.items(), key=lambda item: not item[0].startswith(tuple(late))))


def _slots(
    shared: Mapping[str, nn.Parameter], heads: Mapping[str, Mapping[str, nn.Parameter]]
) -> dict[str, Slot]:
    """Name -> slot of every parameter that requires a gradient."""
    slots: dict[str, Slot] = {}
    owners: dict[int, str] = {}
    for task, family in [(None, shared), *heads.items()]:
        prefix = "" if task is None else f"heads.{task}."
        for inner, parameter in family.items():
            name = prefix + inner
            if not parameter.requires_grad:
                continue
            if name in slots or id(parameter) in owners:
                raise ValueError(
                    f"parameter {name!r} is also {owners.get(id(parameter), name)!r}: give each "
                    "parameter once, under one name"
                )
            slots[name] = Slot(name, parameter, task)
            owners[id(parameter)] = name
    return slots
