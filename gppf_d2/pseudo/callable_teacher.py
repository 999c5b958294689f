"""Any function as a teacher: a depth network from elsewhere, a rule, a client of a service."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gppf_d2.data.mappers.reading import read_image
from gppf_d2.data.pseudo_labels import KINDS
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo.teacher import (
    Inputs,
    Label,
    Teacher,
    check_labels,
    existing_file,
    hash_file,
    hash_json,
    plain,
)


def read_rgb(record: dict[str, Any]) -> dict[str, Any]:
    """The mapper of callables: "image" is uint8 RGB [H, W, 3], as in the file."""
    record = dict(record)
    return {"image": torch.from_numpy(read_image(record, "RGB").copy())}


class CallableTeacher(Teacher):
    """A function in a file, which makes the function that labels.

    ``name(**options)`` is called once and returns a function from a list of RGB uint8 arrays
    [H, W, 3], of any sizes, to a list of dicts: per label, under its name or its kind, what a head
    puts out (probabilities [K], Detectron2 Instances, scores [K, H, W], depth [H, W]), as tensor or
    array. Maps of another size are brought to the image's. It runs on whatever device it likes.

    Args:
        function: "file.py:name".
        labels: label -> dict of "kind" and, where there are classes, "classes", their names, or
            "num_classes".
        options: of the function; those that name files count with the files' content.

    Raises:
        UserError: no such file or function, or a label of no known kind.
    """

    def __init__(
        self,
        function: str,
        labels: Mapping[str, Mapping[str, Any]],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = str(function)
        self.file, colon, self.name = self.function.rpartition(":")
        if not colon or not self.name.isidentifier():
            raise UserError(f"function is {function!r}; write 'file.py:name'.")
        existing_file(self.file, "file of a teacher")
        chosen = check_labels(labels, f"The teacher '{function}'")
        self.labels = {name: _label(name, entry) for name, entry in chosen.items()}
        self.options = plain(options or {})
        self.label_images = self._make()
        self.mappers, self.divisors = [read_rgb], [0]

    def describe(self) -> dict[str, Any]:
        files = {
            key: hash_file(value)
            for key, value in sorted(self.options.items())
            if isinstance(value, str) and os.path.isfile(value)
        }
        options = {key: value for key, value in self.options.items() if key not in files}
        return {
            "type": "callable",
            "source": self.function,
            "weights_hash": hash_json([hash_file(self.file), files]),
            "name": self.name,
            "options": options,
            "labels": {name: label.kind for name, label in self.labels.items()},
        }

    def to(self, device: torch.device) -> None:
        """Nothing: the function knows where it runs."""

    def _make(self) -> Callable[[list[np.ndarray]], Sequence[Mapping[str, Any]]]:
        spec = importlib.util.spec_from_file_location(Path(self.file).stem, self.file)
        if spec is None or spec.loader is None:
            raise UserError(f"'{self.file}' is no Python file; write 'file.py:name'.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        make = getattr(module, self.name, None)
        if not callable(make):
            raise UserError(f"'{self.file}' has no function {self.name!r}.")
        made = make(**self.options)
        if not callable(made):
            raise UserError(
                f"'{self.function}' returned a {type(made).__name__}; it must return the function "
                "from a list of images to a list of outputs."
            )
        return made

    def __call__(self, batch: Sequence[Inputs]) -> list[dict[str, Any]]:
        images = [sample["image"].numpy() for (sample,) in batch]
        try:
            outputs = list(self.label_images(images))
        except Exception as error:
            raise UserError(
                f"'{self.function}' failed on {len(images)} images, the first of "
                f"{images[0].shape}: {type(error).__name__}: {error}."
            ) from error
        if len(outputs) != len(images):
            raise UserError(
                f"'{self.function}' returned {len(outputs)} outputs for {len(images)} images; it "
                "must return a dict for each."
            )
        return [self._named(output) for output in outputs]

    def _named(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """An output by label."""
        found = {}
        for name, label in self.labels.items():
            key = name if name in output else label.kind
            if key not in output:
                raise UserError(
                    f"'{self.function}' gave {', '.join(map(repr, output)) or 'nothing'} for an "
                    f"image; it must give {name!r} (or {label.kind!r})."
                )
            value = output[key]
            found[name] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        return found


def _label(name: str, entry: Any) -> Label:
    known = ("kind", "classes", "num_classes")
    if not isinstance(entry, Mapping) or not set(entry) <= set(known) or "kind" not in entry:
        raise UserError(f"Label {name!r} is {entry!r}; write dict(kind=...), with {known[1:]}.")
    if entry["kind"] not in KINDS:
        raise UserError(
            f"Label {name!r} has kind {entry['kind']!r}, which cannot be stored; kinds of labels "
            f"are {', '.join(KINDS)}."
        )
    classes = tuple(str(one) for one in entry.get("classes") or ())
    return Label(entry["kind"], classes, int(entry.get("num_classes") or len(classes)))
