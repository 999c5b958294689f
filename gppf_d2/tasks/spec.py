"""What a task is: datasets, mapper, head, evaluators and weights in one object of the config.

``tasks`` in a config is a dict name -> ``L(Task)(...)``. Heads, mappers and evaluators stay lazy
here (the config nodes, untouched): a rank may read what a task is without building it, and the room
that owns a thing builds it. Everything that can be checked without building is checked here, with
the task's name in the sentence.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_Spec = TypeVar("_Spec")


@dataclass(kw_only=True)
class Evaluation:
    """One dataset on which a task is evaluated.

    Args:
        dataset: name of a registered dataset.
        evaluator: lazy config of a Detectron2 ``DatasetEvaluator``.
        mapper: lazy config of the callable record -> sample in evaluation.
        tta: lazy config of a test-time augmentation, a callable (inference, samples) -> outputs
            with inference: samples -> outputs of the head; None runs the head once.
        label: the one label head of a multi-label head that is run and evaluated; "" runs all.

    Raises:
        ValueError: a field is empty, or no such value.
    """

    dataset: str
    evaluator: Any
    mapper: Any
    tta: Any = None
    label: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, str) or not self.dataset:
            raise ValueError(
                f"dataset is {self.dataset!r}; an evaluation names one registered dataset."
            )
        if not isinstance(self.label, str):
            raise ValueError(f"label is {self.label!r}; give the name of a label head, or ''.")
        _require(self, "evaluator", "mapper")


@dataclass(kw_only=True)
class Task:
    """A dataset and an algorithm (pre-process, network, loss), GPPF section 3.2.

    Args:
        name: lower-case letters, digits and underscores; filled in from the key of the config's
            dict.
        train: names of registered datasets, used as one; a single name may be a plain string.
        mapper: lazy config of the callable record -> sample in training.
        batch_size: samples per process and micro-step, >= 1.
        head: lazy config of the head, which reaches the backbone through a view.
        weight: sampling weight, > 0, relative to the other tasks'.
        loss_weight: factor on the task's losses, >= 0.
        evaluators: where and how the task is evaluated; dicts become ``Evaluation``.
        eval_period: iterations between evaluations; 0 takes the run's ``train.eval_period``.
        filter_empty: leave out training images without an object that is not a crowd, as Detectron2
            does by default; images with a class count as having one. Every dataset is asked for its
            own annotations, a pseudo-labelled one for those of the dataset that was labelled; one
            without annotations of objects or classes, as a folder of images, stays whole. Pseudo
            labels are not looked at: an image in which a teacher found nothing is a negative.
        repeat_threshold: frequency below which categories are oversampled (LVIS: 0.001), counted
            over all of ``train``; 0 is off.
        equal_datasets: draw from every dataset of ``train`` with equal probability, whatever their
            sizes (supervised multi-task training, MuST section 4.2); within a dataset
            ``repeat_threshold`` decides. False draws uniformly from the union.
        batch_transform: lazy config of a callable list of samples -> list of samples that mixes a
            whole batch (as MixUp does), or None.

    Raises:
        ValueError: a field that cannot be meant, with its value and what is allowed.
    """

    name: str = ""
    train: tuple[str, ...]
    mapper: Any
    batch_size: int
    head: Any
    weight: float = 1.0
    loss_weight: float = 1.0
    evaluators: list[Evaluation] = field(default_factory=list)
    eval_period: int = 0
    filter_empty: bool = False
    repeat_threshold: float = 0.0
    equal_datasets: bool = False
    batch_transform: Any = None

    def __post_init__(self) -> None:
        if self.name and not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ValueError(
                f"The task name {self.name!r} cannot be a key of checkpoints and metrics; use "
                "lower-case letters, digits and underscores, with a letter first."
            )
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"Task {self.name!r}: {error}") from None

    def _check(self) -> None:
        self.train = _names(self.train)
        _require(self, "mapper", "head")
        _check_integer("batch_size", self.batch_size, 1)
        _check_integer("eval_period", self.eval_period, 0)
        _check_boolean("filter_empty", self.filter_empty)
        _check_boolean("equal_datasets", self.equal_datasets)
        _check_number("weight", self.weight, "a positive number", lambda x: x > 0)
        _check_number("loss_weight", self.loss_weight, "0 or a positive number", lambda x: x >= 0)
        _check_number(
            "repeat_threshold",
            self.repeat_threshold,
            "a frequency from 0 to 1",
            lambda x: 0 <= x <= 1,
        )
        if isinstance(self.evaluators, (str, Mapping)) or not isinstance(self.evaluators, Sequence):
            raise ValueError(
                f"evaluators is {self.evaluators!r}; it must be a list of evaluations."
            )
        self.evaluators = [
            entry if isinstance(entry, Evaluation) else _build(Evaluation, entry, "an evaluator")
            for entry in self.evaluators
        ]


def tasks_from_config(cfg_tasks: Mapping[str, Any]) -> dict[str, Task]:
    """Read the ``tasks`` section of a config.

    Args:
        cfg_tasks: task name -> mapping of ``Task``'s arguments (a lazy call's ``_target_`` is
            ignored), or -> ``Task``; plain dicts and config nodes alike.

    Returns:
        Task name -> ``Task``, in the config's order.

    Raises:
        ValueError: no task, an unknown or missing argument, or a value that ``Task`` refuses.
    """
    if not cfg_tasks:
        raise ValueError("The config's `tasks` is empty; name at least one task.")
    tasks = {}
    for name, entry in cfg_tasks.items():
        given = entry.name if isinstance(entry, Task) else _field(entry, "name", name)
        if not name or given not in ("", name):
            raise ValueError(
                f"The task under the key {name!r} is named {given!r}; leave its name out, "
                "the key is its name."
            )
        if isinstance(entry, Task):
            tasks[name] = dataclasses.replace(entry, name=name)
        else:
            tasks[name] = _build(Task, entry, f"Task {name!r}", name=name)
    return tasks


def restrict(tasks: Mapping[str, Task], names: Iterable[str]) -> dict[str, Task]:
    """Keep some of the tasks (``--tasks a,b``), in the config's order.

    Raises:
        KeyError: a name that no task has.
        ValueError: no name at all.
    """
    wanted = list(names)
    for name in wanted:
        if name not in tasks:
            raise KeyError(f"There is no task {name!r}; the config has {', '.join(tasks)}.")
    if not wanted:
        raise ValueError(f"No task is left; name some of {', '.join(tasks)}.")
    return {name: task for name, task in tasks.items() if name in wanted}


def _field(entry: Any, key: str, task: str) -> Any:
    if not isinstance(entry, Mapping):
        raise ValueError(f"Task {task!r} is {entry!r}; write L(Task)(...) or a dict.")
    return entry.get(key, "")


def _build(cls: type[_Spec], entry: Any, what: str, **more: Any) -> _Spec:
    """Call a dataclass with a mapping's values, after checking the names of its arguments."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{what} is {entry!r}; write L({cls.__name__})(...) or a dict.")
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {key: entry[key] for key in entry if key != "_target_"} | more
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{what} has no field {key!r}; it takes {', '.join(known)}.{hint}")
    missing = [
        key
        for key, f in known.items()
        if key not in arguments
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(
            f"{what} lacks {', '.join(missing)}; give every task and evaluator its own."
        )
    return cls(**arguments)


def _names(train: Any) -> tuple[str, ...]:
    names = (train,) if isinstance(train, str) else tuple(train or ())
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"train is {train!r}; name at least one registered dataset.")
    if len(set(names)) < len(names):
        raise ValueError(f"train names a dataset twice: {', '.join(names)}.")
    return names


def _require(spec: Any, *keys: str) -> None:
    for key in keys:
        if getattr(spec, key) is None:
            raise ValueError(f"{key} is None; give the lazy config of one.")


def _check_integer(key: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key} is {value!r}; it must be a whole number, at least {least}.")


def _check_boolean(key: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}; it must be true or false.")


def _check_number(key: str, value: Any, allowed: str, good: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and good(value)):
        raise ValueError(f"{key} is {value!r}; it must be {allowed}.")
