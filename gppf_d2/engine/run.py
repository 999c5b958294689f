"""One run on one rank, from config to results: what ``train_net.py`` starts on every process.

The order matters: everything that can fail for a reason a user can mend comes before the first
training collective, and its outcome is agreed on by all ranks, so that a fault that one rank alone
sees (a folder missing on one node) ends all of them with the same sentence.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from detectron2.utils import comm
from omegaconf import DictConfig

from gppf_d2.data.index import join_run
from gppf_d2.data.loader import TaskSource
from gppf_d2.data.samples import one_line
from gppf_d2.distributed.consensus import (
    AgreedError,
    agree,
    broadcast_module,
    compare,
    from_first,
)
from gppf_d2.distributed.groups import (
    DEFAULT_TIMEOUT,
    build_groups,
    build_head_groups,
    pinned_ranks,
)
from gppf_d2.distributed.heartbeat import Heartbeat
from gppf_d2.engine import output_folder, setup
from gppf_d2.engine.checkpoint import Checkpointer, load_model_state, read_checkpoint
from gppf_d2.engine.config import (
    batches_per_step,
    fingerprint,
    load_config,
    scale_to_batches,
    share_total_batch,
)
from gppf_d2.engine.ema import ParameterEMA
from gppf_d2.engine.errors import (
    Interrupted,
    NonFiniteError,
    UserError,
    lost_connection,
    show_traceback,
)
from gppf_d2.engine.evaluate import Results, evaluate_tasks
from gppf_d2.engine.freezing import freeze, read_patterns
from gppf_d2.engine.metrics import TaskMetrics
from gppf_d2.engine.preflight import check_labels, compare_ranks, format_probes, probe_tasks
from gppf_d2.engine.pretrained_run import PretrainedRun
from gppf_d2.engine.training import Training
from gppf_d2.engine.transfer import fit_backbone
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.tasks.stream import Stream

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
            Training(session).run()


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
        self.groups = build_groups(None, self.rank)
        compare({"config": fingerprint(cfg)}, self.groups.control, what="configs")
        # indexes that serve one run only are shared by its processes
        join_run(from_first(secrets.token_hex(8), self.groups.control))
        fresh = arguments.training and not arguments.resume
        needs = arguments.eval_only and not arguments.checkpoint
        self.agreed(lambda: self.rank or output_folder.claim(self.folder, fresh, needs))
        self.agreed(lambda: output_folder.open_logs(self.folder, self.rank))
        if arguments.training:
            began = self.agreed(self._began_with)
            began = from_first(began, self.groups.control)
            self.cfg = cfg = self.agreed(lambda: self._scaled(cfg, began))
        self.cfg = cfg = self.agreed(lambda: self._fitted(cfg))
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
        self.initial_weights = ""  # what a checkpoint that the run starts from gave to what
        self.model = self.agreed(self._build_model)
        self.metrics = TaskMetrics(next(self.model.parameters()).device)
        patterns = self.agreed(lambda: read_patterns(cfg.train.get("trainable") or []))
        if patterns and not arguments.eval_only:  # evaluation is the same with it and without
            logger.info("%s", freeze(self.model, patterns, self.groups.control))
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

    def _began_with(self) -> int:
        """Batches a step that a resumed run began with; 0 elsewhere and on other ranks than 0."""
        scales = self.cfg.train.get("reference_world_size")
        if self.rank or not (scales and self.arguments.resume):
            return 0
        return output_folder.reference_world_size(self.folder)

    def _scaled(self, cfg: DictConfig, began: int) -> DictConfig:
        """The config for this number of ranks; a resumed run keeps the pace that it began with."""
        batches = batches_per_step(cfg, self.world_size)
        if began and began != batches:
            logger.warning(
                "The run began with %d batches a step and goes on with %d; its learning rate and "
                "number of iterations stay those of its start.",
                began,
                batches,
            )
        return scale_to_batches(cfg, began or batches, self.arguments.overrides)

    def _fitted(self, cfg: DictConfig) -> DictConfig:
        """The config with what follows from a checkpoint and from the number of ranks."""
        if not self.arguments.eval_only:
            cfg = share_total_batch(cfg, self.world_size, self.arguments.overrides)
        if not cfg.train.get("init_route"):
            return fit_backbone(cfg)
        going_on = None
        if self.arguments.checkpoint:
            going_on = PretrainedRun.read(self.arguments.checkpoint)
        elif self.arguments.resume or self.arguments.eval_only:
            found = self.checkpointer().latest()
            if found is None and self.arguments.eval_only:
                return cfg  # said where the checkpoint is loaded
            going_on = found and PretrainedRun.of(str(found[0]), found[1])
        return fit_backbone(cfg, going_on)

    def _build_model(self) -> MultiTaskModel:
        model = setup.build_model(self.cfg, self.tasks, self.held)
        if not (self.arguments.resume or self.arguments.eval_only):
            self.initial_weights = setup.load_initial_weights(self.cfg, model, self.tasks)
        return model

    @property
    def owners(self) -> dict[str, int] | None:
        """The rank that speaks for each task's head; None where every rank holds all heads."""
        return {task: ranks[0] for task, ranks in self.groups.head_ranks.items()} or None

    def prepare_data(self) -> tuple[dict[str, TaskSource], dict[str, Stream]]:
        """Data of the held tasks; equal parameters everywhere; the comparison of the ranks."""
        sources, streams = self.agreed(
            lambda: setup.build_data(self.tasks, self.held, self.seed, self.cfg)
        )
        self.agreed(lambda: check_labels(self.model, sources))
        compare_ranks(self.model, self.schedule, sources, self.groups, self.pinned)
        self._first_broadcast()
        return sources, streams

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

    def checkpointer(self) -> Checkpointer:
        return Checkpointer(self.folder, int(self.cfg.train.keep_checkpoints))

    def resting(self, collective: Callable[..., T], reason: str) -> Callable[..., T]:
        """The same call with time-out and step time resting: it may take as long as it needs."""

        def call(*args: Any) -> T:
            start = time.perf_counter()
            with self.heartbeat.paused(reason) if self.heartbeat else contextlib.nullcontext():
                value = collective(*args)
            self.metrics.rest(time.perf_counter() - start)
            return value

        return call

    def evaluate(self, names: Sequence[str] | None = None) -> Results:
        """Evaluate tasks, all by default; ``results.json`` is written as they are done.

        Collective: all ranks must call.
        """
        with self.ema.applied(self.model) if self.ema else contextlib.nullcontext():
            return evaluate_tasks(
                self.cfg,
                self.model,
                self.tasks,
                self.groups,
                names,
                owners=self.owners,
                folder=None if self.rank else self.folder,
            )

    def evaluate_only(self) -> None:
        """Evaluate the tasks of a checkpoint and write ``results.json``."""
        iteration = self.agreed(self._load_for_evaluation)
        self.evaluate()
        if self.rank == 0:
            logger.info("Evaluated iteration %d: %s", iteration, self.folder / "results.json")

    def _load_for_evaluation(self) -> int:
        path = self.arguments.checkpoint
        if path:
            state = read_checkpoint(path)
        else:
            found = self.checkpointer().latest()
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
        sources, streams = self.prepare_data()
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
