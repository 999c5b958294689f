"""Read a config file, apply overrides from the command line, refuse what cannot be meant.

A config is a Detectron2 LazyConfig with these top-level names: ``input`` (pixel format, mean, std:
given once), ``backbone``, ``gates``, ``tasks``, ``schedule``, ``optimizer``, ``lr_multiplier``,
``train``. An override names a key that exists, or an argument of a ``L(...)`` call; anything else
is a typing error and is answered with the keys that exist there.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gppf_d2.engine.errors import UserError

logger = logging.getLogger(__name__)

SECTIONS = (
    "input", "backbone", "gates", "tasks", "schedule", "optimizer", "lr_multiplier", "train",
)  # fmt: skip


PERIODS = ("checkpoint_period", "route_period", "eval_period")  # of ``train``, in iterations


def load_config(
    path: str,
    overrides: Sequence[str] = (),
    tasks: Sequence[str] | None = None,
) -> DictConfig:
    """Load a config file and make it the config of one run.

    Args:
        path: a LazyConfig ``.py`` file or a saved ``config.yaml``.
        overrides: ``key=value`` strings, as ``train.max_iter=100`` or ``tasks.coco.batch_size=4``.
        tasks: keep only these tasks, in the config's order; None keeps all.

    Returns:
        The config with every section present.

    Raises:
        UserError: no such file, a broken file, an unknown key or task, a section missing.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no config file {path!r}; the shipped ones are under configs/.")
    try:
        cfg = LazyConfig.load(path)
    except Exception as error:
        raise UserError(f"The config file {path!r} cannot be read: {error}") from error
    missing = [name for name in SECTIONS if name not in cfg]
    if missing:
        raise UserError(
            f"The config file {path!r} lacks {', '.join(missing)}; "
            "import them from configs/common/base.py."
        )
    _check_overrides(cfg, overrides)
    numbers = _numbers(cfg, overrides)
    try:
        cfg = LazyConfig.apply_overrides(cfg, list(overrides))
    except Exception as error:
        raise UserError(f"The overrides {list(overrides)} cannot be applied: {error}") from error
    for key, before in numbers.items():
        value = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        if isinstance(value, str):
            raise UserError(
                f"The override gives {key} the text {value!r}; the config has the number {before}."
            )
    if tasks is not None:
        unknown = [name for name in tasks if name not in cfg.tasks]
        if unknown or not tasks:
            raise UserError(
                f"--tasks names {', '.join(unknown) or 'nothing'}; "
                f"the config has {', '.join(cfg.tasks)}."
            )
        cfg.tasks = {name: cfg.tasks[name] for name in cfg.tasks if name in tasks}
    if not cfg.tasks:
        raise UserError(f"The config file {path!r} has no task; add at least one to `tasks`.")
    return cfg


def _check_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    for override in overrides:
        key, separator, _ = override.partition("=")
        key = key.lstrip("+~")
        if not separator:
            raise UserError(f"The override {override!r} has no '='; write key=value.")
        parent: Any = cfg
        parts = key.split(".")
        for depth, part in enumerate(parts):
            try:
                known = _keys(parent)
                if part in known:
                    parent = parent[int(part)] if not isinstance(parent, Mapping) else parent[part]
                    continue
            except OmegaConfBaseException:
                return
            if isinstance(parent, Mapping) and "_target_" in parent and depth == len(parts) - 1:
                break  # an argument that the call may take; the call itself checks it
            where = ".".join(parts[:depth]) or "the config"
            near = difflib.get_close_matches(part, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"The override {override!r} names {part!r}, which {where} does not have; "
                f"it has {', '.join(known) or 'nothing'}.{hint}"
            )


def _numbers(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, int | float]:
    """Those keys of the overrides that hold a number, with it."""
    keys = (override.partition("=")[0] for override in overrides)
    values = {
        key: OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        for key in keys
        if not key.startswith(("+", "~"))
    }
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _keys(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    if OmegaConf.is_list(node):
        return [str(index) for index in range(len(node))]
    return []


def batches_per_step(cfg: DictConfig, world_size: int) -> int:
    """Processes x ``train.virtual_ranks`` x ``train.accumulation``."""
    return world_size * int(cfg.train.virtual_ranks) * int(cfg.train.accumulation)


def share_total_batch(
    cfg: DictConfig, world_size: int, overrides: Sequence[str] = ()
) -> DictConfig:
    """The config with the batch size per process that makes ``train.total_batch_size`` samples.

    One task on R ranks with accumulation A then is ordinary data-parallel training, with the same
    samples a step whatever R and A are.

    Args:
        cfg: the run's config; it is not changed.
        world_size: R.
        overrides: ``key=value`` strings of the command line; a batch size among them is meant, and
            the total follows from it, for what the config computes from the total.

    Returns:
        The config itself where the key is 0.

    Raises:
        UserError: several tasks, or a number that cannot be shared out equally.
    """
    total = cfg.train.get("total_batch_size", 0)
    if not total:
        return cfg
    tasks = list(cfg.tasks)
    if len(tasks) > 1 or not isinstance(total, int) or total < 0:
        raise UserError(
            f"train.total_batch_size is {total!r} and the run has the tasks {', '.join(tasks)}; it "
            "is a number of samples for runs of one task, set it to 0 and use batch_size."
        )
    key = f"tasks.{tasks[0]}.batch_size"
    parts = batches_per_step(cfg, world_size)
    shared = OmegaConf.merge(OmegaConf.create(flags={"allow_objects": True}), cfg)
    if any(override.partition("=")[0] == key for override in overrides):
        size = OmegaConf.select(cfg, key)
        shared.train.total_batch_size = parts * size if isinstance(size, int) else 0  # refused soon
        logger.info("%s=%s is given: train.total_batch_size=%d is not used", key, size, total)
        return shared
    if total % parts:
        raise UserError(
            f"train.total_batch_size is {total} and cannot be shared out equally to {parts} "
            f"batches a step ({world_size} processes x virtual ranks x train.accumulation); change "
            f"one of them, or give {key}."
        )
    shared.tasks[tasks[0]].batch_size = total // parts
    return shared


def scale_to_batches(cfg: DictConfig, batches: int, overrides: Sequence[str] = ()) -> DictConfig:
    """The config for another number of batches per step than it was written for.

    A step of ``train.reference_world_size`` batches (56 in the paper: one per GPU) has the learning
    rate and the number of iterations that the config says. With k times as many, the linear rule
    holds (Goyal et al., 2017): the learning rate is multiplied by k, and ``train.max_iter`` and the
    periods of checkpoints, routes and evaluations are divided by k, so that a run sees the same
    samples and a period is the same share of it. Warm-up and temperature are shares of the run.

    Args:
        cfg: the run's config; it is not changed.
        batches: per step, see `batches_per_step`.
        overrides: ``key=value`` strings of the command line; what they set is meant as it is.

    Returns:
        The scaled config, whose reference is the present number: to scale it again changes nothing.
        The config itself where ``reference_world_size`` is 0 (off) or the present number.

    Raises:
        UserError: ``reference_world_size`` is negative, or there is no ``optimizer.lr`` to scale.
    """
    reference = cfg.train.get("reference_world_size", 0)
    if not isinstance(reference, int) or reference < 0:
        raise UserError(
            f"train.reference_world_size is {reference!r}; give the number of batches per step "
            "that the config was written for, or 0 to scale nothing."
        )
    if reference in (0, batches):
        return cfg
    if "lr" not in cfg.optimizer:
        raise UserError(
            "train.reference_world_size scales optimizer.lr, which the config does not have; set "
            "train.reference_world_size=0."
        )
    factor = batches / reference
    scaled = OmegaConf.merge(OmegaConf.create(flags={"allow_objects": True}), cfg)
    periods = [f"train.{key}" for key in ("max_iter", *PERIODS)]
    periods += [f"tasks.{name}.eval_period" for name in cfg.tasks]
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    for key in periods:
        if key not in given and OmegaConf.select(cfg, key):
            iterations = max(1, round(int(OmegaConf.select(cfg, key)) / factor))
            OmegaConf.update(scaled, key, iterations)
    if "optimizer.lr" not in given:
        scaled.optimizer.lr = float(cfg.optimizer.lr) * factor
    scaled.train.reference_world_size = batches
    logger.info(
        "%d batches a step instead of %d: learning rate %g (config: %g), %d iterations (config: "
        "%d); train.reference_world_size=0 scales nothing",
        batches, reference, scaled.optimizer.lr, cfg.optimizer.lr, scaled.train.max_iter,
        cfg.train.max_iter,
    )  # fmt: skip
    return scaled


def config_text(cfg: DictConfig) -> str:
    """The config as YAML text: what is written to ``config.yaml`` and into checkpoints."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    return OmegaConf.to_yaml(OmegaConf.create(_plain(plain), flags={"allow_objects": True}))


def _plain(node: Any) -> Any:
    """Plain data for YAML: classes by their importable names, dataclass objects as lazy calls."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_plain(value) for value in node]
    if isinstance(node, (str, int, float, bool, type(None))):
        return node
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
        return {"_target_": _plain(type(node)), **fields}
    module, name = getattr(node, "__module__", None), getattr(node, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(node)


def fingerprint(cfg: DictConfig) -> str:
    """A digest of everything that ranks must agree on; where a run writes to does not count."""
    text = config_text(OmegaConf.merge(cfg, {"train": {"output_dir": "", "device": ""}}))
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # addresses of objects without a name
    return hashlib.sha256(text.encode()).hexdigest()[:16]
