"""Run one task of a model on images: outputs, JSON, drawings, and a contact sheet beside the truth.

``Predictor`` needs a model with ``inference(task, samples) -> list of dicts`` (``MultiTaskModel``),
the task's evaluation mapper and the metadata of its classes; it knows nothing of configs and
checkpoints (``gppf_d2.tools.predict`` does). A dict of the truth, made by ``truth_of`` from a
dataset record, has the form of an output, so that the same code draws both.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Boxes, Instances
from matplotlib.figure import Figure
from PIL import Image

from gppf_d2.analysis.drawing import (
    SheetRow,
    beside,
    class_name,
    contact_sheet,
    draw,
    fit,
    labels_of,
)
from gppf_d2.analysis.pixel_maps import depth_limits, normal_colors
from gppf_d2.data.mappers.depth import read_depth
from gppf_d2.data.mappers.normals import read_normals
from gppf_d2.data.mappers.reading import read_image
from gppf_d2.data.mappers.semantic import read_labels
from gppf_d2.modeling.tta import augmented

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
Source = str | Path | Image.Image | np.ndarray


class UnreadableImageError(ValueError):
    """A file that is no image, or a damaged one."""


class Prediction(NamedTuple):
    """One image and what the head says about it: name, RGB uint8 [H, W, 3], output dict."""

    name: str
    image: np.ndarray
    output: dict[str, Any]


class Predictor:
    """One task of a model, applied to images.

    Args:
        model: has ``inference(task, samples)``; it is put into evaluation mode.
        task: the task's name.
        mapper: the task's evaluation mapper; it gets {"file_name", "height", "width", "image_id"}.
        metadata: class names of the dataset that the head was trained on.
        min_score: boxes and masks below it are not drawn (they are in the outputs and in the JSON).
        tta: test-time augmentation (``gppf_d2.modeling.tta``), or None.
    """

    def __init__(
        self,
        model: Any,
        task: str,
        mapper: Callable[[dict], dict],
        metadata: Metadata | None = None,
        *,
        min_score: float = 0.3,
        tta: Callable | None = None,
    ) -> None:
        self.model = model.eval() if isinstance(model, torch.nn.Module) else model
        self.task = task
        self.mapper = mapper
        self.metadata = metadata or Metadata()
        self.min_score = min_score
        self.tta = tta

    def __call__(self, sources: Source | Sequence[Source]) -> list[dict[str, Any]]:
        """Outputs for images, files and folders, one dict an image, in order (folders by name).

        Raises:
            UnreadableImageError: a file that is no image.
            ValueError: a path that does not exist, a folder without an image.
        """
        if isinstance(sources, (str, Path, Image.Image, np.ndarray)):
            sources = [sources]
        flat: list[Source] = []
        for source in sources:
            flat += find_images([source]) if isinstance(source, (str, Path)) else [source]
        return [self.predict(source).output for source in flat]

    def predict(self, source: Source) -> Prediction:
        """Run one image: a file, a PIL image, or an RGB uint8 array [H, W, 3] (or [H, W], grey).

        Raises:
            UnreadableImageError: a file that is no image.
        """
        if isinstance(source, (str, Path)):
            return self._predict_file(Path(source), Path(source).stem)
        picture = source if isinstance(source, Image.Image) else Image.fromarray(source)
        # Mappers read files; a lossless one for the moment spares them a second kind of input.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "image.png"
            picture.convert("RGB").save(file)
            return self._predict_file(file, "image")

    def _predict_file(self, file: Path, name: str) -> Prediction:
        record = {"file_name": str(file), "image_id": 0}
        try:
            image = read_image(record, "RGB")
        except OSError as error:
            raise UnreadableImageError(str(error)) from error
        sample = self.mapper(record)
        inference = augmented(functools.partial(self.model.inference, self.task), self.tta)
        with torch.no_grad():
            outputs = inference([sample])
        assert len(outputs) == 1, f"task {self.task}: {len(outputs)} outputs for one sample"
        return Prediction(name, np.ascontiguousarray(image), dict(outputs[0]))

    def to_json(self, output: Mapping[str, Any], **files: str) -> dict[str, Any]:
        """``to_json`` with the predictor's metadata."""
        return to_json(output, self.metadata, **files)

    def draw(self, image: np.ndarray, output: Mapping[str, Any]) -> np.ndarray:
        """A picture of one prediction that stands alone: classes, depth and normals are put beside
        the image."""
        drawn = draw(image, output, self.metadata, min_score=self.min_score)
        return beside(fit(image), drawn) if {"classes", "depth", "normals"} & set(output) else drawn

    def sheet(self, records: Sequence[Mapping[str, Any]], count: int = 6) -> Figure:
        """A contact sheet of ``count`` records spread evenly over a dataset.

        Args:
            records: of an evaluation dataset, with annotations.
            count: rows.
        """
        picks = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round())
        rows = [self._row(records[int(index)]) for index in picks]
        count_of = f"{len(rows)} of {len(records)} images, spread evenly"
        return contact_sheet(self.task, rows, subtitle=count_of)

    def _row(self, record: Mapping[str, Any]) -> SheetRow:
        # some datasets leave the size to the image, and some images lie in tars
        record = dict(record)
        pixels = read_image(record, "RGB")
        source = pixels if "tar_file" in record else record["file_name"]
        _, image, output = self.predict(source)
        truth = truth_of(record)
        depths = [part for part in (output, truth) if "depth" in part]
        options: dict[str, Any] = {"limits": depth_limits(depths)} if depths else {}
        drawn = draw(
            image, output, self.metadata, true_label=truth.get("label"), min_score=self.min_score,
            **options,
        )  # fmt: skip
        actual = draw(image, truth, self.metadata, **options) if truth else None
        return SheetRow(image, drawn, actual, os.path.basename(record["file_name"]))


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Files as they are, folders replaced by the images in them, sorted by name.

    Raises:
        ValueError: a path that does not exist, a folder without an image.
    """
    found: list[Path] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            inside = [
                file for file in sorted(entry.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES
            ]
            if not inside:
                endings = ", ".join(IMAGE_SUFFIXES)
                raise ValueError(f"The folder '{entry}' has no image; known endings are {endings}.")
            found += inside
        elif entry.is_file():
            found.append(entry)
        else:
            raise ValueError(f"There is no file or folder '{entry}'.")
    return found


def to_json(
    output: Mapping[str, Any], metadata: Metadata | None = None, **files: str
) -> dict[str, Any]:
    """An output as plain data: boxes, scores, classes and RLE masks; top five classes; shares;
    depths.

    Args:
        output: of a head.
        metadata: names of the classes.
        **files: names of map files (from ``save_maps``) that are passed on as they are.

    Returns:
        "instances": [{"box": [x0, y0, x1, y1], "score", "class", "name", "mask": {"size",
        "counts"}}]; "top5": [{"class", "name", "probability"}]; "sem_seg": {name: share of pixels},
        largest first; "depth": {"min", "median", "max"} in metres; "normals": {"mean": [x, y, z]}.
        Kinds that are not known appear as their type.
    """
    metadata = metadata or Metadata()
    result: dict[str, Any] = {}
    for kind, value in output.items():
        if kind == "instances":
            result["instances"] = _instances_json(value.to("cpu"), metadata)
        elif kind == "classes":
            scores = torch.as_tensor(value).float().cpu()
            best = scores.topk(min(5, len(scores)))
            result["top5"] = [
                {"class": index, "name": class_name(metadata, index), "probability": round(p, 5)}
                for p, index in zip(best.values.tolist(), best.indices.tolist())
            ]
        elif kind == "sem_seg":
            labels, counts = np.unique(labels_of(value), return_counts=True)
            order = np.argsort(-counts, kind="stable")
            result["sem_seg"] = {
                class_name(metadata, int(labels[i])): round(float(counts[i] / counts.sum()), 5)
                for i in order
            }
        elif kind == "depth":
            depth = torch.as_tensor(value).float().cpu()
            depth = depth[depth > 0] if (depth > 0).any() else depth  # 0 is unknown
            numbers = {"min": depth.min(), "median": depth.median(), "max": depth.max()}
            result["depth"] = {name: round(float(number), 4) for name, number in numbers.items()}
        elif kind == "normals":
            mean = torch.as_tensor(value).float().cpu().mean((1, 2))
            result["normals"] = {"mean": [round(part, 4) for part in mean.tolist()]}
        else:
            result[kind] = type(value).__name__
    return {**result, **files}


def _instances_json(instances: Instances, metadata: Metadata) -> list[dict[str, Any]]:
    entries = []
    masks = np.asarray(instances.pred_masks) if instances.has("pred_masks") else None
    for index in range(len(instances)):
        category = int(instances.pred_classes[index])
        entry: dict[str, Any] = {
            "box": [round(x, 2) for x in instances.pred_boxes.tensor[index].tolist()],
            "class": category,
            "name": class_name(metadata, category),
        }
        if instances.has("scores"):
            entry["score"] = round(float(instances.scores[index]), 5)
        if masks is not None:
            rle = mask_util.encode(np.asfortranarray(masks[index], dtype=np.uint8))
            entry["mask"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        entries.append(entry)
    return entries


def save_maps(output: Mapping[str, Any], prefix: str | Path) -> dict[str, str]:
    """Write the pixel maps of an output as PNG files.

    Args:
        output: of a head; semantic labels become <prefix>_labels.png (8 or 16 bit), depth becomes
            <prefix>_depth.png (16 bit, 1/256 metre a unit as in KITTI, 0 = unknown), normals become
            <prefix>_normals.png (RGB = (n + 1) / 2 x 255, black = unknown).
        prefix: path without ending.

    Returns:
        {"sem_seg_file": name, "depth_file": name, "normals_file": name} for what was written.
    """
    written: dict[str, str] = {}
    if "sem_seg" in output:
        labels = labels_of(output["sem_seg"])
        kind = np.uint8 if labels.max() < 256 else np.uint16
        written["sem_seg_file"] = _save_png(labels.astype(kind), f"{prefix}_labels.png")
    if "depth" in output:
        depth = np.nan_to_num(torch.as_tensor(output["depth"]).float().cpu().numpy())
        units = (depth.clip(0, 65535 / 256) * 256).round().astype(np.uint16)
        written["depth_file"] = _save_png(units, f"{prefix}_depth.png")
    if "normals" in output:
        colors = normal_colors(output["normals"])[..., ::-1]  # OpenCV writes BGR
        written["normals_file"] = _save_png(colors, f"{prefix}_normals.png")
    return written


def _save_png(array: np.ndarray, path: str) -> str:
    if not cv2.imwrite(path, array):
        raise OSError(f"'{path}' could not be written.")
    return os.path.basename(path)


def truth_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of a dataset record in the form of an output.

    Args:
        record: a Detectron2 dataset dict of any kind; crowds are left out.

    Returns:
        {"instances"} without scores, {"sem_seg": labels [H, W], 255 ignored}, {"label"},
        {"depth": [H, W] metres, 0 unknown}, {"normals": [3, H, W], 0 unknown}, or {}.

    Raises:
        OSError: a map cannot be read.
    """
    truth: dict[str, Any] = {}
    if "annotations" in record:
        truth["instances"] = _true_instances(record)
    if "sem_seg_file_name" in record:
        truth["sem_seg"] = read_labels(dict(record))
    if "label" in record:
        truth["label"] = int(record["label"])
    if "depth_file_name" in record:
        truth["depth"] = read_depth(dict(record))
    if "normals_file_name" in record:
        truth["normals"] = read_normals(dict(record)).transpose(2, 0, 1)
    return truth


def _true_instances(record: Mapping[str, Any]) -> Instances:
    size = (record["height"], record["width"])
    annotations = [dict(entry) for entry in record["annotations"] if not entry.get("iscrowd", 0)]
    if not annotations:
        empty = torch.zeros(0, dtype=torch.int64)
        return Instances(size, pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=empty)
    found = annotations_to_instances(annotations, size, mask_format="bitmask")
    truth = Instances(size, pred_boxes=found.gt_boxes, pred_classes=found.gt_classes)
    if found.has("gt_masks"):
        truth.pred_masks = found.gt_masks.tensor
    return truth
