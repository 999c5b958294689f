"""Stored labels in the form of a head's outputs, so that they can be drawn and evaluated like one.

H, W size of the image, K classes, R regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances


def as_output(kind: str, value: Any, size: tuple[int, int]) -> dict[str, Any]:
    """One decoded label as an output.

    Args:
        kind: of the label, see ``pseudo_coding.KINDS``.
        value: what ``read_labels`` gives for it.
        size: H, W of the image.

    Returns:
        {kind: value} as of ``MultiTaskModel.inference``: "classes" float32 [K], "instances" with
        scores (and masks bool [R, H, W] where they all have one), maps [H, W]; segments are
        labels, not scores, 255 ignored.
    """
    if kind == "instances":
        return {"instances": instances_of(value, size)}
    return {kind: torch.as_tensor(np.ascontiguousarray(value))}


def instances_of(annotations: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Instances:
    """Annotations with boxes (x0, y0, x1, y1) and scores as predicted instances.

    Args:
        annotations: with "bbox", "category_id", "score" and, some or all, an RLE "segmentation".
        size: H, W of the image.
    """
    boxes = np.array([entry["bbox"] for entry in annotations], np.float32).reshape(-1, 4)
    found = Instances(
        size,
        pred_boxes=Boxes(torch.from_numpy(boxes)),
        scores=torch.tensor([entry["score"] for entry in annotations], dtype=torch.float32),
        pred_classes=torch.tensor(
            [entry["category_id"] for entry in annotations], dtype=torch.int64
        ),
    )
    if all("segmentation" in entry for entry in annotations):
        masks = np.zeros((*size, 0), np.uint8)
        if annotations:
            masks = mask_util.decode([entry["segmentation"] for entry in annotations])
        found.pred_masks = torch.from_numpy(masks.transpose(2, 0, 1).astype(bool))
    return found
