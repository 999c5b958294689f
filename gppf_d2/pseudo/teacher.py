"""What a teacher is: how it reads images, what it says about a batch of them, and what that is.

A teacher of another kind derives from ``Teacher`` and is named in the config like the ones here:
``teachers = dict(mine=L(MyTeacher)(...))``. Kinds and numbers of classes are found out by labelling
a picture that shows nothing (``prepare``), before any image is touched.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from gppf_d2.data.batch import map_tensors
from gppf_d2.data.mappers.reading import already_decoded
from gppf_d2.data.pseudo_labels import IGNORE, KINDS
from gppf_d2.engine.errors import UserError

CLASS_METADATA = {"classes": "classes", "instances": "thing_classes", "sem_seg": "stuff_classes"}
PROBE = (160, 224)  # height and width of the picture that shows nothing

# of one image: what each of the teacher's mappers made of it
Inputs = list[dict[str, Any]]


@dataclass(frozen=True)
class Label:
    """What a teacher says about images.

    Args:
        kind: one of ``gppf_d2.data.pseudo_labels.KINDS``; "" until it is known.
        classes: names of its classes; empty where nobody knows them.
        num_classes: K; 0 where there are no classes, or nobody knows how many.
        mapper: which of the teacher's mappers reads the image for it.
    """

    kind: str = ""
    classes: tuple[str, ...] = ()
    num_classes: int = 0
    mapper: int = 0


class Teacher(ABC):
    """Labels images.

    Attributes:
        labels: what comes out, by name; complete after ``prepare``.
        mappers: the ways in which images are read: record -> sample with "image".
        divisors: for each mapper: images are batched with others of the same size rounded up to
            multiples of it, so that nobody's input has another padding than alone; 0 batches
            images of any size.
    """

    labels: dict[str, Label]
    mappers: Sequence[Callable[[dict[str, Any]], dict[str, Any]]]
    divisors: Sequence[int]

    @abstractmethod
    def __call__(self, batch: Sequence[Inputs]) -> list[dict[str, Any]]:
        """What it says about images.

        Args:
            batch: for every image the samples of all mappers, on the CPU; where mappers read it
                alike their "image" is one tensor.

        Returns:
            For every image {label: output}, outputs as those of heads.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the labels depend on, as JSON: "type", "weights_hash" and whatever else counts.

        "source" says where it was found and does not count: a teacher may be moved.
        """

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move its network, which stays in evaluation mode."""

    def prepare(self, device: torch.device) -> dict[str, Any]:
        """Move to the device and find out what the labels are.

        Returns:
            What it says about the picture that shows nothing, of the size ``PROBE``.

        Raises:
            UserError: a label of a kind that cannot be stored, or that does not come out.
        """
        self.to(device)
        height, width = PROBE
        record = {"file_name": "probe", "image_id": 0, "height": height, "width": width}
        with already_decoded("probe", Image.new("RGB", (width, height), (124, 116, 104))):
            inputs = [mapper(dict(record)) for mapper in self.mappers]
        share_equal(inputs)
        with torch.inference_mode():
            (found,) = self([inputs])
        for name, label in self.labels.items():
            self.labels[name] = _known(name, label, found[name])
        return found


def _known(name: str, label: Label, output: Any) -> Label:
    """The label with what its output for the probe shows."""
    count = label.num_classes or len(label.classes)
    if label.kind in ("classes", "sem_seg"):
        count = len(output)
    if label.kind == "sem_seg" and count > IGNORE:
        raise UserError(
            f"Label {name!r} has {count} classes; segmentation with up to {IGNORE} can be stored."
        )
    if label.classes and len(label.classes) != count:
        raise UserError(
            f"Label {name!r} has names of {len(label.classes)} classes, and its teacher gives "
            f"{count}; name all of them, or none."
        )
    return replace(label, num_classes=count)


def on_device(batch: Sequence[Inputs], device: torch.device) -> list[Inputs]:
    """A batch on a device; a tensor that several mappers share is copied once."""
    return map_tensors(list(batch), once(lambda x: x.to(device, non_blocking=True)))


def share_equal(samples: Inputs) -> None:
    """Let equal images of several mappers be one tensor, which is sent and copied once."""
    kept: list[Tensor] = []
    for sample in samples:
        image = sample["image"]
        for other in kept:
            if other.shape == image.shape and torch.equal(other, image):
                sample["image"] = other
                break
        else:
            kept.append(image)


def once(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, called once for every tensor of a nest, however often it occurs there."""
    results: dict[int, Tensor] = {}

    def call(tensor: Tensor) -> Tensor:
        if id(tensor) not in results:
            results[id(tensor)] = function(tensor)
        return results[id(tensor)]

    return call


def choose_kind(name: str, kinds: Iterable[str], wanted: str = "", where: str = "") -> str:
    """The kind of a label among what a network puts out.

    Args:
        name: of the label.
        kinds: keys of an output.
        wanted: the kind that the config asks for; "" takes the only one that can be stored.
        where: whose output it is, for messages.

    Raises:
        UserError: not there, cannot be stored, or not clear.
    """
    found = list(kinds)
    known = [kind for kind in found if kind in KINDS]
    if wanted and wanted not in KINDS or not wanted and not known:
        gives = wanted or ", ".join(found) or "nothing"
        raise UserError(
            f"Label {name!r}: {where} gives {gives}, which cannot be stored; kinds of labels are "
            f"{', '.join(KINDS)}."
        )
    if wanted and wanted not in known:
        raise UserError(f"Label {name!r}: {where} gives {', '.join(found)}, and not {wanted}.")
    if not wanted and len(known) > 1:
        raise UserError(
            f"Label {name!r}: {where} gives {', '.join(known)}; say which with ':{known[0]}' at "
            "the end of its entry in labels."
        )
    return wanted or known[0]


def class_names(kind: str, datasets: Iterable[str], count: int = 0) -> tuple[str, ...]:
    """Names of the classes of a label, from the first dataset whose metadata fit.

    Args:
        kind: of the label.
        datasets: names; those that are not registered are passed over.
        count: K where it is known.
    """
    for dataset in datasets:
        if kind in CLASS_METADATA and dataset in DatasetCatalog:
            names = MetadataCatalog.get(dataset).get(CLASS_METADATA[kind])
            if names and count in (0, len(names)):
                return tuple(str(name) for name in names)
    return ()


def number_of_classes(network: nn.Module, kind: str, output: Any) -> int:
    """K of a label: from its output, of a detector from the network; 0 where nobody says."""
    if kind in ("classes", "sem_seg"):
        return len(output)
    owners = (getattr(network, "roi_heads", None), network) if kind == "instances" else ()
    found = [getattr(owner, "num_classes", None) for owner in owners]
    return next((number for number in found if isinstance(number, int)), 0)


def hash_file(path: str) -> str:
    """SHA-256 of a file's content, as ``sha256sum`` prints it; addresses go through Detectron2's
    path manager."""
    with open(PathManager.get_local_path(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(content: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_labels(labels: Any, what: str) -> dict[str, Any]:
    """The ``labels`` argument of a teacher as a dict.

    Raises:
        UserError: none, or a name that columns and configs cannot have.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise UserError(f"{what} has labels={labels!r}; name at least one label.")
    for name in labels:
        if not str(name).isidentifier():
            raise UserError(f"{what} has the label {name!r}; use letters, digits and underscores.")
    return {str(name): value for name, value in labels.items()}


def plain(section: Any) -> dict[str, Any]:
    """A mapping of a config as plain data."""
    if OmegaConf.is_config(section):
        return OmegaConf.to_container(section, resolve=True)
    return dict(section)


def existing_file(path: str | Path, what: str) -> str:
    """The path, if it is a file.

    Raises:
        UserError: it is none.
    """
    if not Path(path).is_file():
        raise UserError(f"There is no {what} '{path}'.")
    return str(path)
