"""The state of a run: what a checkpoint holds and how a run gets it back.

Positions count what was consumed, gates and augmentations are functions of (seed, iteration, rank),
the learning rate and the temperature are functions of the iteration: so the model, the optimizer, a
handful of stream integers, the loss scale and the moving average are all there is to save
(invariant I7).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.utils import comm

from gppf_d2.distributed.groups import ProcessGroups
from gppf_d2.engine.checkpoint import (
    FORMAT,
    gather_parts,
    load_model_state,
    load_optimizer_state,
    optimizer_state,
)
from gppf_d2.engine.ema import ParameterEMA
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.hooks import EvaluationHook
from gppf_d2.engine.optimizer import LossScale
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.tasks.stream import StreamPlan

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """The parts of a run that change while it trains.

    Args:
        model, optimizer, plan, loss_scale, ema, evaluation: as the trainer has them.
        held: tasks whose head this rank holds.
        config: the run's config as text, kept in the checkpoint.
        classes: of every task, kept in the checkpoint for those who transfer its heads.
        speaks: whether this rank's heads go into the checkpoint (``pinned``: one owner per task).
        groups: to gather the owners' parts.
        pinned: whether there is anything to gather.
    """

    model: MultiTaskModel
    optimizer: torch.optim.Optimizer
    plan: StreamPlan
    loss_scale: LossScale
    ema: ParameterEMA | None
    evaluation: EvaluationHook
    held: Sequence[str]
    config: str
    classes: Mapping[str, Mapping[str, Sequence[str]]]
    groups: ProcessGroups
    pinned: bool = False
    speaks: bool = True

    def collect(self, iteration: int) -> dict[str, Any]:
        """The state after ``iteration`` steps; complete on rank 0.

        Collective: all ranks must call.
        """
        state: dict[str, Any] = {
            "format": FORMAT,
            "iteration": iteration,
            "model": dict(self.model.state_dict()),
            "optimizer": optimizer_state(self.optimizer),
            "optimizer_class": type(self.optimizer).__name__,
            "streams": self.plan.state_dict(),
            "loss_scale": self.loss_scale.state_dict(),
            "temperature": self.model.temperature,
            "evaluation": self.evaluation.state_dict(),
            "tasks": list(self.model.controllers),
            "config": self.config,
            "classes": {task: dict(kinds) for task, kinds in self.classes.items()},
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        if self.pinned and comm.get_rank():  # the shared part is rank 0's
            state = heads_only(state)
        state = on_cpu(state)
        if self.pinned:
            gather_parts(state, self.speaks, self.groups.control)
        return state

    def restore(
        self, state: Mapping[str, Any], source: Path, allow_task_changes: bool = False
    ) -> int:
        """Go on from a checkpoint.

        Returns:
            The number of iterations that are done.

        Raises:
            UserError: the checkpoint is of another config.
        """
        load_model_state(
            self.model,
            state["model"],
            source=str(source),
            allow_task_changes=allow_task_changes,
            held=set(self.held),
        )
        kind, wanted = state["optimizer_class"], type(self.optimizer).__name__
        if kind != wanted:
            raise UserError(
                f"The checkpoint {source} was trained with {kind} and the config says {wanted}; "
                "keep the optimizer, or start anew from exported weights."
            )
        for line in config_changes(state["config"], self.config):
            logger.warning("The config has changed since %s: %s", source.name, line)
        load_optimizer_state(self.optimizer, state["optimizer"])
        try:
            self.plan.load_state_dict(state["streams"], allow_task_changes=allow_task_changes)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.loss_scale.load_state_dict(state["loss_scale"])
        self.evaluation.load_state_dict(state["evaluation"])
        if self.ema is not None and "ema" in state:
            self.ema.load_state_dict(state["ema"])
        elif self.ema is not None:
            logger.warning("%s has no moving average: it starts from the weights", source)
            self.ema.reset(self.model)
        logger.info("Resumed from %s at iteration %d", source, state["iteration"])
        return int(state["iteration"])

    def replicas(self) -> dict[str, torch.Tensor]:
        """The tensors that every rank must hold bit for bit equal (invariant I1)."""
        tensors = dict(self.model.state_dict())
        for name, entry in optimizer_state(self.optimizer).items():
            for key, value in entry.items():
                if torch.is_tensor(value):
                    tensors[f"optimizer.{name}.{key}"] = value
        if not self.pinned:
            return tensors
        return {name: value for name, value in tensors.items() if "heads." not in name}


def heads_only(state: Mapping[str, Any]) -> dict[str, Any]:
    """What an owner of a pinned head adds to rank 0's state: its head, and its stream."""

    def heads(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in entries.items() if name.startswith("heads.")}

    part = {key: heads(state[key]) for key in ("model", "optimizer")}
    part["streams"] = state["streams"]
    if "ema" in state:
        part["ema"] = {"average": heads(state["ema"]["average"])}
    return part


def on_cpu(value: Any) -> Any:
    """The same nested dicts with every tensor on the CPU, detached."""
    if isinstance(value, Mapping):
        return {key: on_cpu(entry) for key, entry in value.items()}
    return value.detach().cpu() if torch.is_tensor(value) else value


def config_changes(old: str, new: str, limit: int = 20) -> list[str]:
    """One line per key that differs between two saved configs, but for where a run writes to."""
    before, after = flat_config(yaml.safe_load(old)), flat_config(yaml.safe_load(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    total = "train.total_batch_size"
    if after.get(total) and before.get(total) == after.get(total):  # shared out anew
        keys = [key for key in keys if not key.endswith(".batch_size")]
    lines = [
        f"{key} was {before.get(key, 'absent')!r}, is {after.get(key, 'absent')!r}"
        for key in keys
        if key != "train.output_dir"
    ]
    return lines[:limit] + ([f"and {len(lines) - limit} more"] if len(lines) > limit else [])


def flat_config(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested config as ``{"train.max_iter": 10, ...}``; lists are values."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flat_config(value, f"{prefix}.{key}".lstrip(".")))
    return flat
