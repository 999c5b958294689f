"""The output folder of a run: log, config, a description of what ran where."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

import gppf_d2
from gppf_d2.engine.checkpoint import Checkpointer, write_atomically
from gppf_d2.engine.config import config_text
from gppf_d2.engine.errors import UserError

# What they say per dataset, task and rank is needed once, or not at all.
TALKATIVE = {
    "detectron2.data.common": logging.WARNING,
    "detectron2.data.dataset_mapper": logging.WARNING,
    # warns of how Detectron2's Mask R-CNN asks whether it is traced
    "torch.fx._symbolic_trace": logging.ERROR,
}
LOGGERS = ("gppf_d2", "detectron2", "fvcore")


def claim(folder: Path, fresh: bool, must_exist: bool = False) -> None:
    """Make the folder (rank 0).

    Args:
        fresh: a new training run, which must not overwrite an older one.
        must_exist: the folder is read from.

    Raises:
        UserError: the folder cannot be made, or holds checkpoints of an earlier run.
    """
    if must_exist and not folder.is_dir():
        raise UserError(
            f"There is no run in {str(folder)!r}; give --checkpoint FILE or train first."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The output folder {str(folder)!r} cannot be made: {error}.") from error
    for litter in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
        litter.unlink(missing_ok=True)
    old = Checkpointer(folder).files() if fresh else []
    if old:
        raise UserError(
            f"{str(folder)!r} holds checkpoints of an earlier run ({old[-1].name}); go on with "
            "--resume or give another train.output_dir."
        )


def open_logs(folder: Path, rank: int) -> None:
    """Log to the console (rank 0) and to ``log.txt`` (``log.txt.rankN`` elsewhere)."""
    for name in LOGGERS:
        setup_logger(str(folder), distributed_rank=rank, name=name)
    for name, level in TALKATIVE.items():
        logging.getLogger(name).setLevel(level)


def describe(
    folder: Path,
    cfg: DictConfig,
    config_file: str,
    command: str,
    world_size: int,
    *,
    hardware: Mapping[str, Any],
    data: Mapping[str, Any],
    initial_weights: str | None = "",
) -> None:
    """Write ``config.yaml`` and ``run.json`` (rank 0).

    Args:
        hardware: as ``hardware.hardware`` gives it.
        data: {task: {"train": {dataset: samples}, "evaluation": {dataset: images}}}.
        initial_weights: what the run started from, in text; None keeps what its start wrote.
    """
    _write(folder / "config.yaml", config_text(cfg))
    gpus = torch.cuda.device_count() if str(cfg.train.device) != "cpu" else 0
    description: dict[str, Any] = {
        "config_file": os.path.basename(config_file),
        "command": command,
        "commit": _commit(),
        "world_size": world_size,
        "num_gpus": gpus,
        "device": torch.cuda.get_device_name() if gpus else "CPU",
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "gppf_d2": gppf_d2.__version__,
        "hardware": dict(hardware),
        "data": dict(data),
        "initial_weights": initial_weights,
    }
    if initial_weights is None:
        description["initial_weights"] = _known(folder).get("initial_weights", "")
    _write(folder / "run.json", json.dumps(description, indent=2) + "\n")


def _known(folder: Path) -> dict[str, Any]:
    """What an earlier start of the run wrote down; {} where there is nothing to read."""
    try:
        return dict(json.loads((folder / "run.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda target: Path(target).write_text(text))


def reference_world_size(folder: Path) -> int:
    """Batches a step that the run in the folder began with; 0 without one that says so.

    The newest checkpoint says it: ``config.yaml`` may be that of a start that came to nothing.

    Raises:
        UserError: there are checkpoints and none of them can be read.
    """
    found = Checkpointer(folder).latest()
    saved = yaml.safe_load(found[1].get("config") or "") if found else None
    return int(((saved or {}).get("train") or {}).get("reference_world_size") or 0)


def _commit() -> str:
    """The commit of the source tree that runs, empty for an installed package."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            cwd=Path(gppf_d2.__file__).parent,
            check=False,
        )
    except OSError:
        return ""
    return found.stdout.strip()
