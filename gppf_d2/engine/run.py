"""One run on one rank, from config to results: what ``train_net.py`` starts on every process.

The order matters: everything that can fail for a reason a user can mend comes before the first
training collective, and its outcome is agreed on by all ranks, so that a fault that one rank alone
sees (a folder missing on one node) ends all of them with the same sentence.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from omegaconf import DictConfig

from gppf_d2.data.loader import TaskSource, build_train_loader
from gppf_d2.data.samples import one_line
from gppf_d2.distributed.consensus import (
    AgreedError,
    agree,
    broadcast_module,
    compare,
    tensor_digest,
)
from gppf_d2.distributed.groups import (
    DEFAULT_TIMEOUT,
    build_groups,
    build_head_groups,
    pinned_ranks,
)
from gppf_d2.distributed.head_buffers import HeadBuffers
from gppf_d2.distributed.heartbeat import Heartbeat
from gppf_d2.distributed.sync_bn import attach_statistics_group
from gppf_d2.distributed.task_average import TaskAverage
from gppf_d2.engine import hooks, output_folder, setup
from gppf_d2.engine.checkpoint import Checkpointer, load_model_state, read_checkpoint
from gppf_d2.engine.config import config_text, fingerprint, load_config
from gppf_d2.engine.ema import ParameterEMA
from gppf_d2.engine.errors import (
    Interrupted,
    NonFiniteError,
    UserError,
    lost_connection,
    show_traceback,
)
from gppf_d2.engine.evaluate import Results, evaluate_tasks, write_results
from gppf_d2.engine.metrics import ConsoleWriter, TaskMetrics
from gppf_d2.engine.optimizer import LearningRate, LossScale
from gppf_d2.engine.preflight import compare_ranks, format_probes, probe_tasks
from gppf_d2.engine.simt_trainer import SIMTTrainer, StepOptions
from gppf_d2.engine.state import RunState
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.tasks.stream import Stream, StreamPlan

logger = logging.getLogger("gppf_d2")
T = TypeVar("T")


@dataclass(frozen=True)
class RunArguments:
    """What the command line asks for; see ``train_net.py --help``."""

    config_file: str
    overrides: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    resume: bool = False
    eval_only: bool = False
    dry_run: bool = False
    checkpoint: str = ""
    allow_task_changes: bool = False
    data_root: str = ""
    device: str = ""
    command: str = ""

    @property
    def training(self) -> bool:
        """Whether the run trains, rather than evaluates or tries out."""
        return not (self.eval_only or self.dry_run)


def run(arguments: RunArguments) -> None:
    """Train, evaluate or try out a config on this rank.

    Collective: all ranks must call.
    """
    if arguments.data_root:
        os.environ["DETECTRON2_DATASETS"] = arguments.data_root
    cfg = load_config(arguments.config_file, arguments.overrides, arguments.tasks)
    if arguments.device:
        cfg.train.device = arguments.device
    session = Session(cfg, arguments)
    with session.closing():
        if arguments.eval_only:
            session.evaluate_only()
        elif arguments.dry_run:
            session.dry_run()
        else:
            session.train()


class Session:
    """The parts of one run on this rank, built in an order that fails early.

    Args:
        cfg: the config with overrides applied.
        arguments: of the command line.
    """

    def __init__(self, cfg: DictConfig, arguments: RunArguments) -> None:
        self.cfg, self.arguments = cfg, arguments
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        self.seed = int(cfg.train.seed)
        self.folder = Path(str(cfg.train.output_dir))
        self.closers: list[Callable[[], None]] = []
        self.heartbeat: Heartbeat | None = None
        self.ema: ParameterEMA | None = None
        self.metrics = TaskMetrics()
        self.groups = build_groups(None, self.rank)
        compare({"config": fingerprint(cfg)}, self.groups.control, what="configs")
        fresh = arguments.training and not arguments.resume
        self.agreed(lambda: self.rank or output_folder.claim(self.folder, fresh))
        self.agreed(lambda: output_folder.open_logs(self.folder, self.rank))
        self.tasks = self.agreed(lambda: setup.build_tasks(cfg))
        # without training every rank holds every task, whatever the policy
        self.schedule = self.agreed(
            lambda: setup.build_schedule(
                cfg, self.tasks, self.world_size, None if arguments.training else "sampled"
            )
        )
        self.pinned = self.schedule.policy == "pinned" and self.world_size > 1
        self.held = list(self.schedule.tasks_of(self.rank)) if self.pinned else list(self.tasks)
        self.amp = self.agreed(lambda: setup.amp_dtype(cfg))
        self.model = self.agreed(self._build_model)
        if self.pinned:
            self.groups.head_ranks = pinned_ranks(self.schedule)
            limit = datetime.timedelta(seconds=DEFAULT_TIMEOUT)
            self.groups.heads = build_head_groups(self.groups.head_ranks, self.rank, limit)

    def agreed(self, make: Callable[[], T]) -> T:
        """Build something; when it fails on any rank all ranks raise the lowest one's sentence.

        Collective: all ranks must call.
        """
        value, error = None, None
        try:
            value = make()
        except Exception as problem:
            show_traceback(problem)
            error = str(problem.args[0] if isinstance(problem, KeyError) else problem)
            if not isinstance(problem, (UserError, ValueError, KeyError, FileNotFoundError)):
                error = f"{type(problem).__name__}: {error}"
        try:
            agree(error, self.groups.control)
        except AgreedError as verdict:
            raise verdict from None
        return value

    def _build_model(self) -> MultiTaskModel:
        model = setup.build_model(self.cfg, self.tasks, self.held)
        if not (self.arguments.resume or self.arguments.eval_only):
            setup.load_initial_weights(self.cfg, model)
        return model

    @property
    def owners(self) -> dict[str, int] | None:
        """The rank that speaks for each task's head; None where every rank holds all heads."""
        return {task: ranks[0] for task, ranks in self.groups.head_ranks.items()} or None

    # --- training ---------------------------------------------------------------------------------

    def train(self) -> None:
        """Preflight, then train; hooks evaluate and save."""
        train = self.cfg.train
        if self.world_size > 1:
            self.heartbeat = Heartbeat.start(
                self.rank,
                self.world_size,
                self.groups.control,
                timeout=float(train.timeout),
            )
        sources, streams = self._prepare_data()
        self.agreed(lambda: setup.check_evaluations(self.tasks, list(train.best)))
        attach_statistics_group(self.model, self.groups.statistics, deferred=True)
        probe_tasks(
            self.model, self.tasks, sources, streams, self.groups, seed=self.seed, amp=self.amp
        )
        state = self._build_state(streams)
        start = self.agreed(lambda: self._resume(state)) if self.arguments.resume else 0
        self._compare_restored(start, state)
        self.agreed(
            lambda: (
                self.rank
                or output_folder.describe(
                    self.folder,
                    self.cfg,
                    self.arguments.config_file,
                    self.arguments.command,
                    self.world_size,
                )
            )
        )
        if start >= int(train.max_iter):
            logger.info("The run is complete: %d of %d iterations.", start, int(train.max_iter))
            self._evaluate_what_is_missing()
            return
        trainer = self._build_trainer(state, sources)
        trainer.register_hooks(self._hooks(state))
        trainer.train(start, int(train.max_iter))

    def _prepare_data(self) -> tuple[dict[str, TaskSource], dict[str, Stream]]:
        """Data of the held tasks; equal parameters everywhere; the comparison of the ranks."""
        sources, streams = self.agreed(
            lambda: setup.build_data(self.tasks, self.held, self.seed, self.cfg)
        )
        compare_ranks(self.model, self.schedule, sources, self.groups, self.pinned)
        self._first_broadcast()
        return sources, streams

    def _compare_restored(self, start: int, state: RunState) -> None:
        """Refuse ranks that go on from different files: the output folder must be a shared one.

        Collective: all ranks must call.
        """
        sample = next(self.model.backbone.parameters())
        compare(
            {"iteration": start, "weights": tensor_digest(sample)},
            self.groups.control,
            what="checkpoints",
            remedy="all machines must see the same train.output_dir",
        )

    def _evaluate_what_is_missing(self) -> None:
        """A run that ended between its last step and its evaluation gets its results now."""
        missing = self.agreed(lambda: not (self.folder / "results.json").is_file())
        if missing:
            results = self._evaluate()
            if self.rank == 0:
                write_results(self.folder / "results.json", results)

    def _first_broadcast(self) -> None:
        """Make parameters and buffers equal once; in pinned mode a head inside its task's group."""
        if self.world_size == 1:
            return
        for part in (self.model.backbone, self.model.controllers):
            broadcast_module(part, self.groups.gradients)
        for name in self.held:
            group = self.groups.heads.get(name) if self.pinned else self.groups.gradients
            if group is not None:
                broadcast_module(
                    self.model.heads[name], group, source=self.owners[name] if self.pinned else 0
                )

    def _build_state(self, streams: dict[str, Stream]) -> RunState:
        cfg = self.cfg
        if cfg.train.ema_decay:
            self.ema = ParameterEMA(self.model, float(cfg.train.ema_decay))
        plan = StreamPlan(
            self.schedule,
            streams,
            {name: task.batch_size for name, task in self.tasks.items()},
            accumulation=int(cfg.train.accumulation),
        )
        state = RunState(
            model=self.model,
            optimizer=self.agreed(lambda: setup.build_optimizer(cfg, self.model)),
            plan=plan,
            loss_scale=LossScale(enabled=self.amp is torch.float16),
            ema=self.ema,
            evaluation=None,
            held=self.held,
            config=config_text(cfg),
            groups=self.groups,
            pinned=self.pinned,
            speaks=not self.pinned or self.rank in self.owners.values(),
        )
        state.evaluation = self._evaluation_hook(state)
        return state

    def _resume(self, state: RunState) -> int:
        """Load the newest readable checkpoint; 0 where there is none."""
        found = self._checkpointer().latest(set_aside=self.rank == 0)
        if found is None:
            logger.warning("--resume: no checkpoint in %s, starting at iteration 0", self.folder)
            setup.load_initial_weights(self.cfg, self.model)
            if self.ema is not None:
                self.ema.reset(self.model)
            return 0
        path, saved = found
        return state.restore(saved, path, self.arguments.allow_task_changes)

    def _checkpointer(self) -> Checkpointer:
        return Checkpointer(self.folder, int(self.cfg.train.keep_checkpoints))

    def _build_trainer(self, state: RunState, sources: dict[str, TaskSource]) -> SIMTTrainer:
        cfg, train, model = self.cfg, self.cfg.train, self.model
        heads = {name: model.heads[name] for name in self.held}
        loader = build_train_loader(
            state.plan,
            range(self.rank, self.rank + int(train.virtual_ranks)),
            sources,
            self.seed,
            num_workers=int(train.num_workers),
            pin_memory=setup.device_of(cfg).type == "cuda",
        )
        self.closers.append(loader.close)
        task_average = TaskAverage(
            {
                name: parameter
                for name, parameter in model.named_parameters()
                if not name.startswith("heads.")
            },
            {task: dict(head.named_parameters()) for task, head in heads.items()},
            self.groups,
            self.world_size,
            self.rank,
            bucket_bytes=int(float(train.bucket_mb) * 2**20),
            compression=train.grad_compression or None,
            pinned=self.pinned,
        )
        multiplier = instantiate(cfg.lr_multiplier)
        return SIMTTrainer(
            model=model.train(),
            tasks=self.tasks,
            schedule=self.schedule,
            plan=state.plan,
            batches=iter(loader),
            optimizer=state.optimizer,
            learning_rate=LearningRate(state.optimizer, multiplier, int(train.max_iter)),
            task_average=task_average,
            head_buffers=HeadBuffers(heads, self.groups, self.rank, pinned=self.pinned),
            groups=self.groups,
            rank=self.rank,
            options=StepOptions(
                seed=self.seed,
                accumulation=int(train.accumulation),
                virtual_ranks=int(train.virtual_ranks),
                clip_norm=float(train.clip_norm),
                amp=self.amp,
                debug_collectives=bool(train.debug_collectives),
            ),
            loss_scale=state.loss_scale,
            ema=state.ema,
            metrics=self.metrics,
        )

    def _hooks(self, state: RunState) -> list:
        train, first = self.cfg.train, self.rank == 0
        writers = []
        if first:
            writers = [
                ConsoleWriter(int(train.max_iter)),
                JSONWriter(str(self.folder / "metrics.json"), window_size=1),
                TensorboardXWriter(str(self.folder), window_size=1),
            ]
        return [
            hooks.TemperatureHook(instantiate(self.cfg.gates.temperature)),
            hooks.HeartbeatHook(self.heartbeat) if self.heartbeat else None,
            hooks.ReplicaCheckHook(int(train.replica_check_period), state.replicas),
            # saved before it is evaluated: a broken evaluation loses nothing
            hooks.CheckpointHook(self._save(state), int(train.checkpoint_period)),
            state.evaluation,
            hooks.MetricsHook(int(train.log_period), writers),
            hooks.RoutesHook(self.folder if first else None, int(train.route_period)),
        ]

    def _save(self, state: RunState) -> hooks.Save:
        """The collective that writes checkpoints; an error of rank 0 is everyone's."""

        def save(iteration: int, names: Sequence[str | None]) -> None:
            collected = state.collect(iteration)
            checkpointer = self._checkpointer()

            def write() -> None:
                for name in names if self.rank == 0 else ():
                    checkpointer.save(collected, name)

            self.agreed(write)

        return self._resting(save, "saving")

    def _evaluation_hook(self, state: RunState) -> hooks.EvaluationHook:
        train = self.cfg.train
        periods = {
            name: task.eval_period or int(train.eval_period)
            for name, task in self.tasks.items()
            if task.evaluators
        }

        return hooks.EvaluationHook(
            self._resting(self._evaluate, "evaluation"),
            periods,
            self.folder if self.rank == 0 else None,
            best=list(train.best),
            save=self._save(state),
        )

    def _resting(self, collective: Callable[..., T], reason: str) -> Callable[..., T]:
        """The same call with time-out and step time resting: it may take as long as it needs."""

        def call(*args: Any) -> T:
            start = time.perf_counter()
            with self.heartbeat.paused(reason) if self.heartbeat else contextlib.nullcontext():
                value = collective(*args)
            self.metrics.rest(time.perf_counter() - start)
            return value

        return call

    def _evaluate(self, names: Sequence[str] | None = None) -> Results:
        with self.ema.applied(self.model) if self.ema else contextlib.nullcontext():
            return evaluate_tasks(
                self.cfg, self.model, self.tasks, self.groups, names, owners=self.owners
            )

    # --- the other two commands -------------------------------------------------------------------

    def evaluate_only(self) -> None:
        """Evaluate the tasks of a checkpoint and write ``results.json``."""
        iteration = self.agreed(self._load_for_evaluation)
        results = self._evaluate()
        if self.rank == 0:
            write_results(self.folder / "results.json", results)
            print(json.dumps(results, indent=2))
            logger.info("Evaluated iteration %d: %s", iteration, self.folder / "results.json")

    def _load_for_evaluation(self) -> int:
        path = self.arguments.checkpoint
        if path:
            state = read_checkpoint(path)
        else:
            found = self._checkpointer().latest()
            if found is None:
                raise UserError(
                    f"There is no checkpoint in {str(self.folder)!r}; give --checkpoint FILE or "
                    "train first."
                )
            path, state = found
        weights = dict(state["model"])
        if "ema" in state and self.cfg.train.ema_decay:
            weights.update(state["ema"]["average"])
        saved = {name.split(".")[1] for name in weights if name.startswith("controllers.")}
        untrained = [name for name in self.tasks if name not in saved]
        if untrained:
            raise UserError(
                f"The checkpoint {str(path)!r} has no task {untrained[0]!r}; "
                f"it has {', '.join(sorted(saved))}."
            )
        some = self.arguments.tasks is not None or self.arguments.allow_task_changes
        load_model_state(
            self.model, weights, source=str(path), allow_task_changes=some, held=set(self.held)
        )
        return int(state["iteration"])

    def dry_run(self) -> None:
        """One step of every task on this rank, alone: time, memory, loss."""
        sources, streams = self._prepare_data()
        probes = probe_tasks(
            self.model,
            self.tasks,
            sources,
            streams,
            self.groups,
            seed=self.seed,
            amp=self.amp,
            full_batches=True,
        )
        if self.rank == 0 or self.pinned:
            print(format_probes(probes), flush=True)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Shut loader and heartbeat down, whatever happened; tell the others of an error here."""
        try:
            yield
        except (AgreedError, NonFiniteError, Interrupted):
            raise  # agreed: every rank leaves with the same sentence
        except Exception as error:
            if self.heartbeat is not None:
                self.heartbeat.fail(one_line(error), wait=5.0 if lost_connection(error) else 0.0)
            raise
        finally:
            for close in reversed(self.closers):
                close()
            if self.heartbeat is not None:
                self.heartbeat.close()
