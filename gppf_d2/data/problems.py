"""One thing that is wrong with a dataset, and what can be wrong with a file or an object."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

OUTSIDE = 1.0  # pixels by which a box may leave its image: some sets count from 1


@dataclass(frozen=True)
class Problem:
    """One thing that is missing or broken.

    Attributes:
        kind: first column of the table in the docstring of ``check``.
        text: one sentence.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def sentence(error: BaseException) -> str:
    """The message of an error in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split())


def unreadable(error: OSError, file_name: str) -> Problem:
    """A file that is missing or damaged.

    Args:
        error: of reading it.
        file_name: of the file, where the error does not say.
    """
    if isinstance(error, FileNotFoundError):
        return Problem("missing", f"'{error.filename or file_name}' does not exist")
    return Problem("unreadable", sentence(error))


def object_problems(
    annotation: Mapping[str, Any], record: Mapping[str, Any], classes: Sequence[str] | None
) -> Iterator[tuple[str, str]]:
    """What is wrong with an object.

    Args:
        annotation: of a Detectron2 record.
        record: that it belongs to; its "height" and "width" are optional.
        classes: names of all classes, where they are known.

    Yields:
        Kind, and the end of a sentence that begins with the image.
    """
    category = annotation.get("category_id", 0)
    if category < 0 or (classes and category >= len(classes)):
        limit = f"0 to {len(classes) - 1}" if classes else "0 or more"
        yield "category", f"has an object of category {category}, expected {limit}"
    if annotation.get("bbox_mode") in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        yield from _box_problems(annotation, record)
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        for polygon in mask:
            values = np.asarray(polygon, dtype=float).reshape(-1)
            if len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
                yield "mask", "has a polygon that is none: an odd number, below 6, or not finite"
    elif isinstance(mask, Mapping):
        yield from _rle_problems(mask, record)


def _box_problems(
    annotation: Mapping[str, Any], record: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    mode, found = BoxMode(annotation["bbox_mode"]), annotation.get("bbox")
    try:
        x0, y0, x1, y1 = box = [float(value) for value in found]
    except (TypeError, ValueError):
        yield "box", f"has {found!r} for a box, expected four numbers"
        return
    if mode == BoxMode.XYWH_ABS:
        x1, y1 = x0 + x1, y0 + y1
    width, height = record.get("width", math.inf), record.get("height", math.inf)
    if not (x0 < x1 < math.inf and y0 < y1 < math.inf):
        fault = "without area"
    elif min(x0, y0) < -OUTSIDE or x1 > width + OUTSIDE or y1 > height + OUTSIDE:
        fault = "that leaves the image"
    else:
        return
    shown = [round(value, 2) for value in box]
    yield "box", f"has a box {fault}, {mode.name.removesuffix('_ABS')} {shown}"


def _rle_problems(mask: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        height, width = size = [int(value) for value in mask["size"]]
        if "height" in record and size != [record["height"], record["width"]]:
            yield "mask", f"has a mask of {width} x {height}, not of the size of the image"
        rle = mask if not isinstance(mask["counts"], list) else mask_util.frPyObjects(mask, *size)
        if not mask_util.area(rle):
            yield "mask", "has a mask without a pixel"
    except (TypeError, ValueError, KeyError) as error:
        yield "mask", f"has a run-length mask that is none ({error!r})"
