"""Checkpoints: one file in one format for every schedule policy, written atomically.

A file ``model_0005000.pth`` holds ``model`` (state dict), ``optimizer`` (state by parameter NAME),
``iteration`` (steps done), ``streams`` (a handful of integers per task), ``loss_scale``, ``ema``,
``config`` (YAML text) and ``format``. It is plain data: ``torch.load(..., weights_only=True)``
reads it.

In ``pinned`` mode a rank holds one task's head; the owners' parts are gathered to rank 0 first, so
that the file does not show which policy wrote it. A newest file that cannot be read is named loudly
and the one before it used.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gppf_d2.engine.errors import UserError
from gppf_d2.engine.optimizer import named_parameters

logger = logging.getLogger(__name__)

FORMAT = 1
_NAME = re.compile(r"model_(\d{7})\.pth$")


class Checkpointer:
    """Numbered checkpoints of one output folder.

    Args:
        folder: where the files lie.
        keep: how many of the newest to keep; ``model_best_*.pth`` and ``model_final.pth`` are kept
            always.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3) -> None:
        if keep < 1:
            raise UserError(f"train.keep_checkpoints is {keep}; give a number of 1 or more.")
        self.folder = Path(folder)
        self.keep = keep

    def files(self) -> list[Path]:
        """The numbered checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("model_*.pth") if _NAME.search(path.name))

    def save(self, state: Mapping[str, Any], name: str | None = None) -> Path:
        """Write one checkpoint, then drop the numbered ones beyond ``keep``.

        Args:
            state: from :func:`training_state`.
            name: file name without suffix; None numbers it by the state's iteration.
        """
        path = self.folder / f"{name or 'model_{:07d}'.format(state['iteration'])}.pth"
        write_atomically(path, lambda target: torch.save(dict(state), target))
        for old in self.files()[: -self.keep]:
            if old != path:
                old.unlink(missing_ok=True)
        logger.info("Saved checkpoint %s", path)
        return path

    def latest(self, set_aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, and its content; None where there is none.

        Args:
            set_aside: rename files that cannot be read to ``*.corrupt`` (one rank does).

        Raises:
            UserError: there are checkpoints and none of them can be read.
        """
        files = self.files()
        broken: list[Path] = []
        for path in reversed(files):
            try:
                found = path, read_checkpoint(path)
            except UserError as error:
                logger.error("%s THE PREVIOUS CHECKPOINT IS USED INSTEAD.", error)
                broken.append(path)
                continue
            for old in broken if set_aside else ():
                old.rename(old.with_suffix(".corrupt"))
            return found
        if files:
            raise UserError(
                f"None of the {len(files)} checkpoints in {self.folder} can be read; "
                "start again without --resume, or give another output folder."
            )
        return None


def newest_checkpoint(folder: str | os.PathLike) -> Path:
    """The newest checkpoint of a run that can be read: the last numbered one, or
    ``model_final.pth`` where that alone was kept.

    Raises:
        UserError: there is none, or none that can be read.
    """
    found, final = Checkpointer(folder).latest(), Path(folder) / "model_final.pth"
    if found is None and not final.is_file():
        raise UserError(f"There is no checkpoint in {os.fspath(folder)!r}; train first.")
    return found[0] if found else final


def write_atomically(path: Path, write: Any) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | os.PathLike, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running any code from it.

    Args:
        path: a ``model_*.pth`` of a run.
        mmap: leave tensors in the file until they are used (a part of them is wanted).

    Raises:
        UserError: no such file, truncated, or not one of ours.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no checkpoint {str(path)!r}.")
    try:
        mmap = mmap and zipfile.is_zipfile(path)  # no other file can be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"The checkpoint {str(path)!r} cannot be read ({first}).") from error
    if not isinstance(state, dict) or "model" not in state or "format" not in state:
        raise UserError(
            f"{str(path)!r} is not a gppf_d2 checkpoint (no 'model' and 'format' in it); "
            "plain backbone weights go into train.init_checkpoint with train.init_route empty."
        )
    return state


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The optimizer's state by parameter name."""
    return {
        name: dict(optimizer.state[parameter])
        for name, parameter in named_parameters(optimizer).items()
        if parameter in optimizer.state
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put a state by name back; parameters without an entry start fresh."""
    for name, parameter in named_parameters(optimizer).items():
        optimizer.state.pop(parameter, None)
        if name in state:
            optimizer.state[parameter] = {
                key: value.to(parameter.device)
                if torch.is_tensor(value) and value.shape == parameter.shape
                else value.clone()
                if torch.is_tensor(value)
                else value
                for key, value in state[name].items()
            }


def gather_parts(
    mine: dict[str, Any], is_owner: bool, group: dist.ProcessGroup | None
) -> dict[str, Any]:
    """Merge what the owners of pinned heads hold; rank 0 gets the union.

    Collective: all ranks must call.

    Args:
        mine: nested dicts; rank 0's own part first, the owners' parts are merged into it.
        is_owner: whether this rank speaks for its task (the lowest rank of the task).
        group: the control group; None in a single process.
    """
    if group is None:
        return mine
    parts: list[Any] | None = (
        [None] * dist.get_world_size(group) if dist.get_rank(group) == 0 else None
    )
    dist.gather_object(mine if is_owner else None, parts, dst=0, group=group)
    for part in parts or []:
        _merge(mine, part or {})
    return mine


def _merge(into: dict[str, Any], part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into.setdefault(key, value)


def load_model_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    source: str,
    allow_task_changes: bool = False,
    held: set[str] | None = None,
    remedy: str = "give the --tasks of before, or --allow-task-changes to keep what they share",
) -> None:
    """Load a state dict, refusing what differs with a list of it.

    Args:
        model: a ``MultiTaskModel``.
        state: from a checkpoint; may hold more heads than this rank.
        source: named in the error.
        allow_task_changes: tasks may have come or gone since; new ones stay fresh.
        held: tasks whose head this rank holds; None means all of the model's.
        remedy: what to do about other tasks, for the error.
    """
    tasks = set(model.controllers)
    held = tasks if held is None else held
    saved_tasks = {name.split(".")[1] for name in state if name.startswith("controllers.")}
    if saved_tasks != tasks and not allow_task_changes:
        raise UserError(
            f"The checkpoint {source} has the tasks {', '.join(sorted(saved_tasks))}, "
            f"the config {', '.join(sorted(tasks))}; {remedy}."
        )
    gone, new = saved_tasks - tasks, tasks - saved_tasks

    def belongs(name: str, to: set[str]) -> bool:
        return name.startswith(("heads.", "controllers.")) and name.split(".")[1] in to

    elsewhere = tasks - held
    wanted = model.state_dict()
    given = {
        name: value
        for name, value in state.items()
        if not belongs(name, gone) and not (name.startswith("heads.") and belongs(name, elsewhere))
    }
    missing = [name for name in wanted if name not in given and not belongs(name, new)]
    unexpected = [name for name in given if name not in wanted]
    reshaped = [
        f"{name} {tuple(given[name].shape)} against {tuple(wanted[name].shape)}"
        for name in given
        if name in wanted and given[name].shape != wanted[name].shape
    ]
    if missing or unexpected or reshaped:
        lines = [f"missing {name}" for name in missing] + [f"unexpected {n}" for n in unexpected]
        lines += [f"shape {text}" for text in reshaped]
        more = f" and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise UserError(
            f"The checkpoint {source} is of another config: {'; '.join(lines[:8])}{more}."
        )
    model.load_state_dict(given, strict=False)
    if gone or new:
        logger.warning("Tasks changed since %s: gone %s, new %s", source, sorted(gone), sorted(new))
