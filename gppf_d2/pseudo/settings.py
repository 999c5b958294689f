"""What a labelling is asked to do: a LazyConfig of three sections, checked before anything is read.

    labelling = dict(images="data/pictures", output="data/pseudo/pictures", batch_size=8)
    teachers = dict(boxes=L(RunTeacher)(run="output/teachers/boxes", labels=dict(boxes="boxes")))
    options = dict(boxes=dict(threshold=0.5))

Options of a label, by its kind: ``threshold`` (instances, sem_seg; 0.5), ``masks`` (instances:
store them where the teacher predicts some; true), ``top_k`` (classes; 0 stores the distribution),
``longest`` (maps: longest stored side in pixels; 0 is the image's own).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gppf_d2.data.pseudo_labels import StoredLabel
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.setup import AMP_DTYPES
from gppf_d2.pseudo.teacher import Label, plain

OPTIONS: dict[str, dict[str, Any]] = {
    "classes": {"top_k": 0},
    "instances": {"threshold": 0.5, "masks": True},
    "sem_seg": {"threshold": 0.5, "longest": 0},
    "depth": {"longest": 0},
    "inverse_depth": {"longest": 0},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A labelling.

    Args:
        output: the folder that is written.
        images: a folder of images, at any depth and in tars; or
        dataset: a registered dataset.
        teachers: name -> lazy config of a ``Teacher``, or one.
        options: label -> its options, see the module's docstring.
        shard_size: images in a file, of which a kill loses at most one.
        batch_size: images that a teacher sees at once.
        num_workers: processes that read images; 0 reads in this one.
        device: "auto", "cpu" or "cuda"; "auto" is this process's GPU where there is one.
        amp: "float32" (off), "bfloat16" or "float16".
        threads: of each process on a CPU; 0 leaves PyTorch's choice, which is 1 under torchrun and
            all cores otherwise. The last bits of a network's sums depend on it: where the bytes
            are to be the same with one process and with several, say how many.

    Raises:
        UserError: a value that cannot be meant.
    """

    output: str
    images: str = ""
    dataset: str = ""
    teachers: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shard_size: int = 1024
    batch_size: int = 8
    num_workers: int = 2
    device: str = "auto"
    amp: str = "float32"
    threads: int = 0

    def __post_init__(self) -> None:
        if bool(self.images) == bool(self.dataset):
            given = f"both images={self.images!r} and dataset={self.dataset!r}"
            raise UserError(
                f"The config gives {given if self.images else 'neither images nor dataset'}; give "
                "one: a folder, or a registered dataset."
            )
        if not self.output:
            raise UserError("output is empty; name the folder for the labels.")
        if not isinstance(self.teachers, Mapping) or not self.teachers:
            raise UserError("teachers is empty; name at least one, see configs/must/labels.")
        for key, least in (
            ("shard_size", 1),
            ("batch_size", 1),
            ("num_workers", 0),
            ("threads", 0),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{key} is {value!r}; it must be a whole number from {least} on.")
        if self.amp not in AMP_DTYPES:
            raise UserError(f"amp is {self.amp!r}; allowed are {', '.join(AMP_DTYPES)}.")

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> Settings:
        """From a config; other names in it are helpers of the file.

        Raises:
            UserError: a value that cannot be meant.
        """
        given = plain(cfg.get("labelling") or {})
        unknown = [key for key in given if key not in LABELLING]
        if unknown or "output" not in given:
            what = f"has no key {unknown[0]!r}" if unknown else "lacks output, a folder"
            raise UserError(f"The section `labelling` {what}; its keys are {', '.join(LABELLING)}.")
        teachers = cfg.get("teachers") or {}
        chosen = {name: one for name, one in teachers.items() if one is not None}
        return cls(**given, teachers=chosen, options=plain(cfg.get("options") or {}))

    def stored(self, name: str, label: Label, teacher: str) -> StoredLabel:
        """How a label is stored.

        Raises:
            UserError: an option that its kind does not have, or a value that it cannot have.
        """
        allowed = OPTIONS[label.kind]
        given = self.options.get(name) or {}
        for key, value in given.items():
            if key not in allowed:
                raise UserError(
                    f"options.{name}.{key}: labels of kind {label.kind} have "
                    f"{' and '.join(allowed)}."
                )
            _check_option(f"options.{name}.{key}", key, value, label)
        return StoredLabel(
            kind=label.kind, classes=label.classes, num_classes=label.num_classes, teacher=teacher,
            **{**allowed, **given},
        )  # fmt: skip

    def check_options(self, labels: Mapping[str, Any]) -> None:
        """Refuse options of labels that nobody gives.

        Raises:
            UserError: there is one.
        """
        for name in self.options:
            if name not in labels:
                near = difflib.get_close_matches(name, labels, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UserError(
                    f"options names {name!r}, which no teacher gives; the labels are "
                    f"{', '.join(labels)}.{hint}"
                )


LABELLING = tuple(one.name for one in fields(Settings) if one.name not in ("teachers", "options"))


def _check_option(where: str, key: str, value: Any, label: Label) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key == "masks":
        good, allowed = isinstance(value, bool), "true or false"
    elif key == "threshold":
        good, allowed = number and 0 <= value <= 1, "a number from 0 to 1"
    elif key == "top_k":
        good, allowed = (
            type(value) is int and 0 <= value < label.num_classes,
            (f"a whole number below the {label.num_classes} classes, 0 for all"),
        )
    else:
        good, allowed = type(value) is int and value >= 0, "a number of pixels, 0 for the image's"
    if not good:
        raise UserError(f"{where} is {value!r}; it must be {allowed}.")
