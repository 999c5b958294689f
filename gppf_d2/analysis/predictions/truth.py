"""The truth of a dataset record in the form of an output, so that the same code draws both.

H, W size of the image. A record has the kinds of truth that its dataset has, often one: the truth
of a task with several label heads lies in several datasets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.structures import Boxes, Instances

from gppf_d2.data.mappers.depth import read_depth
from gppf_d2.data.mappers.normals import read_normals
from gppf_d2.data.mappers.semantic import read_labels


def truth_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The annotations of a dataset record in the form of an output.

    Args:
        record: a Detectron2 dataset dict of any kind.

    Returns:
        {"instances"} without scores and without crowds, {"crowds": Instances} where there are any,
        {"verified": classes of which every object is marked} where that is not so of all,
        {"sem_seg": labels [H, W], 255 ignored}, {"label"}, {"depth": [H, W] metres, 0 unknown},
        {"normals": [3, H, W], 0 unknown}, or {}.

    Raises:
        OSError: a map cannot be read.
    """
    truth: dict[str, Any] = {}
    if "annotations" in record:
        single, crowds = (
            [
                dict(entry)
                for entry in record["annotations"]
                if bool(entry.get("iscrowd", 0)) is sort
            ]
            for sort in (False, True)
        )
        truth["instances"] = _as_instances(single, record)
        if crowds:
            truth["crowds"] = _as_instances(crowds, record)
        if "neg_category_ids" in record:
            truth["verified"] = _verified(record)
    if "sem_seg_file_name" in record:
        truth["sem_seg"] = read_labels(dict(record))
    if "label" in record:
        truth["label"] = int(record["label"])
    if "depth_file_name" in record:
        truth["depth"] = read_depth(dict(record))
    if "normals_file_name" in record:
        truth["normals"] = read_normals(dict(record)).transpose(2, 0, 1)
    return truth


def _verified(record: Mapping[str, Any]) -> set[int]:
    """Classes of LVIS and Open Images of which a box that hits nothing is known to be wrong."""
    marked = {entry["category_id"] for entry in record["annotations"]}
    found = marked.union(record.get("pos_category_ids", ()), record["neg_category_ids"])
    return found.difference(record.get("not_exhaustive_category_ids", ()))


def _as_instances(annotations: list[dict[str, Any]], record: Mapping[str, Any]) -> Instances:
    size = (record["height"], record["width"])
    if not annotations:
        empty = torch.zeros(0, dtype=torch.int64)
        return Instances(size, pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=empty)
    found = annotations_to_instances(annotations, size, mask_format="bitmask")
    truth = Instances(size, pred_boxes=found.gt_boxes, pred_classes=found.gt_classes)
    if found.has("gt_masks"):
        truth.pred_masks = found.gt_masks.tensor
    return truth
