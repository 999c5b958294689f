"""The training part of a run: preflight, state, trainer, hooks.

What ``Session`` (in ``run``) has built is put together here, in the order in which things may
fail: data, evaluations, a probe step, the optimizer, the checkpoint to go on from; then the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.utils.events import JSONWriter, TensorboardXWriter

from gppf_d2.data.loader import TaskSource, build_train_loader
from gppf_d2.distributed.consensus import any_rank, compare, gather, tensor_digest
from gppf_d2.distributed.head_buffers import HeadBuffers
from gppf_d2.distributed.heartbeat import Heartbeat
from gppf_d2.distributed.sync_bn import attach_statistics_group
from gppf_d2.distributed.task_average import TaskAverage
from gppf_d2.engine import hooks, output_folder, setup
from gppf_d2.engine.checkpoint import Checkpointer
from gppf_d2.engine.config import config_text
from gppf_d2.engine.ema import ParameterEMA
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.hardware import hardware, machine
from gppf_d2.engine.metrics import ConsoleWriter
from gppf_d2.engine.optimizer import LearningRate, LossScale
from gppf_d2.engine.preflight import probe_tasks
from gppf_d2.engine.pretrained_run import DYNAMIC
from gppf_d2.engine.simt_trainer import SIMTTrainer, StepOptions
from gppf_d2.engine.state import RunState
from gppf_d2.engine.transfer import extracted
from gppf_d2.tasks.stream import Stream, StreamPlan

if TYPE_CHECKING:
    from gppf_d2.engine.run import Session

logger = logging.getLogger(__name__)


class Training:
    """Trains what a session holds.

    Args:
        session: model, tasks, schedule and groups of this rank.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self) -> None:
        """Preflight, then train; hooks evaluate and save."""
        session = self.session
        train = session.cfg.train
        if session.world_size > 1:
            session.heartbeat = Heartbeat.start(
                session.rank,
                session.world_size,
                session.groups.control,
                timeout=float(train.timeout),
            )
        sources, streams = session.prepare_data()
        evaluated = session.agreed(lambda: setup.check_evaluations(session.tasks, list(train.best)))
        attach_statistics_group(session.model, session.groups.statistics, deferred=True)
        probe_tasks(
            session.model,
            session.tasks,
            sources,
            streams,
            session.groups,
            seed=session.seed,
            amp=session.amp,
        )
        state = self._build_state(streams)
        start = session.agreed(lambda: self._resume(state)) if session.arguments.resume else 0
        self._compare_restored(start, state)
        self._describe(sources, evaluated, resumed=start > 0)
        if start >= int(train.max_iter):
            logger.info("The run is complete: %d of %d iterations.", start, int(train.max_iter))
            self._evaluate_what_is_missing()
            return
        trainer = self._build_trainer(state, sources)
        trainer.register_hooks(self._hooks(state))
        trainer.train(start, int(train.max_iter))

    def _describe(
        self,
        sources: Mapping[str, TaskSource],
        evaluated: Mapping[str, Mapping[str, int]],
        resumed: bool,
    ) -> None:
        """Write down what runs where and on what (rank 0).

        Collective: all ranks must call.
        """
        session = self.session
        sizes = {name: dict(source.sizes) for name, source in sources.items()}
        seen = gather((machine(setup.device_of(session.cfg)), sizes), session.groups.control)
        trained = {name: found for _, of_rank in seen for name, found in of_rank.items()}
        data = {
            name: {"train": trained.get(name, {}), "evaluation": evaluated[name]}
            for name in session.tasks
        }
        session.agreed(
            lambda: (
                session.rank
                or output_folder.describe(
                    session.folder,
                    session.cfg,
                    session.arguments.config_file,
                    session.arguments.command,
                    session.world_size,
                    hardware=hardware([one for one, _ in seen]),
                    data=data,
                    initial_weights=None if resumed else session.initial_weights,
                )
            )
        )

    def _build_state(self, streams: dict[str, Stream]) -> RunState:
        session = self.session
        cfg = session.cfg
        if cfg.train.ema_decay:
            session.ema = ParameterEMA(session.model, float(cfg.train.ema_decay))
        plan = StreamPlan(
            session.schedule,
            streams,
            {name: task.batch_size for name, task in session.tasks.items()},
            accumulation=int(cfg.train.accumulation),
        )
        state = RunState(
            model=session.model,
            optimizer=session.agreed(lambda: setup.build_optimizer(cfg, session.model)),
            plan=plan,
            loss_scale=LossScale(enabled=session.amp is torch.float16),
            ema=session.ema,
            evaluation=None,
            held=session.held,
            config=config_text(cfg),
            classes=setup.class_names(session.tasks),
            groups=session.groups,
            pinned=session.pinned,
            speaks=not session.pinned or session.rank in session.owners.values(),
        )
        state.evaluation = self._evaluation_hook(state)
        return state

    def _resume(self, state: RunState) -> int:
        """Load the newest readable checkpoint; 0 where there is none."""
        session = self.session
        found = session.checkpointer().latest(set_aside=session.rank == 0)
        if found is None:
            logger.warning("--resume: no checkpoint in %s, starting at iteration 0", session.folder)
            session.initial_weights = setup.load_initial_weights(
                session.cfg, session.model, session.tasks
            )
            if session.ema is not None:
                session.ema.reset(session.model)
            return 0
        path, saved = found
        return state.restore(saved, path, session.arguments.allow_task_changes)

    def _compare_restored(self, start: int, state: RunState) -> None:
        """Refuse ranks that go on from different files: the output folder must be a shared one.

        Collective: all ranks must call.
        """
        session = self.session
        sample = next(session.model.backbone.parameters())
        compare(
            {"iteration": start, "weights": tensor_digest(sample)},
            session.groups.control,
            what="checkpoints",
            remedy="all machines must see the same train.output_dir",
        )

    def _evaluate_what_is_missing(self) -> None:
        """A run that ended between its last step and its evaluation gets its results now."""
        session = self.session
        missing = session.rank == 0 and not (session.folder / "results.json").is_file()
        if any_rank(missing, session.groups.control):
            session.evaluate()

    def _build_trainer(self, state: RunState, sources: dict[str, TaskSource]) -> SIMTTrainer:
        session = self.session
        cfg, train, model = session.cfg, session.cfg.train, session.model
        heads = {name: model.heads[name] for name in session.held}
        loader = build_train_loader(
            state.plan,
            range(session.rank, session.rank + int(train.virtual_ranks)),
            sources,
            session.seed,
            num_workers=int(train.num_workers),
            pin_memory=setup.device_of(cfg).type == "cuda",
        )
        session.closers.append(loader.close)
        task_average = TaskAverage(
            {
                name: parameter
                for name, parameter in model.named_parameters()
                if not name.startswith("heads.")
            },
            {task: dict(head.named_parameters()) for task, head in heads.items()},
            session.groups,
            session.world_size,
            session.rank,
            bucket_bytes=int(float(train.bucket_mb) * 2**20),
            compression=train.grad_compression or None,
            pinned=session.pinned,
        )
        multiplier = instantiate(cfg.lr_multiplier)
        return SIMTTrainer(
            model=model.train(),
            tasks=session.tasks,
            schedule=session.schedule,
            plan=state.plan,
            batches=iter(loader),
            optimizer=state.optimizer,
            learning_rate=LearningRate(state.optimizer, multiplier, int(train.max_iter)),
            task_average=task_average,
            head_buffers=HeadBuffers(heads, session.groups, session.rank, pinned=session.pinned),
            groups=session.groups,
            rank=session.rank,
            options=StepOptions(
                seed=session.seed,
                accumulation=int(train.accumulation),
                virtual_ranks=int(train.virtual_ranks),
                clip_norm=float(train.clip_norm),
                amp=session.amp,
                debug_collectives=bool(train.debug_collectives),
            ),
            loss_scale=state.loss_scale,
            ema=state.ema,
            metrics=session.metrics,
            run_dir=None if session.rank else session.folder,
        )

    def _hooks(self, state: RunState) -> list:
        session = self.session
        train, first = session.cfg.train, session.rank == 0
        writers = []
        if first:
            writers = [
                ConsoleWriter(int(train.max_iter)),
                JSONWriter(str(session.folder / "metrics.json"), window_size=1),
                TensorboardXWriter(str(session.folder), window_size=1),
            ]
        return [
            hooks.TemperatureHook(instantiate(session.cfg.gates.temperature)),
            hooks.HeartbeatHook(session.heartbeat) if session.heartbeat else None,
            hooks.ReplicaCheckHook(int(train.replica_check_period), state.replicas),
            # saved before it is evaluated: a broken evaluation loses nothing
            hooks.CheckpointHook(self._save(state), int(train.checkpoint_period)),
            state.evaluation,
            hooks.RoutesHook(session.folder if first else None, int(train.route_period)),
            *self._extra_hooks(),
            hooks.MetricsHook(int(train.log_period), writers),
        ]

    def _extra_hooks(self) -> list[HookBase]:
        """The hooks that the config adds, on every rank; ``train.hooks`` maps names to them.

        Collective: all ranks must call.
        """
        extra = self.session.cfg.train.get("hooks") or {}

        def build() -> list[HookBase]:
            if not isinstance(extra, Mapping):
                raise UserError(
                    f"train.hooks is {extra!r}; give a mapping of names to LazyCalls of hooks."
                )
            built = {name: instantiate(hook) for name, hook in extra.items() if hook is not None}
            for name, hook in built.items():
                if not isinstance(hook, HookBase):
                    raise UserError(
                        f"train.hooks.{name} is {hook!r}; give a LazyCall of a class derived from "
                        "detectron2.engine.HookBase, or None to leave it out."
                    )
            return list(built.values())

        return self.session.agreed(build)

    def _save(self, state: RunState) -> hooks.Save:
        """The collective that writes checkpoints; an error of rank 0 is everyone's."""
        session = self.session

        def save(iteration: int, names: Sequence[str | None]) -> None:
            collected = state.collect(iteration)
            checkpointer = session.checkpointer()

            def write() -> None:
                if session.rank == 0 and "model_final" in names:
                    self._save_extracted(checkpointer, collected)
                for name in names if session.rank == 0 else ():
                    checkpointer.save(collected, name)

            session.agreed(write)

        return session.resting(save, "saving")

    def _save_extracted(self, checkpointer: Checkpointer, state: Mapping[str, Any]) -> None:
        """After dynamic finetuning: each task's route and head as an ordinary network (rank 0)."""
        cfg, tasks = self.session.cfg, list(self.session.tasks)
        if not cfg.train.init_checkpoint or cfg.train.get("init_route") != DYNAMIC:
            return
        for task in tasks:
            try:
                checkpointer.save(
                    extracted(state, task),
                    "model_extracted" if len(tasks) == 1 else f"model_extracted_{task}",
                )
            except UserError as error:  # its route has no plain form; the run itself is fine
                logger.warning("No ordinary network of task %s: %s", task, error)

    def _evaluation_hook(self, state: RunState) -> hooks.EvaluationHook:
        session = self.session
        train = session.cfg.train
        periods = {
            name: task.eval_period or int(train.eval_period)
            for name, task in session.tasks.items()
            if task.evaluators
        }

        return hooks.EvaluationHook(
            session.resting(session.evaluate, "evaluation"),
            periods,
            best=list(train.best),
            save=self._save(state),
        )
