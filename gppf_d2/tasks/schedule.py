"""Which rank runs which task at which iteration: a pure function that every rank evaluates alone.

No rank asks another one: ``tasks_at(iteration)`` depends on (seed, iteration, world_size, weights,
policy) only, holds no state, and can be asked for any iteration in any order. Policies (GPPF,
section 3.2):

- ``sampled``: every rank draws its task by weight, independently (the paper's);
- ``stratified``: systematic sampling; the same marginals, but every iteration has floor or ceil of
  world_size * share ranks of each task;
- ``pinned``: a rank keeps its task for the whole run;
- ``per_batch``: all ranks run the same drawn task (the ablation that the paper reports as
  diverging).

Shares are exact: a weight of 0.1 counts as one tenth, and draws are compared in integers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate

from gppf_d2.tasks.random import hash64

POLICIES = ("sampled", "stratified", "pinned", "per_batch")


class Schedule:
    """The task of every rank at every iteration.

    Args:
        weights: sampling weight of each task, > 0, in the order of the config; any scale.
        world_size: number of ranks (virtual ones included), >= 1.
        policy: one of ``POLICIES``.
        seed: seed of the run.

    Raises:
        ValueError: an unknown policy, no task, a weight that is not positive, fewer ranks than
            tasks when ``pinned``.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        world_size: int,
        policy: str = "sampled",
        seed: int = 0,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(
                f"The schedule's policy is {policy!r}; choose one of {', '.join(POLICIES)}."
            )
        _check_world_size(world_size)
        self.tasks = tuple(weights)
        self.world_size = world_size
        self.policy = policy
        self.seed = seed
        self._weights = _integer_weights(weights)
        self._cumulative = tuple(accumulate(self._weights))
        self._pinned: tuple[str, ...] = ()
        if policy == "pinned":
            owners = allocate_ranks(weights, world_size)
            by_rank = {rank: task for task, ranks in owners.items() for rank in ranks}
            self._pinned = tuple(by_rank[rank] for rank in range(world_size))

    def tasks_at(self, iteration: int) -> tuple[str, ...]:
        """The task of every rank at an iteration.

        Args:
            iteration: number of the iteration, >= 0.

        Returns:
            One task name per rank, in rank order.
        """
        assert iteration >= 0, f"iterations count from 0, got {iteration}"
        if self.policy == "pinned":
            return self._pinned
        if self.policy == "per_batch":
            return (self._draw(hash64("per_batch", self.seed, iteration)),) * self.world_size
        if self.policy == "sampled":
            return tuple(
                self._draw(hash64("sampled", self.seed, iteration, rank))
                for rank in range(self.world_size)
            )
        return self._stratified(iteration)

    def ranks_of(self, iteration: int, task: str) -> tuple[int, ...]:
        """The ranks that run a task at an iteration, ascending; empty when nobody does.

        Raises:
            KeyError: the schedule has no such task.
        """
        if task not in self.tasks:
            raise KeyError(f"The schedule has no task {task!r}; it has {', '.join(self.tasks)}.")
        return self.ranks_by_task(iteration)[task]

    def ranks_by_task(self, iteration: int) -> dict[str, tuple[int, ...]]:
        """``ranks_of`` for all tasks of the schedule at once, in the schedule's order."""
        found: dict[str, list[int]] = {task: [] for task in self.tasks}
        for rank, task in enumerate(self.tasks_at(iteration)):
            found[task].append(rank)
        return {task: tuple(ranks) for task, ranks in found.items()}

    def tasks_of(self, rank: int) -> tuple[str, ...]:
        """The tasks that a rank may ever run: its own when ``pinned``, all of them otherwise."""
        assert 0 <= rank < self.world_size, f"rank {rank} of {self.world_size}"
        return (self._pinned[rank],) if self._pinned else self.tasks

    def wanted_share(self) -> dict[str, float]:
        """Each task's weight divided by the sum of the weights.

        The realised share comes close to it over time; under ``pinned`` only as close as whole
        ranks allow.
        """
        total = self._cumulative[-1]
        return {task: weight / total for task, weight in zip(self.tasks, self._weights)}

    @property
    def lacks_partners(self) -> bool:
        """Whether several tasks take turns in one process, never meeting in an iteration.

        Then nothing is averaged over tasks and no statistics are shared, which is the diverging
        ``per_batch`` of the paper; more processes or virtual ranks mend it.
        """
        return self.world_size == 1 and len(self.tasks) > 1

    def fingerprint(self) -> str:
        """Sixteen hex digits that are equal where two schedules are the same function."""
        keys: list[int | str] = ["schedule", self.policy, self.seed, self.world_size]
        for task, weight in zip(self.tasks, self._weights):
            keys += [task, weight]
        return f"{hash64(*keys):016x}"

    def _draw(self, bits: int) -> str:
        """The task at a fraction ``bits / 2**64`` of the cumulative weights."""
        return self.tasks[bisect_right(self._cumulative, bits * self._cumulative[-1] >> 64)]

    def _stratified(self, iteration: int) -> tuple[str, ...]:
        """World_size points, 1 / world_size apart from one random offset on, dealt to the ranks.

        Each point alone is uniform, hence the exact marginals; a task's interval of the cumulative
        weights holds floor or ceil of world_size * share of them.
        """
        offset = hash64("stratified", self.seed, iteration)
        dealt = sorted(
            range(self.world_size), key=lambda rank: hash64("deal", self.seed, iteration, rank)
        )
        tasks = [""] * self.world_size
        for point, rank in enumerate(dealt):
            tasks[rank] = self._draw(((point << 64) + offset) // self.world_size)
        return tuple(tasks)


def allocate_ranks(weights: Mapping[str, float], world_size: int) -> dict[str, tuple[int, ...]]:
    """Deal all ranks to the tasks for good, by weight, at least one each.

    Tasks whose share is less than one rank get one; the rest is dealt by the method of largest
    remainders, ties going to the task that comes first. A task's ranks are neighbours, so that its
    head's group stays on few machines.

    Args:
        weights: sampling weight of each task, > 0.
        world_size: number of ranks.

    Returns:
        The ranks of each task, in the order of ``weights``.

    Raises:
        ValueError: fewer ranks than tasks, no task, or a weight that is not positive.
    """
    integers = _integer_weights(weights)
    _check_world_size(world_size)
    if world_size < len(integers):
        raise ValueError(
            f"The policy 'pinned' needs a rank for each of the {len(integers)} tasks "
            f"({', '.join(weights)}), but there are {world_size}; start more processes, name fewer "
            "tasks, or choose the policy 'sampled' or 'stratified'."
        )
    shares = dict(zip(weights, integers))
    counts: dict[str, int] = {}
    while True:
        left = world_size - len(counts)
        total = sum(shares.values())
        small = [task for task, share in shares.items() if share * left < total]
        if not small:
            break
        for task in small:
            counts[task] = 1
            del shares[task]
    for task, share in shares.items():
        counts[task] = share * left // total
    by_remainder = sorted(shares, key=lambda task: -(shares[task] * left % total))
    for task in by_remainder[: world_size - sum(counts.values())]:
        counts[task] += 1
    ends = list(accumulate(counts[task] for task in weights))
    return {task: tuple(range(end - counts[task], end)) for task, end in zip(weights, ends)}


def _check_world_size(world_size: int) -> None:
    if world_size < 1:
        raise ValueError(f"The world size is {world_size}; a schedule needs at least one rank.")


def _integer_weights(weights: Mapping[str, float]) -> tuple[int, ...]:
    """Weights as the smallest integers in the same proportion, read as printed decimals."""
    if not weights:
        raise ValueError("A schedule needs at least one task; the config's `tasks` is empty.")
    for task, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(
                f"The sampling weight of task {task!r} is {weight}; it must be a positive number. "
                "Leave a task out with --tasks instead of giving it no weight."
            )
    fractions = [Fraction(repr(float(weight))) for weight in weights.values()]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    integers = [int(fraction * scale) for fraction in fractions]
    divisor = math.gcd(*integers)
    return tuple(integer // divisor for integer in integers)
