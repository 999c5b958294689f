"""How many stored boxes are right, and how many true ones are there: precision and recall at one
threshold of overlap.

Average precision asks how well a detector sorts its boxes; a student that trains on them all is
concerned with what the threshold let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_ioa, pairwise_iou

IOU = 0.5


class BoxCounts:
    """Counts over images.

    A box is right if it overlaps a true object of its class by ``IOU`` that no more certain box has
    taken. Boxes within a crowd of their class count neither as right nor as wrong.
    """

    def __init__(self) -> None:
        self.images = self.empty = self.stored = self.right = self.wrong = self.true = 0

    def add(self, found: Instances, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Count one image.

        Args:
            found: pred_boxes, pred_classes and scores [R].
            annotations: Detectron2's, of the same classes.
        """
        self.images += 1
        self.empty += not len(found)
        self.stored += len(found)
        boxes, classes, crowd = _truth(annotations)
        self.true += int((~crowd).sum())
        overlap = pairwise_iou(found.pred_boxes, Boxes(boxes[~crowd])).numpy().copy()
        overlap[found.pred_classes.numpy()[:, None] != classes[~crowd]] = 0
        within = pairwise_ioa(Boxes(boxes[crowd]), found.pred_boxes).numpy().T.copy()
        within[found.pred_classes.numpy()[:, None] != classes[crowd]] = 0
        for index in found.scores.argsort(descending=True, stable=True).tolist():
            row = overlap[index]
            if row.size and row.max() >= IOU:
                overlap[:, row.argmax()] = 0
                self.right += 1
            elif not (within[index] >= IOU).any():
                self.wrong += 1

    def metrics(self) -> dict[str, float]:
        """Percent and numbers per image; NaN where there is nothing to divide by."""
        ratio = {
            "precision50": (100 * self.right, self.right + self.wrong),
            "recall50": (100 * self.right, self.true),
            "boxes_per_image": (self.stored, self.images),
            "true_boxes_per_image": (self.true, self.images),
            "images_without_boxes": (100 * self.empty, self.images),
        }
        return {name: a / b if b else float("nan") for name, (a, b) in ratio.items()}


def _truth(
    annotations: Sequence[Mapping[str, Any]],
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Boxes [A, 4] as corners, classes [A] and whether they are crowds [A]."""
    boxes = [
        BoxMode.convert(list(entry["bbox"]), entry["bbox_mode"], BoxMode.XYXY_ABS)
        for entry in annotations
    ]
    classes = np.array([entry["category_id"] for entry in annotations], dtype=np.int64)
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in annotations], dtype=bool)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), classes, crowd
