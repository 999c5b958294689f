"""One DataLoader per process that serves every task: workers = ranks x num_workers, never x tasks.

The sampler walks a copy of the stream plan and yields, micro-step by micro-step, the scheduled task
and its positions; a worker turns these into a ``Batch``. The result does not depend on the number
of workers. Whatever ends the loader is one sentence: a ``LoaderError``.
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from gppf_d2.data.batch import Batch
from gppf_d2.data.samples import BatchKey, Failure, LoaderError, Samples, TaskSource, one_line
from gppf_d2.tasks.stream import StreamPlan

__all__ = ["Batch", "LoaderError", "TaskSource", "TrainLoader", "build_train_loader"]

TERM_GRACE_SECONDS = 30
OPEN_FILES = 1 << 16


def build_train_loader(
    plan: StreamPlan,
    rank: int | Sequence[int],
    sources: Mapping[str, TaskSource],
    seed: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    prefetch_factor: int = 2,
) -> TrainLoader:
    """Build the one loader of a process; its workers start with the first batch that is asked for.

    Args:
        plan: where to start from; a copy is taken, so the caller's plan does not move.
        rank: the rank to load for, or the virtual ranks of this process, whose batches then follow
            each other in that order within every iteration.
        sources: the source of every task that the rank may run.
        seed: seed of the run.
        num_workers: worker processes; 0 loads in this process, with the same result.
        pin_memory: hand out batches in page-locked memory; without effect where there is no CUDA.
        prefetch_factor: batches that every worker prepares ahead.

    Returns:
        An endless iterator of ``Batch``, one per micro-step; close it when done.

    Raises:
        ValueError: a task without source or stream, or whose number of records is not the stream's.
    """
    ranks = (rank,) if isinstance(rank, int) else tuple(rank)
    tasks = list(dict.fromkeys(t for one in ranks for t in plan.schedule.tasks_of(one)))
    for task in tasks:
        _check_source(task, plan, sources)
    if num_workers < 0 or prefetch_factor < 1:
        raise ValueError(
            f"num_workers is {num_workers} and prefetch_factor {prefetch_factor}; they must be at "
            "least 0 and 1."
        )
    samples = Samples(
        {task: sources[task] for task in tasks}, {task: plan.streams[task] for task in tasks}, seed
    )
    if num_workers:
        allow_open_files()
    loader = DataLoader(
        samples,
        sampler=_ScheduledKeys(plan.copy(), ranks),  # type: ignore[arg-type]
        batch_size=None,  # a key is a whole batch already
        collate_fn=as_it_is,
        num_workers=num_workers,
        pin_memory=pin_memory and torch.cuda.is_available(),
        prefetch_factor=prefetch_factor if num_workers else None,
        worker_init_fn=prepare_worker,
        # DataLoader draws a seed for its workers that nobody uses: not from the global generator.
        generator=torch.Generator(),
    )
    return TrainLoader(loader)


class TrainLoader(Iterator[Batch]):
    """The batches of one process, endlessly; also a context manager that closes itself."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._batches: Iterator[Any] | None = None
        self._closed = False

    def __next__(self) -> Batch:
        """The batch of the next micro-step.

        Raises:
            LoaderError: samples cannot be read, the mapper failed, or a worker died.
            StopIteration: the loader was closed.
        """
        if self._closed:
            raise StopIteration
        try:
            if self._batches is None:
                self._batches = iter(self._loader)
            item = next(self._batches)
        except LoaderError:
            self.close()
            raise
        except RuntimeError as error:
            if not self._loader.num_workers:
                raise
            self.close()
            raise LoaderError(
                f"The data workers of this process cannot go on ({one_line(error)}); most often "
                "memory or shared memory ran out: lower num_workers or prefetch_factor."
            ) from error
        if isinstance(item, Failure):
            self.close()
            raise LoaderError(item.sentence) from RuntimeError(item.traceback)
        return item

    def close(self) -> None:
        """End the workers, dropping what they prepared; harmless when repeated."""
        self._closed = True
        batches, self._batches = self._batches, None
        if batches is not None and self._loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]

    def __enter__(self) -> TrainLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ScheduledKeys:
    """The sampler: walks the plan for some ranks, forever."""

    def __init__(self, plan: StreamPlan, ranks: Sequence[int]) -> None:
        self._plan = plan
        self._ranks = ranks

    def __iter__(self) -> Iterator[BatchKey]:
        while True:
            iteration = self._plan.iteration
            assignments = self._plan.next()
            for rank in self._ranks:
                task, micro_batches = assignments[rank].task, assignments[rank].micro_batches
                assert micro_batches is not None, f"rank {rank} has no stream for {task}"
                for micro_step, positions in enumerate(micro_batches):
                    yield BatchKey(task, rank, iteration, micro_step, positions)


def _check_source(task: str, plan: StreamPlan, sources: Mapping[str, TaskSource]) -> None:
    if task not in sources or task not in plan.streams:
        missing = "stream" if task in sources else "source"
        raise ValueError(
            f"This process may run task {task!r} but has no {missing} for it; it has sources for "
            f"{', '.join(sources) or 'none'} and streams for {', '.join(plan.streams) or 'none'}."
        )
    records, size = len(sources[task].records), plan.streams[task].size
    if records != size:
        raise ValueError(
            f"Task {task!r} has {records} records but a stream of {size}; build the stream with "
            "the number of records."
        )


def allow_open_files() -> None:
    """Raise this process's limit of open files, as far as the system lets it.

    Every tensor that a worker hands over is an open file until it is taken: a few batches of
    hundreds of images pass the usual limit of 1,024.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = OPEN_FILES if most == unlimited else min(OPEN_FILES, most)
    if now != unlimited and now < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def as_it_is(item: Any) -> Any:
    return item


def prepare_worker(worker_id: int) -> None:
    """Leave signals to the main process, which ends its workers after its last checkpoint.

    Ctrl-C and a scheduler's SIGTERM reach the workers as well; one that dies of them would fail the
    iteration that the main process is finishing. After a SIGTERM a worker lives
    ``TERM_GRACE_SECONDS``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(TERM_GRACE_SECONDS))
    cv2.setNumThreads(0)
