"""The process groups of a run: one for each kind of traffic.

Two asynchronous collectives of the same size in one group, issued in another order on another rank,
return mixed-up sums without an error. Gradient buckets become ready at different moments on ranks
with different tasks, while the backward of the synchronised norms is still issuing its own
collectives. So every kind of traffic has a group of its own (invariant I2): within each, the order
is the same on all ranks, and between groups it does not matter.

- ``gradients``: the buckets of the task average (all ranks);
- ``statistics``: the moments of the synchronised norms (all ranks);
- ``control``: agreements, metrics, Python objects; always gloo with CPU tensors (all ranks);
- ``heads``: pinned schedules only, per task the ranks that hold its head.

On GPUs two NCCL groups are then in flight at once: leave CUDA_DEVICE_MAX_CONNECTIONS above 1.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from gppf_d2.tasks.schedule import Schedule

DEFAULT_TIMEOUT = 24 * 3600.0


@dataclass
class ProcessGroups:
    """Groups of one rank; all ``None`` and empty at world size 1.

    Args:
        gradients: all ranks, buckets of the task average.
        statistics: all ranks, moments of the synchronised norms.
        control: all ranks, gloo, CPU tensors and objects.
        heads: task -> group of the ranks that hold its head, ``None`` where this rank is not one of
            them or where it is the only one. Empty unless the schedule is pinned.
        head_ranks: task -> the ranks that hold its head; empty unless the schedule is pinned.
    """

    gradients: dist.ProcessGroup | None = None
    statistics: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None
    heads: dict[str, dist.ProcessGroup | None] = field(default_factory=dict)
    head_ranks: dict[str, tuple[int, ...]] = field(default_factory=dict)


def pinned_ranks(schedule: Schedule) -> dict[str, tuple[int, ...]]:
    """Task -> its ranks under a pinned schedule, in task order."""
    assert schedule.policy == "pinned", f"a {schedule.policy!r} schedule pins no ranks"
    return {task: tuple(schedule.ranks_of(0, task)) for task in schedule.tasks}


def build_groups(
    schedule: Schedule | None,
    rank: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    world_size: int | None = None,
) -> ProcessGroups:
    """Build the groups of this rank.

    Collective: all ranks must call, with the same schedule. Dead and hung ranks are the heartbeat's
    business, so ``timeout`` should be far above ``train.timeout``: one rank may evaluate or save
    for long while the others wait.

    Args:
        schedule: its pinned ranks become the groups of the heads; ``None`` or another policy: none.
        rank: of this process; by default the one in the default group.
        timeout: seconds until a collective of these groups gives up.
        world_size: by default the size of the default group, 1 where there is none.

    Returns:
        The groups; all ``None`` at world size 1, where nothing is called.

    Raises:
        ValueError: the schedule was made for another world size.
    """
    if world_size is None:
        world_size = dist.get_world_size() if dist.is_initialized() else 1
    if schedule is not None and schedule.world_size != world_size and world_size > 1:
        raise ValueError(
            f"the schedule is for {schedule.world_size} ranks but {world_size} are running; "
            "build it with the world size of this run"
        )
    if world_size == 1:
        return ProcessGroups()
    rank = dist.get_rank() if rank is None else rank
    limit = datetime.timedelta(seconds=timeout)
    groups = ProcessGroups(
        gradients=dist.new_group(timeout=limit),
        statistics=dist.new_group(timeout=limit),
        control=dist.new_group(timeout=limit, backend="gloo"),
    )
    if schedule is not None and schedule.policy == "pinned":
        groups.head_ranks = pinned_ranks(schedule)
        groups.heads = build_head_groups(groups.head_ranks, rank, limit)
    return groups


def build_head_groups(
    head_ranks: Mapping[str, Sequence[int]], rank: int, timeout: datetime.timedelta
) -> dict[str, dist.ProcessGroup | None]:
    """Per task the group of its ranks, ``None`` for one rank and for tasks of other ranks.

    Collective: all ranks must call; every rank creates every group, in task order.
    """
    heads: dict[str, dist.ProcessGroup | None] = {}
    for task, ranks in head_ranks.items():
        group = dist.new_group(list(ranks), timeout=timeout) if len(ranks) > 1 else None
        heads[task] = group if rank in ranks else None
    return heads
