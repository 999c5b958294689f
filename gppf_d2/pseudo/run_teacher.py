"""Tasks of a run of this package as a teacher: one lego model may label several tasks.

Tasks whose routes and images are equal share one pass of the backbone
(`MultiTaskModel.shared_features`), label heads of a multi-label student one of the trunk too, so
that a student can be the next teacher at the price of one network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

from gppf_d2.data.catalog import register_all
from gppf_d2.engine.checkpoint import read_checkpoint
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.setup import build_tasks, load_model
from gppf_d2.modeling.heads import MultiLabelHead
from gppf_d2.pseudo.teacher import (
    CLASS_METADATA,
    Inputs,
    Label,
    Teacher,
    check_labels,
    choose_kind,
    class_names,
    hash_file,
    number_of_classes,
    on_device,
)
from gppf_d2.tasks.spec import Evaluation, Task

PLAIN = (str, int, float, tuple)


@dataclass(frozen=True)
class _Source:
    """Where in a model a label comes from: task, its label head or "", kind or "" for the only."""

    task: str
    head: str
    kind: str

    @classmethod
    def of(cls, text: str) -> _Source:
        place, _, kind = str(text).partition(":")
        task, _, head = place.partition(".")
        return cls(task, head, kind)

    def __str__(self) -> str:
        return f"{self.task}.{self.head}" if self.head else self.task


class RunTeacher(Teacher):
    """A run folder of this package.

    Images are read as the task's (first) evaluation reads them; with averaged parameters
    (``train.ema_decay``) these are taken, as the run's own evaluation does.

    Args:
        run: the run's output folder.
        labels: label -> "task", or "task.label head" of a multi-label student; where a head gives
            several kinds of output with ":kind" at the end.
        checkpoint: file in the folder.

    Raises:
        UserError: no such folder, checkpoint, task or label head, or a task without evaluation.
    """

    def __init__(
        self, run: str, labels: Mapping[str, str], checkpoint: str = "model_final.pth"
    ) -> None:
        folder = Path(run).expanduser()
        self.config = folder / "config.yaml"
        if not self.config.is_file():
            raise UserError(
                f"There is no run in '{run}' (no config.yaml); give the output folder of a run of "
                "train_net.py."
            )
        self.run, self.checkpoint, self.path = str(run), checkpoint, str(folder / checkpoint)
        chosen = check_labels(labels, f"The teacher '{run}'")
        self.sources = {name: _Source.of(value) for name, value in chosen.items()}
        cfg = load_config(str(self.config), ["train.device=cpu"])
        self.tasks = build_tasks(cfg)
        for source in self.sources.values():
            if source.task not in self.tasks:
                raise UserError(
                    f"The run '{run}' has no task {source.task!r}; it has {', '.join(self.tasks)}."
                )
        held = list(dict.fromkeys(source.task for source in self.sources.values()))
        averaged = bool(cfg.train.get("ema_decay"))
        self.model = load_model(cfg, self.path, tasks=held, ema=averaged)
        self.sources = {name: self._only_head(one) for name, one in self.sources.items()}
        self.saved_classes = read_checkpoint(self.path, mmap=True).get("classes") or {}
        register_all()
        self._read()

    def describe(self) -> dict[str, Any]:
        return {
            "type": "run",
            "source": f"{self.run}/{self.checkpoint}",
            "weights_hash": hash_file(self.path),
            "config_hash": hash_file(str(self.config)),
            "labels": {name: str(source) for name, source in self.sources.items()},
        }

    def to(self, device: torch.device) -> None:
        self.model.to(device)

    def _read(self) -> None:
        """Mappers, each once, and which label takes which."""
        configs: list[Any] = []
        divisors: list[list[int]] = []
        self.labels = {}
        for name, source in self.sources.items():
            head = self._head(source)
            mapper = self._evaluation(name, source).mapper
            number = next((n for n, other in enumerate(configs) if _equal(other, mapper)), None)
            if number is None:
                number = len(configs)
                configs.append(mapper)
                divisors.append([])
            divisors[number].append(_divisor(head.heads[source.head] if source.head else head))
            self.labels[name] = Label(mapper=number)
        self.mappers = [instantiate(config) for config in configs]
        self.divisors = [math.gcd(*one) for one in divisors]

    def _only_head(self, source: _Source) -> _Source:
        """A task of one label needs no name of it."""
        head = self.model.heads[source.task]
        if source.head or not isinstance(head, MultiLabelHead) or len(head.heads) > 1:
            return source
        return replace(source, head=next(iter(head.heads)))

    def _head(self, source: _Source) -> nn.Module:
        """The task's head, after a look whether it has the label head."""
        head = self.model.heads[source.task]
        heads = list(head.heads) if isinstance(head, MultiLabelHead) else []
        if source.head and source.head not in heads:
            raise UserError(
                f"Task {source.task!r} of '{self.run}' has no label {source.head!r}; "
                f"it has {', '.join(heads) or 'none: name the task alone'}."
            )
        if heads and not source.head:
            raise UserError(
                f"Task {source.task!r} of '{self.run}' has several labels; write "
                f"'{source.task}.{heads[0]}' for one of {', '.join(heads)}."
            )
        return head

    def _evaluation(self, name: str, source: _Source) -> Evaluation:
        """The evaluation whose mapper says how images are read for a label."""
        evaluations = self.tasks[source.task].evaluators
        own = [one for one in evaluations if one.label == source.head]
        shared = [one for one in evaluations if not one.label]
        found = own or shared
        if not found:
            raise UserError(
                f"Label {name!r}: '{source}' has no evaluation in '{self.config}' whose mapper "
                f"would say how an image is read; add one to tasks.{source.task}.evaluators."
            )
        return found[0]

    def __call__(self, batch: Sequence[Inputs]) -> list[dict[str, Any]]:
        batch = on_device(batch, next(self.model.parameters()).device)
        groups: dict[tuple[str, int], list[str]] = {}
        for name, source in self.sources.items():
            mapper = _first_alike(batch, self.labels[name].mapper)
            groups.setdefault((source.task, mapper), []).append(name)
        found: list[dict[str, Any]] = [{} for _ in batch]
        with self.model.shared_features(task for task, _ in groups):
            for (task, mapper), names in groups.items():
                samples = [inputs[mapper] for inputs in batch]
                for name, outputs in zip(names, self._outputs(task, names, samples)):
                    for image, output in zip(found, outputs):
                        image[name] = self._pick(name, output)
        return found

    def _outputs(self, task: str, names: list[str], samples: Inputs) -> list[list[dict[str, Any]]]:
        """Per label the outputs of its head, a dict per image."""
        head = self.model.heads[task]
        if not isinstance(head, MultiLabelHead):
            return [self.model.inference(task, samples)] * len(names)
        parts = [self.sources[name].head for name in names]
        outputs = head.outputs(samples, parts)
        return [outputs[part] for part in parts]

    def _pick(self, name: str, output: Mapping[str, Any]) -> Any:
        """A label's part of a head's output; the first one tells its kind."""
        label, source = self.labels[name], self.sources[name]
        if not label.kind:
            kind = choose_kind(name, output, source.kind, f"'{source}' of '{self.run}'")
            self.labels[name] = label = self._named(name, kind, output[kind])
        return output[label.kind]

    def _named(self, name: str, kind: str, output: Any) -> Label:
        """A label with the names of its classes, where somebody knows them."""
        source = self.sources[name]
        task: Task = self.tasks[source.task]
        head = self.model.heads[source.task]
        network = head.heads[source.head] if source.head else head
        count = number_of_classes(network, kind, output)
        names = class_names(kind, [self._evaluation(name, source).dataset], count)
        saved = self.saved_classes.get(source.task, {}).get(CLASS_METADATA.get(kind, ""), ())
        if not names and count in (0, len(saved)):
            names = tuple(saved)
        names = names or class_names(kind, task.train, count)
        return Label(kind, names, count, self.labels[name].mapper)


def _equal(one: Any, other: Any) -> bool:
    """Whether two lazy configs say the same, interpolations resolved."""
    plain = [OmegaConf.to_container(each, resolve=True) for each in (one, other)]
    return plain[0] == plain[1]


def _first_alike(batch: Sequence[Inputs], mapper: int) -> int:
    """The first mapper that has made the same of all images."""
    return next(
        number
        for number in range(mapper + 1)
        if all(_alike(inputs[number], inputs[mapper]) for inputs in batch)
    )


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two samples are the same; equal images are one tensor."""
    return one.keys() == other.keys() and all(
        value is other[key] or (isinstance(value, PLAIN) and value == other[key])
        for key, value in one.items()
    )


def _divisor(head: nn.Module) -> int:
    """To multiples of what a head pads its batch; 1 where that is not known."""
    backbone = getattr(head, "backbone", None)
    sides = (getattr(backbone, "size_divisibility", 1), getattr(head, "size_divisibility", 1))
    return math.lcm(*(max(1, side) for side in sides))
