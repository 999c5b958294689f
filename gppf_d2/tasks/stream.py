"""The endless, resumable order of one task's samples, and what every rank takes from it.

A stream is a function from a position (epoch, offset) to the index of a record: in each epoch a
keyed permutation of the records, evaluated per index, so that 11 million samples cost no memory and
no shuffle. The key is (seed, task, epoch); ranks do not enter. The ranks that run a task in an
iteration take consecutive slices, in rank order, so an epoch holds each sample once whatever the
number of ranks, and a position is all there is to resume, on any world size. Batches run across the
ends of epochs.

``StreamPlan`` adds the schedule: it walks the iterations and says which positions each rank takes.
The loader owns a copy that runs ahead; the trainer owns one that moves when an iteration was
consumed, and that one goes into the checkpoint.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any, NamedTuple

from gppf_d2.tasks.permutation import KeyedPermutation
from gppf_d2.tasks.random import hash64
from gppf_d2.tasks.schedule import Schedule


class Position(NamedTuple):
    """A place in a stream: ``offset`` samples into epoch number ``epoch``, both from 0."""

    epoch: int
    offset: int


class Stream:
    """One order of a task's records, a pure function of (seed, task, epoch).

    With repeat factors an epoch holds record i floor(r_i) or ceil(r_i) times, r_i times in the
    mean: the factors are laid end to end and cut at whole numbers plus one random offset per epoch.
    So the length of an epoch and the record of any position need no table per epoch.

    Args:
        task: name of the task; part of the key.
        size: number of records, >= 1.
        seed: seed of the run.
        repeat_factors: ``size`` numbers > 0 whose sum is at least 1, or None for once each.

    Raises:
        ValueError: no record, or factors that do not fit.
    """

    def __init__(
        self,
        task: str,
        size: int,
        seed: int,
        repeat_factors: Sequence[float] | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(
                f"Task {task!r} has no training record; check the folder and the filters of its "
                "dataset."
            )
        self.task = task
        self.size = size
        self.seed = seed
        self._ends: array | None = None
        if repeat_factors is not None:
            self._ends = _cumulative_factors(task, size, repeat_factors)
        self._epoch_order: tuple[int, KeyedPermutation] | None = None

    def epoch_length(self, epoch: int) -> int:
        """Number of samples that an epoch holds."""
        if self._ends is None:
            return self.size
        return self._ends[-1] + self._cut(epoch) >> 32

    def index(self, position: Position) -> int:
        """The record at a position, in [0, size)."""
        epoch, offset = position
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            key = hash64("stream", self.seed, self.task, epoch)
            self._epoch_order = (epoch, KeyedPermutation(self.epoch_length(epoch), key))
        slot = self._epoch_order[1](offset)
        if self._ends is None:
            return slot
        return bisect_left(self._ends, (slot + 1 << 32) - self._cut(epoch))

    def take(self, position: Position, count: int) -> tuple[list[Position], Position]:
        """The next ``count`` positions from ``position`` on, and the position after them."""
        epoch, offset = position
        taken: list[Position] = []
        while count:
            length = self.epoch_length(epoch)
            stop = min(offset + count, length)
            taken += map(Position, repeat(epoch), range(offset, stop))
            count -= stop - offset
            epoch, offset = (epoch + 1, 0) if stop == length else (epoch, stop)
        return taken, Position(epoch, offset)

    def advance(self, position: Position, count: int) -> Position:
        """The position ``count`` samples after ``position``, without listing those between."""
        epoch, offset = position[0], position[1] + count
        if self._ends is None:
            return Position(epoch + offset // self.size, offset % self.size)
        while offset >= (length := self.epoch_length(epoch)):
            epoch, offset = epoch + 1, offset - length
        return Position(epoch, offset)

    @property
    def repeats(self) -> int:
        """Sum of the repeat factors in units of 2**-32; 0 without factors."""
        return 0 if self._ends is None else self._ends[-1]

    def _cut(self, epoch: int) -> int:
        """The epoch's offset of the cuts, in units of 2**-32."""
        return hash64("repeat", self.seed, self.task, epoch) >> 32


def _cumulative_factors(task: str, size: int, factors: Sequence[float]) -> array:
    """Running sums in units of 2**-32: integers, so that floor and ceil are exact."""
    if len(factors) != size:
        raise ValueError(f"Task {task!r} has {size} records but {len(factors)} repeat factors.")
    for index, factor in enumerate(factors):
        if not factor > 0:
            raise ValueError(
                f"Task {task!r}: the repeat factor of record {index} is {factor}; "
                "it must be positive."
            )
    total = sum(factors)
    if not 1 <= total < 2**31:
        raise ValueError(
            f"Task {task!r}: the repeat factors make an epoch of {total} samples; "
            "it must hold between 1 and 2**31."
        )
    return array("Q", accumulate(max(1, round(factor * 2**32)) for factor in factors))


@dataclass(frozen=True)
class Assignment:
    """What one rank does in one iteration: its task, and the slice of the task's stream it takes.

    Args:
        task: name of the task.
        stream: the task's stream; None where this process does not hold it.
        start: first position of the slice; None without a stream.
        batch_size: samples per micro-step.
        accumulation: micro-steps of the iteration.
    """

    task: str
    stream: Stream | None = None
    start: Position | None = None
    batch_size: int = 0
    accumulation: int = 1

    @property
    def micro_batches(self) -> list[list[Position]] | None:
        """The positions of every micro-step, ``accumulation`` lists; None without a stream.

        Computed when asked for: a rank needs its own, and the others' only where they end.
        """
        if self.stream is None or self.start is None:
            return None
        taken, _ = self.stream.take(self.start, self.batch_size * self.accumulation)
        return [
            taken[first : first + self.batch_size]
            for first in range(0, len(taken), self.batch_size)
        ]


class StreamPlan:
    """Walks the iterations: who runs what, on which samples.

    Args:
        schedule: task of every rank at every iteration.
        streams: stream of each task. Under ``pinned`` a process may leave out those of other ranks.
        batch_sizes: samples per rank and micro-step, of every task that has a stream.
        accumulation: micro-steps per iteration; a rank takes that many consecutive batches.

    Attributes:
        iteration: number of the next iteration.
        positions: where each held stream goes on in the next iteration.

    Raises:
        ValueError: a stream of a task that the schedule does not have, or without a batch size.
    """

    def __init__(
        self,
        schedule: Schedule,
        streams: Mapping[str, Stream],
        batch_sizes: Mapping[str, int],
        accumulation: int = 1,
    ) -> None:
        for task in streams:
            if task not in schedule.tasks:
                raise ValueError(
                    f"There is a stream for {task!r}, but the schedule has "
                    f"{', '.join(schedule.tasks)}."
                )
            if batch_sizes.get(task, 0) < 1:
                raise ValueError(
                    f"Task {task!r} has batch size {batch_sizes.get(task)}; it needs at least 1."
                )
        if accumulation < 1:
            raise ValueError(f"The accumulation is {accumulation} micro-steps; it is at least 1.")
        self.schedule = schedule
        self.streams = dict(streams)
        self.batch_sizes = dict(batch_sizes)
        self.accumulation = accumulation
        self.iteration = 0
        self.positions = {task: Position(0, 0) for task in self.streams}

    def next(self) -> list[Assignment]:
        """The assignments of all ranks for the current iteration; moves on to the next one."""
        assignments = []
        for task in self.schedule.tasks_at(self.iteration):
            stream = self.streams.get(task)
            if stream is None:
                assignments.append(Assignment(task))
                continue
            start, size = self.positions[task], self.batch_sizes[task]
            assignments.append(Assignment(task, stream, start, size, self.accumulation))
            self.positions[task] = stream.advance(start, size * self.accumulation)
        self.iteration += 1
        return assignments

    def copy(self) -> StreamPlan:
        """A plan at the same place that moves on its own; schedule and streams are shared."""
        twin = StreamPlan(self.schedule, self.streams, self.batch_sizes, self.accumulation)
        twin.iteration, twin.positions = self.iteration, dict(self.positions)
        return twin

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: plain integers in plain dicts, independent of the world size.

        Under ``pinned`` it has the streams of this process; ``merge_states`` unites those of all.
        """
        streams = {
            task: {
                "epoch": position.epoch,
                "offset": position.offset,
                "size": self.streams[task].size,
                "repeats": self.streams[task].repeats,
            }
            for task, position in self.positions.items()
        }
        return {"iteration": self.iteration, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any], allow_task_changes: bool = False) -> None:
        """Go on where a plan of any world size stopped.

        Args:
            state: of ``state_dict`` or ``merge_states``.
            allow_task_changes: let tasks come (their streams start at the beginning), go (theirs
                are dropped) and change their number of records or repeat factors (theirs go on with
                the next epoch, as positions within an epoch mean nothing in another order).

        Raises:
            ValueError: tasks or datasets differ and ``allow_task_changes`` is off; nothing is
                loaded.
        """
        saved = state["streams"]
        positions = {}
        for task, stream in self.streams.items():
            entry = saved.get(task)
            if entry is None:
                positions[task] = Position(0, 0)
            elif (entry["size"], entry["repeats"]) == (stream.size, stream.repeats):
                positions[task] = Position(entry["epoch"], entry["offset"])
            else:
                positions[task] = Position(entry["epoch"] + (entry["offset"] > 0), 0)
        changes = self._changes(saved)
        if changes and not allow_task_changes:
            raise ValueError(
                f"The checkpoint's streams do not fit this run: {'; '.join(changes)}. "
                "Use that run's tasks and datasets, or allow changes with --allow-task-changes."
            )
        self.iteration, self.positions = state["iteration"], positions

    def _changes(self, saved: Mapping[str, Mapping[str, int]]) -> list[str]:
        changes = [f"task {t!r} is not in this run" for t in saved if t not in self.schedule.tasks]
        for task, stream in self.streams.items():
            if task not in saved:
                changes.append(f"task {task!r} is not in the checkpoint")
            elif saved[task]["size"] != stream.size:
                changes.append(
                    f"task {task!r} had {saved[task]['size']} records and has {stream.size} now"
                )
            elif saved[task]["repeats"] != stream.repeats:
                changes.append(f"task {task!r} had other repeat factors")
        return changes


def merge_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Unite the states of plans that hold different streams (the ranks of a ``pinned`` run).

    Args:
        states: ``StreamPlan.state_dict`` of every rank, at the same iteration.

    Returns:
        One state with every task, sorted by name.
    """
    merged: dict[str, Any] = {}
    iterations = set()
    for state in states:
        iterations.add(state["iteration"])
        for task, entry in state["streams"].items():
            assert merged.setdefault(task, entry) == entry, f"ranks disagree about stream {task!r}"
    assert len(iterations) == 1, f"ranks stand at iterations {sorted(iterations)}"
    return {"iteration": iterations.pop(), "streams": dict(sorted(merged.items()))}
