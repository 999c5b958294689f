"""Outputs as plain data and files: JSON of every kind, pixel maps as PNG.

H, W size of the image, K classes. Outputs are the dicts of ``MultiTaskModel.inference``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import Metadata
from detectron2.structures import Instances

from gppf_d2.analysis.predictions.class_names import class_name
from gppf_d2.analysis.predictions.drawing import labels_of, metadata_of, split_key
from gppf_d2.analysis.predictions.pixel_maps import as_array, normal_colors


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
        largest first; "depth": {"min", "median", "max"} of the known pixels in metres;
        "inverse_depth": the same without a unit; "normals": {"mean": [x, y, z]}. Keys of label
        heads stay ("<label>.instances"). Kinds that are not known appear as their type.
    """
    metadata = metadata or Metadata()
    result: dict[str, Any] = {}
    for key, value in output.items():
        label, kind = split_key(key)
        names = metadata_of(metadata, key)
        if kind == "instances":
            result[key] = _instances_json(value.to("cpu"), names)
        elif kind == "classes":
            result[f"{label}.top5" if label else "top5"] = _classes_json(value, names)
        elif kind == "sem_seg":
            result[key] = _shares_json(labels_of(value), names)
        elif kind == "depth":
            depth = as_array(value)
            result[key] = _range_json(depth[depth > 0] if (depth > 0).any() else depth)
        elif kind == "inverse_depth":
            result[key] = _range_json(as_array(value))
        elif kind == "normals":
            mean = as_array(value).mean((1, 2))
            result[key] = {"mean": [round(part, 4) for part in mean.tolist()]}
        else:
            result[key] = type(value).__name__
    return {**result, **files}


def _classes_json(value: Any, metadata: Metadata) -> list[dict[str, Any]]:
    scores = torch.as_tensor(value).float().cpu()
    best = scores.topk(min(5, len(scores)))
    return [
        {
            "class": index,
            "name": class_name(metadata, index, "classes"),
            "probability": round(probability, 5),
        }
        for probability, index in zip(best.values.tolist(), best.indices.tolist())
    ]


def _shares_json(labels: np.ndarray, metadata: Metadata) -> dict[str, float]:
    found, counts = np.unique(labels, return_counts=True)
    return {
        class_name(metadata, int(found[i]), "sem_seg"): round(float(counts[i] / labels.size), 5)
        for i in np.argsort(-counts, kind="stable")
    }


def _range_json(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not values.size:
        return dict.fromkeys(("min", "median", "max"))
    numbers = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: round(float(number), 4) for name, number in numbers.items()}


def _instances_json(instances: Instances, metadata: Metadata) -> list[dict[str, Any]]:
    entries = []
    masks = np.asarray(instances.pred_masks) if instances.has("pred_masks") else None
    for index in range(len(instances)):
        category = int(instances.pred_classes[index])
        entry: dict[str, Any] = {
            "box": [round(x, 2) for x in instances.pred_boxes.tensor[index].tolist()],
            "class": category,
            "name": class_name(metadata, category, "instances"),
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
        output: of a head. <prefix>_labels.png are semantic labels (8 or 16 bit); _depth.png is
            16 bit with 1/256 metre a unit as in KITTI, 0 = unknown; _inverse_depth.png is 16 bit,
            stretched from 1 = the map's smallest value to 65535 = its largest, 0 = not finite;
            _normals.png has RGB = (n + 1) / 2 x 255, black = unknown. Of a key "<label>.<kind>" the
            label stands before these names.
        prefix: path without ending.

    Returns:
        {"sem_seg_file", "depth_file", "inverse_depth_file", "normals_file": name} for what was
        written.
    """
    written = {}
    for key, value in output.items():
        label, kind = split_key(key)
        if kind in MAPS:
            name, encode = MAPS[kind]
            path = f"{prefix}_{label}_{name}.png" if label else f"{prefix}_{name}.png"
            written[f"{key}_file"] = _save_png(encode(value), path)
    return written


def _segments_png(value: Any) -> np.ndarray:
    labels = labels_of(value)
    return labels.astype(np.uint8 if labels.max() < 256 else np.uint16)


def _depth_png(value: Any) -> np.ndarray:
    depth = np.nan_to_num(as_array(value))
    return (depth.clip(0, 65535 / 256) * 256).round().astype(np.uint16)


def _normals_png(value: Any) -> np.ndarray:
    return normal_colors(value)[..., ::-1]  # OpenCV writes BGR


def stretched(value: Any) -> np.ndarray:
    """A map [H, W] as uint16, linear from 1 for its smallest to 65535 for its largest value; what
    is not finite is 0."""
    values = as_array(value)
    known = np.isfinite(values)
    codes = np.zeros(values.shape, np.uint16)
    if known.any():
        found = values[known].astype(np.float64)
        span = found.max() - found.min()
        share = (found - found.min()) / span if span else np.zeros_like(found)
        codes[known] = (1 + 65534 * share).round()
    return codes


# kind of output -> name of its file, and its pixels
MAPS: dict[str, tuple[str, Callable[[Any], np.ndarray]]] = {
    "sem_seg": ("labels", _segments_png),
    "depth": ("depth", _depth_png),
    "inverse_depth": ("inverse_depth", stretched),
    "normals": ("normals", _normals_png),
}


def _save_png(array: np.ndarray, path: str) -> str:
    if not cv2.imwrite(path, array):
        raise OSError(f"'{path}' could not be written.")
    return os.path.basename(path)
