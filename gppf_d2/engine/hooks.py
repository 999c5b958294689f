"""What happens around the step: logging, checkpoints, evaluation, routes, replica checks.

Each hook is a Detectron2 ``HookBase``. Every decision to act is a function of the iteration alone,
so all ranks act together; what only rank 0 writes is written by rank 0, after a collective that all
ranks joined.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter

from gppf_d2.distributed.consensus import check_replicas
from gppf_d2.distributed.heartbeat import Heartbeat
from gppf_d2.engine.checkpoint import write_atomically
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.evaluate import Results
from gppf_d2.evaluation.metric_names import overall
from gppf_d2.modeling.heads import MultiLabelHead
from gppf_d2.modeling.lego.controller import LinearTemperature
from gppf_d2.modeling.multitask import MultiTaskModel

logger = logging.getLogger(__name__)

Save = Callable[[int, Sequence[str | None]], None]


def due(iteration: int, period: int) -> bool:
    """Whether a period ends with this iteration; 0 never does."""
    return period > 0 and (iteration + 1) % period == 0


class TemperatureHook(HookBase):
    """Sets the gates' temperature before every step (GPPF, appendix D.1).

    Args:
        temperature: the schedule.
    """

    def __init__(self, temperature: LinearTemperature) -> None:
        self.temperature = temperature

    def before_step(self) -> None:
        value = self.temperature.at(self.trainer.iter, self.trainer.max_iter)
        self.trainer.model.temperature = value


class HeartbeatHook(HookBase):
    """Tells the heartbeat beside the collectives where this rank is."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat

    def before_step(self) -> None:
        trainer = self.trainer
        self.heartbeat.beat(trainer.iter, trainer.schedule.tasks_at(trainer.iter)[trainer.rank])


class MetricsHook(HookBase):
    """Reduces the per-task metrics once per period and lets the writers write them.

    Args:
        period: iterations.
        writers: of rank 0; empty elsewhere.
    """

    def __init__(self, period: int, writers: Sequence[EventWriter]) -> None:
        self.period = period
        self.writers = writers
        self._times: list[tuple[int, float]] = []

    def before_train(self) -> None:
        self._times = [(self.trainer.iter, time.perf_counter())]

    def after_step(self) -> None:
        trainer = self.trainer
        first, last = trainer.iter == trainer.start_iter, trainer.iter == trainer.max_iter - 1
        if not (due(trainer.iter, self.period) or first or last or trainer.stopping):
            return
        known = _learned_weights(trainer.model)
        scalars = trainer.metrics.reduce(trainer.groups.control, known)
        scalars["lr"] = trainer.lr
        if trainer.model.backbone.num_units > 1:  # with one unit there is nothing to choose
            scalars["temperature"] = trainer.model.temperature
        scalars["grad_norm"] = float(trainer.grad_norm)
        wanted = trainer.schedule.wanted_share()
        scalars.update({f"wanted_share/{task}": share for task, share in wanted.items()})
        scalars["eta_seconds"] = self._time_left()
        if trainer.loss_scale.enabled:
            scalars["loss_scale"] = trainer.loss_scale.scale
        trainer.storage.put_scalars(smoothing_hint=False, **scalars)
        for writer in self.writers:
            writer.write()

    def _time_left(self) -> float:
        """From the speed of the last ten periods; the first step, which warms up, is left out."""
        trainer = self.trainer
        self._times = [*self._times, (trainer.iter + 1, time.perf_counter())][-11:]
        start = self._times[1] if len(self._times) > 2 else self._times[0]
        done = trainer.iter + 1 - start[0]
        pace = (time.perf_counter() - start[1]) / max(done, 1)
        return pace * (trainer.max_iter - trainer.iter - 1)

    def after_train(self) -> None:
        for writer in self.writers:
            writer.close()


def _learned_weights(model: MultiTaskModel) -> dict[str, float]:
    """``weight/<task>/<label>`` of the heads that are here, where such weights are learned."""
    return {
        f"weight/{task}/{label}": weight
        for task, head in model.heads.items()
        if isinstance(head, MultiLabelHead)
        for label, weight in head.learned_weights().items()
    }


class RoutesHook(HookBase):
    """Writes ``routes.json`` and appends to ``routes.jsonl`` (rank 0).

    Args:
        folder: of the run; None on other ranks.
        period: iterations.
    """

    def __init__(self, folder: Path | None, period: int) -> None:
        self.folder, self.period = folder, period

    def after_step(self) -> None:
        first = self.trainer.iter == 0
        if due(self.trainer.iter, self.period) or first:
            self._write(self.trainer.iter + 1)

    def after_train(self) -> None:
        if not self.trainer.failed and not due(self.trainer.iter - 1, self.period):
            self._write(self.trainer.iter)

    def _write(self, done: int) -> None:
        if self.folder is None:
            return
        record = routes_record(self.trainer.model, done)
        with open(self.folder / "routes.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        text = json.dumps(record, indent=1) + "\n"
        write_atomically(self.folder / "routes.json", lambda path: Path(path).write_text(text))


def routes_record(model, iteration: int) -> dict:
    """What ``routes.json`` holds: probabilities [L][N] and argmax route [L] of every task."""
    return {
        "iteration": iteration,
        "temperature": model.temperature,
        "num_units": model.backbone.num_units,
        "layers": list(model.backbone.layer_names),
        "tasks": model.routes(),
    }


class CheckpointHook(HookBase):
    """Saves every ``period`` iterations and at the end, also at an agreed stop.

    Args:
        save: collective; saves the run after a number of iterations under some names (None is a
            numbered file).
        period: iterations.
    """

    def __init__(self, save: Save, period: int) -> None:
        self.save, self.period = save, period

    def after_step(self) -> None:
        trainer = self.trainer
        last = trainer.iter == trainer.max_iter - 1
        if due(trainer.iter, self.period) or last or trainer.stopping:
            self.save(trainer.iter + 1, [None, "model_final"] if last else [None])


class EvaluationHook(HookBase):
    """Evaluates tasks when their period ends and all of them after the last iteration.

    Args:
        evaluate: collective; evaluates the named tasks and returns their results on every rank.
        periods: iterations per task; 0 evaluates only at the end.
        best: ``task/metric`` names whose best value keeps a ``model_best_<task>_<metric>``.
        save: collective; saves the run after a number of iterations under some names.
    """

    def __init__(
        self,
        evaluate: Callable[[list[str]], Results],
        periods: Mapping[str, int],
        best: Sequence[str] = (),
        save: Save | None = None,
    ) -> None:
        self.evaluate, self.periods = evaluate, periods
        self.best: dict[str, float | None] = dict.fromkeys(best)
        self.save = save

    def after_step(self) -> None:
        trainer = self.trainer
        last = trainer.iter == trainer.max_iter - 1
        names = [task for task, period in self.periods.items() if last or due(trainer.iter, period)]
        if not names or trainer.stopping:
            return
        results = self.evaluate(names)
        scalars = {
            f"eval/{task}/{metric}": value
            for task, metrics in results.items()
            for metric, value in overall(metrics).items()
        }
        trainer.storage.put_scalars(smoothing_hint=False, **scalars)
        self._keep_best(results)

    def _keep_best(self, results: Results) -> None:
        for name, value in self.best.items():
            task, _, metric = name.partition("/")
            new = results.get(task, {}).get(metric)
            if task in results and new is None:
                known = ", ".join(sorted(results[task])[:12])
                raise UserError(f"train.best names {name!r}; task {task!r} measures {known} ...")
            if new is not None and new == new and (value is None or new > value):
                self.best[name] = new
                logger.info("Best %s so far: %.4g", name, new)
                self.save(self.trainer.iter + 1, [f"model_best_{name.replace('/', '_')}"])

    def state_dict(self) -> dict:
        return {"best": dict(self.best)}

    def load_state_dict(self, state: Mapping) -> None:
        self.best.update({k: v for k, v in state["best"].items() if k in self.best})


class ReplicaCheckHook(HookBase):
    """Compares the replicas bit by bit every ``period`` iterations (invariant I1).

    Args:
        period: iterations; 0 never checks.
        tensors: names and tensors that all ranks must hold equal.
    """

    def __init__(self, period: int, tensors: Callable[[], Mapping]) -> None:
        self.period, self.tensors = period, tensors

    def after_step(self) -> None:
        if due(self.trainer.iter, self.period):
            check_replicas(self.tensors().items(), self.trainer.groups.control)
