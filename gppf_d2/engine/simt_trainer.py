"""The SIMT step (GPPF section 3.2): every process runs ONE task, different ones different tasks.

``run_step`` reads like the paper. The communication in it, in order, the same on every rank
whatever its task:

1. forward: one all_gather per norm position of the backbone, statistics group
   (``distributed.sync_bn``);
2. backward: one all_reduce per norm position, statistics group, while gradient buckets leave in one
   fixed order in the gradient group (``distributed.task_average``), contributor counts and the
   flags of rank-wide decisions in their tails;
3. the buffers of heads that ran (``distributed.head_buffers``), gradient group.

Nothing is decided by one rank alone: whether the step is accepted, whether to stop, follows from
numbers that are equal everywhere after 2.
"""

from __future__ import annotations

import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage

from gppf_d2.data.loader import Batch
from gppf_d2.distributed.collective_log import CollectiveLog
from gppf_d2.distributed.groups import ProcessGroups
from gppf_d2.distributed.head_buffers import HeadBuffers
from gppf_d2.distributed.sync_bn import commit_statistics, discard_statistics, first_non_finite
from gppf_d2.distributed.task_average import SyncResult, TaskAverage
from gppf_d2.engine.ema import ParameterEMA
from gppf_d2.engine.errors import Interrupted, NonFiniteError
from gppf_d2.engine.metrics import TaskMetrics
from gppf_d2.engine.optimizer import LearningRate, LossScale
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.tasks.random import hash64
from gppf_d2.tasks.schedule import Schedule
from gppf_d2.tasks.spec import Task
from gppf_d2.tasks.stream import StreamPlan

logger = logging.getLogger(__name__)

NAMED_FILES = 10  # unreadable files that the log names, per task
NON_FINITE, STOP = 0, 1  # places in the flags that ride with the gradients


@dataclass
class StepOptions:
    """How a step is taken; see ``configs/common/base.py`` for each field.

    ``amp`` is None or the autocast dtype; ``clip_norm`` 0 clips nothing; ``virtual_ranks`` is for
    one process.
    """

    seed: int = 0
    accumulation: int = 1
    virtual_ranks: int = 1
    clip_norm: float = 0.0
    amp: torch.dtype | None = None
    debug_collectives: bool = False


class SIMTTrainer(TrainerBase):
    """Trains all tasks of a run around one backbone.

    Args:
        model: backbone, controllers and the heads this rank holds.
        tasks: all tasks of the run by name.
        schedule: task of every (virtual) rank at every iteration.
        plan: stream positions consumed so far; advanced once per accepted step.
        batches: endless batches of this rank in the plan's order.
        optimizer: over ``parameter_groups(model)``.
        learning_rate: sets the groups' rates.
        task_average: exchanges the gradients.
        head_buffers: averages the buffers of heads over their contributors.
        groups: the run's process groups.
        rank: this process.
        options: how a step is taken.
        loss_scale: fp16 only.
        ema: averages the parameters, or None.
        metrics: collects losses and times per task.
        run_dir: the run's output folder on rank 0, None elsewhere; for hooks that write or read.
    """

    def __init__(
        self,
        *,
        model: MultiTaskModel,
        tasks: Mapping[str, Task],
        schedule: Schedule,
        plan: StreamPlan,
        batches: Iterator[Batch],
        optimizer: torch.optim.Optimizer,
        learning_rate: LearningRate,
        task_average: TaskAverage,
        head_buffers: HeadBuffers,
        groups: ProcessGroups,
        rank: int = 0,
        options: StepOptions | None = None,
        loss_scale: LossScale | None = None,
        ema: ParameterEMA | None = None,
        metrics: TaskMetrics | None = None,
        run_dir: Path | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tasks, self.schedule, self.plan = model, tasks, schedule, plan
        self.batches, self.optimizer, self.learning_rate = batches, optimizer, learning_rate
        self.task_average, self.head_buffers, self.groups = task_average, head_buffers, groups
        self.rank = rank
        self.options = options or StepOptions()
        self.loss_scale = loss_scale or LossScale(enabled=self.options.amp is torch.float16)
        self.ema = ema
        self.device = next(model.parameters()).device
        self.metrics = metrics or TaskMetrics(self.device)
        self.run_dir = run_dir
        self.task: str = ""
        self.interrupted = False  # this rank was asked to stop
        self.stopping = False  # all ranks agreed to stop
        self.failed = False  # training ended by an error: hooks write no checkpoint
        self.lr, self.grad_norm = 0.0, torch.zeros(())
        self._seen: list[tuple[str, dict[str, torch.Tensor]]] = []  # of this iteration
        self._replaced: Counter[str] = Counter()

    def run_step(self) -> None:
        """One iteration: every rank its task, one common update."""
        tasks = self.schedule.tasks_at(self.iter)
        ranks_of = {task: self.schedule.ranks_of(self.iter, task) for task in self.tasks}
        clock = self.metrics.clock
        clock.start()
        self.task_average.begin(ranks_of)
        flags = torch.zeros(2, device=self.device)
        self._seen.clear()
        for virtual in range(self.options.virtual_ranks):
            self.task = tasks[self.rank + virtual]
            for micro_step in range(self.options.accumulation):
                batch = self._next_batch()
                clock.lap("data")
                loss = self._forward(batch, virtual, micro_step, flags)
                clock.lap("forward")
                if loss.requires_grad:
                    self.task_average.backward(loss, last=self._is_last(virtual, micro_step))
                clock.lap("backward")
            if self.options.virtual_ranks > 1:
                self.task_average.next_virtual_rank()
        flags[STOP] = float(self.interrupted)
        result = self.task_average.finish(flags)
        norm = self.task_average.grad_norm(result)
        accepted = self._accept(result, norm)
        clock.lap("exchange")
        if accepted:
            self._update(norm)
        clock.lap("update")
        self.head_buffers.average(ranks_of)
        clock.lap("exchange")
        self.plan.next()
        self.metrics.step()
        self.stopping = float(result.flags[STOP]) > 0

    def _is_last(self, virtual: int, micro_step: int) -> bool:
        options = self.options
        return virtual == options.virtual_ranks - 1 and micro_step == options.accumulation - 1

    def _next_batch(self) -> Batch:
        batch = next(self.batches)
        if self.device.type == "cuda":
            batch = batch.to(self.device)  # page-locked by the loader, so it need not block
        assert batch.task == self.task, f"loader gave {batch.task}, schedule says {self.task}"
        self._name_replaced(batch)
        return batch

    def _name_replaced(self, batch: Batch) -> None:
        """Say which files could not be read and were resampled, up to a limit per task."""
        for name, reason in zip(batch.replaced, batch.reasons):
            self._replaced[batch.task] += 1
            if self._replaced[batch.task] <= NAMED_FILES:
                logger.warning("Task %s: %s was replaced (%s)", batch.task, name, reason)
            if self._replaced[batch.task] == NAMED_FILES:
                logger.warning(
                    "Task %s: further unreadable samples are counted (replaced/%s), not named",
                    batch.task,
                    batch.task,
                )

    def _forward(
        self, batch: Batch, virtual: int, micro_step: int, flags: torch.Tensor
    ) -> torch.Tensor:
        """The weighted, scaled loss of one micro-step; its finiteness goes into the flags."""
        options, rank = self.options, self.rank + virtual
        seed_generators(hash64("step", options.seed, self.iter, micro_step, rank))
        self.model.begin_micro_step(options.seed, self.iter, micro_step, rank)
        cast = torch.autocast(self.device.type, options.amp) if options.amp else nullcontext()
        with cast:
            try:
                losses = self.model.losses(self.task, batch.samples)
            except FloatingPointError as error:  # Detectron2's RPN: the others must hear of it
                losses = {str(error): torch.full((), torch.nan, device=self.device)}
            anchor = self.model.finish_micro_step()
        self.metrics.record(self.task, losses, len(batch.samples), len(batch.replaced))
        total = sum(value.float() for value in losses.values())
        with torch.no_grad():
            flags[NON_FINITE] += ~torch.isfinite(total)
        self._seen.append((self.task, losses))
        weight = self.tasks[self.task].loss_weight * self.loss_scale.scale / options.accumulation
        return total * weight + anchor

    def _accept(self, result: SyncResult, norm: torch.Tensor) -> bool:
        """Whether the averaged gradient may be applied; the same answer on every rank."""
        bad_losses, norm_is_finite = float(result.flags[NON_FINITE]), bool(torch.isfinite(norm))
        overflow = self.loss_scale.can_shrink and bad_losses == 0 and not norm_is_finite
        if bad_losses or not (norm_is_finite or overflow):
            self._stop_non_finite()
        if overflow:
            self.loss_scale.update(finite=False)
            discard_statistics(self.model)
            return False
        commit_statistics(self.model)
        return True

    def _stop_non_finite(self) -> None:
        """Agree on where the first value that is not finite was, and stop everywhere.

        Collective: all ranks must call.
        """
        found = [self._first_non_finite()]
        if self.groups.control is not None:
            found = [None] * dist.get_world_size(self.groups.control)
            dist.all_gather_object(found, self._first_non_finite(), group=self.groups.control)
        discard_statistics(self.model)
        _, rank, task, place = min(found)
        raise NonFiniteError(
            f"Iteration {self.iter}: {place} of task {task!r} on rank {rank} is not finite; "
            "nothing of this step was kept. Lower the learning rate, clip gradients "
            "(train.clip_norm) or look at the data."
        )

    def _first_non_finite(self) -> tuple[float, int, str, str]:
        """(order, rank, task, place) of what was first not finite here, before any exchange.

        Statistics are ordered by the place of their norm: the next norm of another rank has met the
        merged, spoilt statistics of this one.
        """
        where = first_non_finite(self.model)
        if where:
            names = [name for name, _ in self.model.named_modules()]
            return names.index(where), self.rank, self.task, f"the statistics of {where}"
        for task, losses in self._seen:
            for name, value in losses.items():
                if not torch.isfinite(value).all():
                    return 1e9, self.rank, task, f"loss {name}"
        return 2e9, self.rank, self.task, "a gradient"

    def _update(self, norm: torch.Tensor) -> None:
        """Unscale, clip and step."""
        scale, limit = self.loss_scale.scale, self.options.clip_norm
        if limit:  # clipping to limit * scale and dividing by scale is one factor
            self.task_average.clip_(limit * scale, norm)
        if scale != 1:
            grads = [p.grad for g in self.optimizer.param_groups for p in g["params"]]
            torch._foreach_div_([grad for grad in grads if grad is not None], scale)
        self.lr = self.learning_rate.set(self.iter)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model)
        self.loss_scale.update(finite=True)
        self.grad_norm = norm / scale

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train to ``max_iter``; hooks run as in ``TrainerBase``.

        Raises:
            Interrupted: Ctrl-C or SIGTERM on some rank, after the hooks had their ``after_train``.
        """
        self.iter, self.start_iter, self.max_iter = start_iter, start_iter, max_iter
        with EventStorage(start_iter) as self.storage, self._signals(), self._watched() as log:
            try:
                self.before_train()
                while self.iter < max_iter and not self.stopping:
                    self.before_step()
                    self.run_step()
                    if log is not None:
                        log.end_step(self.groups.control)
                    self.after_step()
                    self.iter += 1
            except BaseException:
                self.failed = True
                raise
            finally:
                self.after_train()
        if self.stopping:
            raise Interrupted(
                f"stopped by a signal after {self.iter} of {max_iter} iterations; the checkpoint "
                "is written, go on with --resume."
            )

    def _watched(self) -> CollectiveLog | nullcontext:
        """With ``debug_collectives`` a log that compares every collective over the ranks."""
        watch = self.options.debug_collectives and self.groups.control is not None
        return CollectiveLog("compare", self.model) if watch else nullcontext()

    def _signals(self) -> _StopOnSignal:
        return _StopOnSignal(self)


class _StopOnSignal:
    """SIGINT and SIGTERM ask for a stop after the present step; a later Ctrl-C interrupts at once.

    A scheduler's signal may arrive twice, directly and through the launcher: repeats within
    ``PATIENCE`` seconds count as one, and a repeated SIGTERM never interrupts.
    """

    PATIENCE = 2.0

    def __init__(self, trainer: SIMTTrainer) -> None:
        self.trainer = trainer
        self.previous: dict[int, object] = {}
        self.asked = 0.0

    def _ask(self, number: int, frame: object) -> None:
        again = self.trainer.interrupted and time.monotonic() - self.asked > self.PATIENCE
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.trainer.interrupted:
            self.trainer.interrupted, self.asked = True, time.monotonic()

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: whoever runs us handles signals
                return

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def seed_generators(seed: int) -> None:
    """Seed python, numpy and torch: RPN and ROI sampling, dropout ... use the global ones."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
