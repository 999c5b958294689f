"""What stored pseudo labels are worth: compared with the truth of the same images.

Labels are decoded and handed to the project's ordinary evaluators as if a head had just predicted
them, so that the numbers mean what they mean for a teacher or a student. Images of a labelled
dataset are found among the labelled ones by their path, by their file name, or by what the file
holds (``matching``). Beside the evaluators' metrics stands what training on the labels depends
on: how much is labelled at all, and how many of the stored boxes are right.

Classes are matched by name where both sides have names. Where labels lack a class of the truth, its
objects count as missed and its pixels as wrong; what the truth has no class for is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from gppf_d2.data.label_outputs import as_output
from gppf_d2.data.mappers.depth import read_depth
from gppf_d2.data.mappers.semantic import read_labels as read_segments
from gppf_d2.data.pseudo_labels import (
    IGNORE,
    Manifest,
    StoredLabel,
    open_shard,
    read_labels,
    read_manifest,
)
from gppf_d2.engine.evaluate import flatten
from gppf_d2.engine.setup import load_records
from gppf_d2.evaluation import (
    ClassificationEvaluator,
    DepthEvaluator,
    DetectionEvaluator,
    SemanticEvaluator,
)
from gppf_d2.pseudo.box_precision import BoxCounts
from gppf_d2.pseudo.matching import match_images

# kind of label -> key of a record with the truth, key of the metadata with the classes' names
TRUTH = {
    "classes": ("label", "classes"),
    "instances": ("annotations", "thing_classes"),
    "sem_seg": ("sem_seg_file_name", "stuff_classes"),
    "depth": ("depth_file_name", ""),
    "inverse_depth": ("depth_file_name", ""),
}
SUBSET = "labelled images of "  # in front of the name of a dataset for a moment


@dataclass(frozen=True)
class Quality:
    """What one label is worth.

    Args:
        label: its name.
        kind: its kind.
        truth: dataset that it was compared with.
        matched_by: how images were found, see ``matching``.
        images: how many were compared.
        true_images: images of the dataset.
        missing_classes: classes of the truth that the label does not have.
        metrics: the evaluator's, "bbox/AP" and so on.
        coverage: how much is labelled, and of instances precision and recall of the stored boxes.
    """

    label: str
    kind: str
    truth: str
    matched_by: str
    images: int
    true_images: int
    missing_classes: list[str]
    metrics: dict[str, float]
    coverage: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain data; what is not a number is null."""
        content = asdict(self)
        for group in ("metrics", "coverage"):
            values = content[group].items()
            content[group] = {k: v if math.isfinite(v) else None for k, v in values}
        return content


def label_quality(
    folder: str | PathLike,
    truth: Mapping[str, str],
    *,
    match: str = "auto",
    alignment: str = "none",
    crop: str = "none",
) -> list[Quality]:
    """Compare labels of a folder with datasets that know the truth.

    Args:
        folder: of pseudo labels, finished.
        truth: name of a label -> name of a registered dataset with the truth of (some of) its
            images.
        match: how images are found, see ``match_images``.
        alignment: of "depth" labels, see ``DepthEvaluator``; "inverse_depth" is always aligned.
        crop: part of the image in which depth counts, see ``DepthEvaluator``.

    Returns:
        One entry per label, in the order of ``truth``.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: an unknown label, a dataset of another kind, no image in common, no class in
            common.
        UserError: an unknown dataset.
    """
    manifest = read_manifest(folder)
    depth_options = {"alignment": alignment, "crop": crop}
    return [
        _quality(manifest, name, dataset, match, depth_options) for name, dataset in truth.items()
    ]


def _quality(
    manifest: Manifest, name: str, dataset: str, match: str, depth_options: Mapping[str, str]
) -> Quality:
    if name not in manifest.labels:
        known = ", ".join(manifest.labels)
        raise ValueError(f"There is no label {name!r} in '{manifest.folder}'; it has {known}.")
    label = manifest.labels[name]
    key, names_key = TRUTH[label.kind]
    records = load_records([dataset])
    if key not in records[0]:
        raise ValueError(
            f"Label {name!r} is of kind {label.kind!r}, but the records of dataset {dataset!r} "
            f"have no {key!r}; give a dataset with that kind of truth."
        )
    how, pairs = match_images(manifest, records, match)
    true_names = list(MetadataCatalog.get(dataset).get(names_key) or ()) if names_key else []
    comparison = Comparison(label, class_map(name, label, dataset, true_names), len(true_names))
    with _subset(dataset, records, [place for _, place in pairs]) as subset:
        evaluator = _evaluator(label, subset, records, pairs, depth_options)
        for index, place in pairs:
            path, row = manifest.place(index)
            place_of = {"pseudo_shard": path, "pseudo_row": row}
            shard = open_shard(path)
            size = shard.cell("height", row), shard.cell("width", row)
            record = {"height": size[0], "width": size[1], **records[place]}
            sample, output = comparison.pair(record, read_labels(place_of, [name])[name], size)
            evaluator.process([sample], [output])
        metrics = flatten(evaluator.evaluate())
    lacking = sorted(set(range(len(true_names))) - set(comparison.classes.tolist()))
    return Quality(
        label=name,
        kind=label.kind,
        truth=dataset,
        matched_by=how,
        images=len(pairs),
        true_images=len(records),
        missing_classes=[str(true_names[index]) for index in lacking],
        metrics=metrics,
        coverage=comparison.coverage(),
    )


def class_map(name: str, label: StoredLabel, dataset: str, true_names: Sequence[str]) -> np.ndarray:
    """Class of the truth for every class of a label, int64 [K], -1 for none: by name, or one to one
    where a side has no names.

    Raises:
        ValueError: no class in common, or different numbers of classes without names.
    """
    if label.classes and true_names:
        places = {_plain(true): index for index, true in reversed(list(enumerate(true_names)))}
        found = np.array([places.get(_plain(own), -1) for own in label.classes], dtype=np.int64)
        if list(map(_plain, label.classes)) == list(map(_plain, true_names)):
            return np.arange(len(true_names))  # names that occur twice too
        if (found >= 0).any():
            return found
        raise ValueError(
            f"No class of label {name!r} ({', '.join(label.classes[:5])}, ...) is one of dataset "
            f"{dataset!r} ({', '.join(map(str, true_names[:5]))}, ...); give a dataset of the same "
            "classes."
        )
    if label.num_classes and true_names and label.num_classes != len(true_names):
        raise ValueError(
            f"Label {name!r} has {label.num_classes} classes without names and dataset {dataset!r} "
            f"{len(true_names)}; give a dataset of the same classes."
        )
    return np.arange(len(true_names) or label.num_classes)


def _plain(name: str) -> str:
    return str(name).casefold().replace("_", " ").strip()


@contextmanager
def _subset(dataset: str, records: Any, places: Sequence[int]) -> Iterator[str]:
    """The name of a dataset with some of a dataset's records: of itself, where these are all."""
    if len(places) == len(records):
        yield dataset
        return
    name = SUBSET + dataset
    kept = records.select(np.array(places))
    facts = MetadataCatalog.get(dataset).as_dict()
    facts = {key: value for key, value in facts.items() if key not in ("name", "json_file")}
    DatasetCatalog.register(name, lambda: list(kept))
    MetadataCatalog.get(name).set(**facts)
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _evaluator(
    label: StoredLabel,
    dataset: str,
    records: Any,
    pairs: Sequence[tuple[int, int]],
    depth_options: Mapping[str, str],
) -> DatasetEvaluator:
    if label.kind == "classes":
        return ClassificationEvaluator(dataset)
    if label.kind == "sem_seg":
        return SemanticEvaluator(dataset)
    if label.kind in ("depth", "inverse_depth"):
        return DepthEvaluator(dataset, **depth_options)
    every = label.counts.get("masks") and label.counts["masks"] == label.counts["instances"]
    masks = every and all(
        entry.get("segmentation") for _, place in pairs for entry in records[place]["annotations"]
    )
    return DetectionEvaluator(dataset, tasks=("bbox", "segm") if masks else ("bbox",))


class Comparison:
    """Makes samples with the truth, and outputs from labels, and counts what evaluators do not.

    Args:
        label: what is compared.
        classes: class of the truth for every class of the label, -1 for none.
        count: classes of the truth.
    """

    def __init__(self, label: StoredLabel, classes: np.ndarray, count: int) -> None:
        self.label, self.classes = label, classes
        self._count = count or len(classes)
        self._boxes = BoxCounts()
        self._shares: list[float] = []  # per image

    def pair(
        self, record: Mapping[str, Any], value: Any, size: tuple[int, int]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """One image.

        Args:
            record: of the truth, with height and width.
            value: the decoded label.
            size: H, W of the image.

        Returns:
            The sample and the output for an evaluator.
        """
        output = as_output(self.label.kind, value, size)
        by_kind = {"classes": self._of_classes, "instances": self._of_instances}
        by_kind["sem_seg"] = self._of_segments
        return by_kind.get(self.label.kind, self._of_depth)(dict(record), output)

    def _of_classes(self, record: dict, output: dict) -> tuple[dict, dict]:
        shares = output["classes"]
        self._shares.append(float(shares.max()))
        known = torch.from_numpy(self.classes >= 0)
        mapped = torch.zeros(self._count).index_add_(
            0, torch.from_numpy(self.classes)[known], shares[known]
        )
        return record, {"classes": mapped}

    def _of_instances(self, record: dict, output: dict) -> tuple[dict, dict]:
        found = output["instances"]
        if len(found) and found.pred_classes.max() >= len(self.classes):
            raise ValueError(
                f"'{record['file_name']}' has a label of class {found.pred_classes.max()}, the "
                f"truth {len(self.classes)} classes; give a dataset of the same classes"
            )
        found.pred_classes = torch.from_numpy(self.classes)[found.pred_classes]
        found = found[found.pred_classes >= 0]
        self._boxes.add(found, record["annotations"])
        return record, {"instances": found}

    def _of_segments(self, record: dict, output: dict) -> tuple[dict, dict]:
        lookup = np.full(IGNORE + 1, -1, dtype=np.int64)
        lookup[: len(self.classes)] = self.classes
        labels = torch.from_numpy(lookup[output["sem_seg"].numpy()])
        truth = torch.from_numpy(read_segments(record).astype(np.int64))
        _check_size(record, labels, truth)
        known = truth != IGNORE
        if known.any():
            self._shares.append(float((labels >= 0)[known].double().mean()))
        truth[labels < 0] = IGNORE  # neither right nor wrong: training does not see it
        scores = torch.zeros(self._count, *labels.shape, dtype=torch.uint8)
        scores.scatter_(0, labels.clamp(min=0)[None], 1)
        return {**record, "sem_seg": truth}, {"sem_seg": scores}

    def _of_depth(self, record: dict, output: dict) -> tuple[dict, dict]:
        (values,) = output.values()
        known = values.isfinite() & ((values > 0) | (self.label.kind == "inverse_depth"))
        self._shares.append(float(known.double().mean()))
        truth = torch.from_numpy(read_depth(record))
        _check_size(record, values, truth)
        return {**record, "depth": truth * known}, output

    def coverage(self) -> dict[str, float]:
        """Of classes the mean probability of the first, of maps the share of pixels with a label
        (of segments: of those with a truth), in percent; of instances see ``BoxCounts``."""
        if self.label.kind == "instances":
            return self._boxes.metrics()
        mean = 100 * float(np.mean(self._shares)) if self._shares else float("nan")
        return {"confidence" if self.label.kind == "classes" else "labelled": mean}


def _check_size(record: Mapping[str, Any], labels: torch.Tensor, truth: torch.Tensor) -> None:
    if labels.shape != truth.shape:
        raise ValueError(
            f"the labels of '{record['file_name']}' have {list(labels.shape)} pixels, the truth "
            f"{list(truth.shape)}; give the dataset whose images were labelled"
        )
