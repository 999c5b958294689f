"""Samples with several labels on one image, supervised and pseudo ones alike (MuST, section 3.2).

A sample is {"image", "height", "width", "file_name", "labels"}, and "labels" is label name ->
{sample key: value}: a head that wants a label gets its value under the key that it always has. A
label that an image does not have is not there.

    labels=dict(
        classes=dict(kind="classes", supervised=["imagenet_1k_train"], num_classes=1000),
        boxes=dict(kind="instances", supervised=["objects365_v2_train"], num_classes=365),
        depth=dict(kind="inverse_depth"),
    )

Of an image of ImageNet this takes the class from ImageNet, boxes and depth from pseudo labels.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from gppf_d2.data.mappers.label_kinds import KINDS
from gppf_d2.data.mappers.measurements import enlargement
from gppf_d2.data.mappers.reading import check_image_format, load_image, read_bytes
from gppf_d2.data.pseudo_labels import image_hash, open_shard

_KEPT = ("file_name", "image_id", "dataset_name", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a label is and where an image has it from.

    Args:
        kind: "classes", "instances", "sem_seg", "depth", "inverse_depth" or "normals".
        supervised: datasets whose own annotations are the label; all others take pseudo labels.
        pseudo: take the pseudo label of the same name, or of this one; False: never.
        num_classes: number of classes K, of kinds that have some; values are checked against it
            where it is given.
        masks: instances carry masks, where all objects of their image have one.
        min_score: pseudo boxes with a lower score are left out.

    Raises:
        ValueError: a value that cannot be meant, or that the kind would ignore.
    """

    kind: str
    supervised: Sequence[str] = ()
    pseudo: bool | str = True
    num_classes: int | None = None
    masks: bool = False
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(KINDS)}")
        if isinstance(self.supervised, str):
            raise ValueError(f"supervised is {self.supervised!r}; give a list of datasets")
        object.__setattr__(self, "supervised", tuple(self.supervised))
        if not self.supervised and not self.pseudo:
            raise ValueError("it is neither supervised nor pseudo: no image would ever have it")
        for option in ("num_classes", "masks", "min_score"):
            value = getattr(self, option)
            if value and option not in KINDS[self.kind].options:
                raise ValueError(f"{option} is {value!r}, which means nothing to {self.kind!r}")
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes is {self.num_classes}, expected 1 or more")
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score is {self.min_score}, expected a score from 0 to 1")
        if self.min_score and not self.pseudo:
            raise ValueError(f"min_score is {self.min_score}, but pseudo labels are not taken")


class MultiLabelMapper:
    """Read an image once, augment it, and move all its labels along.

    Args:
        is_train: True; for evaluation every label has its kind's own mapper.
        labels: name -> ``Label``, or a mapping of its arguments. A name is that of the label's head
            and of its pseudo labels.
        augmentations: Detectron2 augmentations that ask for the image alone, as an image may lack
            any label. What they pad has no label.
        image_format: "RGB" or "BGR".

    Attributes:
        reads_dataset_name: records must have "dataset_name"; the engine adds it.

    Raises:
        ValueError: not for training, no label, one that cannot be meant, or an augmentation that
            asks for labels.
    """

    reads_dataset_name = True

    def __init__(
        self,
        is_train: bool = True,
        *,
        labels: Mapping[str, Label | Mapping[str, Any]],
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
    ) -> None:
        if not is_train:
            raise ValueError(
                "is_train is False, but several labels of an image are for training; evaluate each "
                "label with the mapper of its kind (DetectionMapper, SemanticMapper, ...)"
            )
        if not labels:
            raise ValueError("labels is empty; name at least one label")
        self.labels = {str(name): _label(name, given) for name, given in labels.items()}
        self.augmentations = T.AugmentationList(augmentations)
        for one in self.augmentations.augs:
            asked = {"sem_seg", "boxes"} & inspect.signature(one.get_transform).parameters.keys()
            if asked:
                raise ValueError(
                    f"the augmentation {type(one).__name__} asks for {', '.join(sorted(asked))}, "
                    "which an image may lack; take one that asks for the image alone"
                )
        self.image_format = check_image_format(image_format)

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """The datasets whose own annotations are taken, each once."""
        return tuple(dict.fromkeys(n for one in self.labels.values() for n in one.supervised))

    def check_datasets(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Refuse to train with a label that no image has: its head would stay as it is, in silence.

        Args:
            records: one of each dataset, as ``__call__`` takes them.

        Raises:
            ValueError: such a label, or a dataset without any.
        """
        sources = [self._sources(record) for record in records]
        given = {name for own, stored in sources for name in (*own, *stored)}
        lacking = [name for name in self.labels if name not in given]
        if lacking:
            raise ValueError(
                f"Label {lacking[0]!r} is on no image: no dataset of the training data is among "
                "its supervised ones or has such pseudo labels; train on pseudo_NAME for the "
                "pseudo labels of NAME, or leave the label out"
            )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: with "file_name" and "dataset_name"; with the annotations of the labels that are
                supervised in its dataset; with "pseudo_shard" and "pseudo_row" where it has pseudo
                labels.

        Returns:
            "image" uint8 [3, H', W'], "labels" (see the module's docstring; maps are [H', W']), and
            of the record "file_name", "image_id", "dataset_name", "height" and "width" of the file,
            and "focal_length" in pixels of the image, as far as it has them.

        Raises:
            OSError: a file cannot be read.
            ValueError: the image has no label at all, or one that cannot be right.
        """
        sample = dict(record)  # its size is filled in
        own, stored = self._sources(sample)
        image = self._read_image(sample, labelled=bool(stored))
        values = self._own_values(sample, own) | self._stored_values(sample, stored)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        result = {key: sample[key] for key in _KEPT if key in sample}
        if "focal_length" in sample:
            result["focal_length"] = sample["focal_length"] * enlargement(transforms)
        result["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        result["labels"] = {}
        size = augmented.image.shape[:2]
        for name in (name for name in self.labels if name in values):
            label = self.labels[name]
            kind = KINDS[label.kind]
            moved = kind.moved(values[name], transforms, size, label)
            result["labels"][name] = {kind.key: moved}
        return result

    def _read_image(self, record: dict[str, Any], labelled: bool) -> np.ndarray:
        """The image, which is the very one that was labelled: a list of images may have changed
        since, and hashing costs a hundredth of decoding."""
        data = read_bytes(record)
        pixels = np.asarray(load_image(record, data))  # a damaged file is no other image
        if labelled:
            shard, row = open_shard(record["pseudo_shard"]), record["pseudo_row"]
            if image_hash(data) != shard.cell("image_hash", row):
                raise ValueError(
                    f"'{record['file_name']}' is not the image that its pseudo labels are of "
                    f"('{shard.cell('file_name', row)}'); restore the images, or label anew"
                )
        return pixels[:, :, ::-1] if self.image_format == "BGR" else pixels

    def _sources(self, record: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """The labels that are supervised, and those that have a pseudo label, with its name."""
        file_name, dataset = record["file_name"], record.get("dataset_name")
        if dataset is None:
            raise ValueError(
                f"'{file_name}' has no 'dataset_name' in its record, which says whose annotations "
                "it has; let the engine load the records, or add it"
            )
        own = [name for name, label in self.labels.items() if dataset in label.supervised]
        there: Mapping[str, Any] = {}
        if "pseudo_shard" in record:
            there = open_shard(record["pseudo_shard"]).labels
        stored = {
            name: name if label.pseudo is True else str(label.pseudo)
            for name, label in self.labels.items()
            if name not in own and label.pseudo
        }
        stored = {name: source for name, source in stored.items() if source in there}
        if not own and not stored:
            raise ValueError(
                f"'{file_name}' of dataset '{dataset}' has none of the labels "
                f"{', '.join(self.labels)}; name the dataset as supervised in one of them, train "
                "on its pseudo labels, or leave it out"
            )
        return own, stored

    def _own_values(self, record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        values = {}
        for name in names:
            kind = KINDS[self.labels[name].kind]
            with _named(name):
                if kind.annotation not in record:
                    raise ValueError(
                        f"'{record['file_name']}' has no '{kind.annotation}' in its record; "
                        f"'{record['dataset_name']}' cannot be among its supervised datasets"
                    )
                values[name] = kind.own(record, self.labels[name])
        return values

    def _stored_values(self, record: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Any]:
        if not sources:
            return {}
        shard, row = open_shard(record["pseudo_shard"]), record["pseudo_row"]
        for name, source in sources.items():
            with _named(name):
                _check_fit(self.labels[name], shard.labels[source], source)
        decoded = shard.read(row, dict.fromkeys(sources.values()))
        values = {}
        for name, source in sources.items():
            with _named(name):
                label = self.labels[name]
                values[name] = KINDS[label.kind].stored(decoded[source], label)
        return values


def _check_fit(label: Label, stored: Any, source: str) -> None:
    """Refuse pseudo labels of another kind, or of other classes."""
    if label.kind != stored.kind:
        raise ValueError(
            f"its kind is '{label.kind}', but the pseudo labels '{source}' are of kind "
            f"'{stored.kind}'; correct the kind, or name other pseudo labels"
        )
    if label.num_classes and stored.num_classes and label.num_classes != stored.num_classes:
        raise ValueError(
            f"num_classes is {label.num_classes}, but the pseudo labels '{source}' have "
            f"{stored.num_classes} classes; correct it, or name other pseudo labels"
        )


def _label(name: str, given: Label | Mapping[str, Any]) -> Label:
    """A label from a mapping or a config node of its arguments."""
    if isinstance(given, Label):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"Label {name!r} is {given!r}; write Label(...) or a dict")
    arguments = {str(key): given[key] for key in given if key != "_target_"}
    known = [field.name for field in dataclasses.fields(Label)]
    unknown = [key for key in arguments if key not in known]
    if unknown or "kind" not in arguments:
        wrong = f"has no field {unknown[0]!r}" if unknown else "lacks its kind"
        raise ValueError(f"Label {name!r} {wrong}; it takes {', '.join(known)}")
    with _named(name):
        return Label(**arguments)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Context in which a ValueError gets the label's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Label {name!r}: {error}") from error
