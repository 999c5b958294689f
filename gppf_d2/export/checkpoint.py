"""Read a lego checkpoint, and what it and its run folder say about how it came to be.

A checkpoint holds the model, the iteration and the config; ``run.json`` and ``results.json`` lie
beside it as long as it is in its run folder. Everything is read as plain data and no code of it is
run; a file that is absent or damaged leaves its facts out (None), so that a reader sees what is not
known. Paths of the machine stay behind: files are named by their last part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from gppf_d2.evaluation.metric_names import overall
from gppf_d2.modeling.weight_files import first_line

# of run.json; its command line is left out, which names folders of the machine
_OF_RUN = (
    "commit",
    "world_size",
    "num_gpus",
    "device",
    "started",
    "torch",
    "detectron2",
    "gppf_d2",
)
_OF_START = ("init_checkpoint", "init_route", "init_head")
_OF_TRAIN = ("total_batch_size", "accumulation", "virtual_ranks", "amp", "clip_norm", "ema_decay")


@dataclass(frozen=True, kw_only=True)
class LegoCheckpoint:
    """A ``model_*.pth`` of a gppf_d2 run.

    Args:
        path: the file.
        state: of its model.
        config_text: YAML; None where it holds none.
        iteration: steps done; None where it does not say.
        extracted: the route among the units of the backbone it was taken out of, one unit per
            layer, where it is the ``model_extracted.pth`` of a dynamic run; else None.
        averaged: whether the averaged parameters stand in the place of the last ones.
    """

    path: Path
    state: Mapping[str, Tensor]
    config_text: str | None
    iteration: int | None
    extracted: tuple[int, ...] | None
    averaged: bool

    @classmethod
    def read(cls, path: str | os.PathLike, ema: bool = False) -> LegoCheckpoint:
        """Read a checkpoint.

        Args:
            path: a ``model_*.pth`` of a run.
            ema: put the averaged parameters in the place of the last ones.

        Raises:
            ValueError: no such file, truncated, not a checkpoint with lego units and controllers,
                or without the averaged parameters that are asked for.
        """
        path = os.fspath(path)
        content = _load(path)
        average: Mapping[str, Tensor] = {}
        if ema:
            if "average" not in (content.get("ema") or {}):
                raise ValueError(
                    f"{path!r} holds no averaged parameters (train.ema_decay); export without ema."
                )
            average = content["ema"]["average"]
        config, iteration, route = (content.get(key) for key in ("config", "iteration", "route"))
        return cls(
            path=Path(path),
            state={**content["model"], **average},
            config_text=config if isinstance(config, str) else None,
            iteration=iteration if isinstance(iteration, int) else None,
            extracted=None if route is None else tuple(int(unit) for unit in route),
            averaged=ema,
        )

    def config(self) -> Mapping[str, Any]:
        """The config of the run.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        if self.config_text is None:
            raise ValueError(
                f"The checkpoint {str(self.path)!r} does not hold its config; give --config-file."
            )
        try:
            return OmegaConf.create(self.config_text)
        except Exception as error:
            raise ValueError(
                f"The config inside {str(self.path)!r} cannot be read; give --config-file."
            ) from error

    def beside(self, name: str) -> Mapping[str, Any] | None:
        """The JSON object in a file of the run folder; None where it is absent or damaged."""
        try:
            content = json.loads((self.path.parent / name).read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, Mapping) else None


def _load(path: str) -> Mapping[str, Any]:
    if not os.path.isfile(path):
        raise ValueError(f"There is no checkpoint {path!r}; give a model_*.pth of a run.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"The checkpoint {path!r} cannot be read ({first_line(error)}); "
            "it may be truncated, take an earlier one."
        ) from error
    state = content.get("model") if isinstance(content, Mapping) else None
    if (
        not isinstance(state, Mapping)
        or not any(str(name).startswith("backbone.stem.units.") for name in state)
        or not any(str(name).startswith("controllers.") for name in state)
    ):
        raise ValueError(
            f"{path!r} is not a gppf_d2 checkpoint (no lego units and controllers in it); "
            "give a model_*.pth of a run."
        )
    return content


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of the config as plain values, interpolations resolved.

    Raises:
        ValueError: it cannot be resolved, or is no group.
    """
    found = config[name]
    try:
        if OmegaConf.is_config(found):
            found = OmegaConf.to_container(found, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"The config's {name} cannot be resolved: {first_line(error)}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"The config's {name} is {found!r}; it must be a group of settings.")
    return found


def run_facts(checkpoint: LegoCheckpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    """How the weights came to be, machine readable; None for what nobody says.

    Args:
        checkpoint: of the run.
        config: of the run.

    Returns:
        "checkpoint" and "config_file" (names), "iteration", "max_iter", "averaged", "run" (commit,
        world_size, num_gpus, device, started, versions; None without ``run.json``), "optimizer",
        "schedule", "train" (what makes up a step), "started_from", "tasks": {task: {"train",
        "batch_size", "weight", "loss_weight", "head", "evaluated_on"}}, and "results": {task:
        {metric: value}} of ``results.json``.
    """
    plain = _plain(config)
    train, tasks = _group(plain, "train"), _group(plain, "tasks")
    run, results = checkpoint.beside("run.json"), checkpoint.beside("results.json")
    start = {key: _last_part(str(train[key])) for key in _OF_START if train.get(key)}
    held = [n.split(".", 1)[1] for n in checkpoint.state if n.startswith("controllers.")]
    names = dict.fromkeys([*(name for name in tasks if name in held), *held])
    return {
        "checkpoint": checkpoint.path.name,
        "config_file": _last_part(str(run.get("config_file") or "")) or None if run else None,
        "iteration": checkpoint.iteration,
        "max_iter": train.get("max_iter"),
        "averaged": checkpoint.averaged,
        "run": {key: run.get(key) for key in _OF_RUN} if run else None,
        "optimizer": _optimizer_facts(_group(plain, "optimizer")),
        "schedule": _group(plain, "schedule").get("policy"),
        "train": {key: train[key] for key in _OF_TRAIN if key in train},
        "started_from": start if "init_checkpoint" in start else None,
        "tasks": {name: _task_facts(_group(tasks, name)) for name in names},
        "results": None
        if results is None
        else {
            task: overall(found) for task, found in results.items() if isinstance(found, Mapping)
        },
    }


def _plain(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Plain data, interpolations resolved where all of them can be."""
    if not OmegaConf.is_config(config):
        return config
    try:
        return OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(config, resolve=False)


def _optimizer_facts(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    name = _class_name(optimizer.get("_target_"))
    numbers = {
        key: optimizer[key] for key in ("lr", "momentum", "weight_decay") if key in optimizer
    }
    return {"class": name, **numbers} if name else {}


def _task_facts(task: Mapping[str, Any]) -> dict[str, Any]:
    train = task.get("train")
    evaluators = task.get("evaluators") or ()
    return {
        "train": [train] if isinstance(train, str) else list(train or ()),
        "batch_size": task.get("batch_size"),
        "weight": task.get("weight", 1.0) if task else None,
        "loss_weight": task.get("loss_weight", 1.0) if task else None,
        "head": _class_name(_group(task, "head").get("_target_")),
        "evaluated_on": [entry["dataset"] for entry in evaluators if "dataset" in entry],
    }


def _group(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = node.get(key)
    return found if isinstance(found, Mapping) else {}


def _class_name(target: Any) -> str | None:
    """The name of a ``_target_``, which may be the class itself."""
    if target is None:
        return None
    return getattr(target, "__name__", None) or str(target).rpartition(".")[2]


def _last_part(path: str) -> str:
    """A file's name without its folder; addresses on the net stay whole."""
    return path if "://" in path and not path.startswith("file:") else path.rpartition("/")[2]
