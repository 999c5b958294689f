"""Average precision of PASCAL VOC: one IoU threshold, difficult objects neither right nor wrong.

The rules of the devkit, class by class, with the detections of all images in order of their scores:

1. A detection belongs to the object of its class that it overlaps most in its image; there is no
   second choice. With an IoU above the threshold it is right if it is the first one there, a
   duplicate (wrong) if not, and left out if the object is difficult. Otherwise it is wrong.
2. AP is the area under precision, made monotone, over recall (VOC 2010 and later), or the mean of
   that precision at the recalls 0, 0.1, ..., 1 (VOC 2007). Difficult objects do not count in it.

VOC's files have boxes whose last pixel is inside, counted from 1, and its formulas add 1 to every
side: the same areas as those of half-open boxes counted from 0, which are used here. So the numbers
are those of Detectron2's ``PascalVOCDetectionEvaluator``, which rounds scores to 0.001 and boxes to
0.1 first. As there, an IoU has to exceed the threshold; the Matlab code lets it be equal. Equal
scores keep the order of the images, and the mean is over the classes that have an object.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from gppf_d2.evaluation.instance_truth import InstanceTruth
from gppf_d2.evaluation.instances import InstanceEvaluator
from gppf_d2.evaluation.open_images_matching import average_precision
from gppf_d2.evaluation.prediction_store import Predictions

RESULT = "voc"
RIGHT, WRONG, LEFT_OUT = 1, 0, -1
PAIRS = 1 << 20  # of a detection and an object, compared at once


class VOCEvaluator(InstanceEvaluator):
    """AP of boxes at one IoU threshold, mean and per class, in percent.

    ``evaluate()`` gives {"voc": {"AP50", "AP50-<class>"}}, with the threshold in the names. An
    annotation is difficult if it has a "difficult" or an "iscrowd" other than 0.

    Args:
        dataset_name: registered dataset with "thing_classes".
        iou: threshold, above 0 and below 1.
        eleven_points: the precision of VOC 2007 instead of the area.
        output_dir: folder that gets ``predictions_bbox.json`` in COCO's result format, and the
            temporary files meanwhile; None keeps nothing.

    Raises:
        ValueError: a threshold that cannot be meant.
    """

    def __init__(
        self,
        dataset_name: str,
        iou: float = 0.5,
        eleven_points: bool = False,
        output_dir: str | None = None,
    ) -> None:
        if not 0 < iou < 1:
            raise ValueError(f"iou is {iou!r}; give a threshold above 0 and below 1, VOC's is 0.5")
        super().__init__(dataset_name, ["bbox"], output_dir)
        self._iou = float(iou)
        self._precision = eleven_point_precision if eleven_points else average_precision
        if self._truth is not None:
            _mark_difficult(dataset_name, self._truth)

    def _measure(self, task: str, predictions: Predictions) -> dict[str, dict[str, float]]:
        values = voc_precisions(
            self._truth, predictions, self._category_ids, self._iou, self._precision
        )
        known = values[~np.isnan(values)]
        name = f"AP{100 * self._iou:g}"
        result = {name: 100 * float(known.mean()) if known.size else float("nan")}
        for of_class, value in zip(self._names, values):
            result[f"{name}-{of_class}"] = 100 * float(value)
        return {RESULT: result}


def voc_precisions(
    truth: InstanceTruth,
    predictions: Predictions,
    category_ids: np.ndarray,
    iou: float = 0.5,
    precision: Callable[[np.ndarray, np.ndarray, int], float] = average_precision,
) -> np.ndarray:
    """AP of every class.

    Args:
        truth: ground truth, whose difficult annotations have "difficult" or "iscrowd".
        predictions: whose images are numbers of the ground truth.
        category_ids: category id in the ground truth per class, [K].
        iou: threshold that an overlap has to exceed.
        precision: scores [D], right or wrong [D], number of objects -> AP.

    Returns:
        In [0, 1], NaN for classes without an object that is not difficult, [K].
    """
    classes = len(category_ids)
    index = {key: n for n, key in enumerate(category_ids.tolist())}
    entries = [entry for entry in truth.annotations if entry["category_id"] in index]
    of_entry = np.array([index[entry["category_id"]] for entry in entries], dtype=np.int64)
    images = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    difficult = np.array(
        [bool(entry.get("difficult") or entry["iscrowd"]) for entry in entries], dtype=bool
    )
    rows = predictions.rows
    order = np.lexsort((predictions.image, -rows["score"], rows["category"]))
    rows, of_row = rows[order], rows["category"][order].astype(np.int64)
    labels = label_detections(
        rows["box"].astype(np.float64),
        predictions.image[order] * classes + of_row,
        boxes,
        images * classes + of_entry,
        difficult,
        iou,
    )
    bounds = np.searchsorted(of_row, np.arange(classes + 1))
    counts = np.bincount(of_entry[~difficult], minlength=classes)
    result = np.empty(classes)
    for n, (start, end) in enumerate(zip(bounds[:-1], bounds[1:])):
        counted = labels[start:end] != LEFT_OUT
        scores = rows["score"][start:end][counted]
        result[n] = precision(scores, labels[start:end][counted] == RIGHT, int(counts[n]))
    return result


def label_detections(
    boxes: np.ndarray,
    groups: np.ndarray,
    objects: np.ndarray,
    object_groups: np.ndarray,
    difficult: np.ndarray,
    iou: float,
) -> np.ndarray:
    """Label detections; a group is one class in one image.

    Args:
        boxes: x, y, width, height of the detections, those of a group best first, [D, 4].
        groups: of the detections, int64 [D].
        objects: boxes of the objects, [G, 4].
        object_groups: of the objects, int64 [G].
        difficult: whether an object is, bool [G].
        iou: threshold that an overlap has to exceed.

    Returns:
        RIGHT, WRONG or LEFT_OUT, int8 [D].
    """
    order = np.argsort(object_groups, kind="stable")
    objects, difficult, object_groups = objects[order], difficult[order], object_groups[order]
    first = np.searchsorted(object_groups, groups, side="left")
    counts = np.searchsorted(object_groups, groups, side="right") - first
    best, overlap = np.zeros(len(boxes), dtype=np.int64), np.zeros(len(boxes))
    there = np.flatnonzero(counts)
    for part in _parts(there, counts[there]):
        best[part], overlap[part] = _best(boxes[part], objects, first[part], counts[part])
    labels = np.full(len(boxes), WRONG, dtype=np.int8)
    near = np.flatnonzero(overlap > iou)
    labels[near[difficult[best[near]]]] = LEFT_OUT
    near = near[~difficult[best[near]]]
    _, earliest = np.unique(best[near], return_index=True)
    labels[near[earliest]] = RIGHT
    return labels


def eleven_point_precision(scores: np.ndarray, right: np.ndarray, count: int) -> float:
    """Mean of the precision at eleven recalls (VOC 2007); arguments of ``average_precision``."""
    if not count:
        return float("nan")
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = np.append(hits / np.arange(1, len(hits) + 1), 0.0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # the thresholds of the devkit, which are not exactly the tenths
    reached = np.searchsorted(hits / count, np.arange(0.0, 1.1, 0.1))
    return float(precision[reached].mean())


def _parts(there: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Detections in parts of about ``PAIRS`` pairs."""
    if not len(there):
        return []
    return np.split(there, np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS)) + 1)


def _best(
    boxes: np.ndarray, objects: np.ndarray, first: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Index and IoU of the object that each of P boxes overlaps most; the first one of equals.

    The objects of box i are ``first[i]`` to ``first[i] + counts[i]``, at least one.
    """
    starts = np.cumsum(counts) - counts
    own = np.repeat(np.arange(len(boxes)), counts)
    other = np.arange(len(own)) + np.repeat(first - starts, counts)
    shared = np.ones(len(own))
    for x, side in ((0, 2), (1, 3)):
        low = np.maximum(boxes[own, x], objects[other, x])
        ends, other_ends = boxes[:, x] + boxes[:, side], objects[:, x] + objects[:, side]
        high = np.minimum(ends[own], other_ends[other])
        shared *= (high - low).clip(min=0)
    union = (boxes[:, 2] * boxes[:, 3])[own] + (objects[:, 2] * objects[:, 3])[other] - shared
    overlap = np.divide(shared, union, out=np.zeros(len(own)), where=union > 0)
    highest = np.maximum.reduceat(overlap, starts)
    places = np.where(overlap == np.repeat(highest, counts), other, len(objects))
    return np.minimum.reduceat(places, starts), highest


def _mark_difficult(dataset_name: str, truth: InstanceTruth) -> None:
    """Bring "difficult" from the records of a dataset without a JSON.

    Detectron2's conversion of records to COCO's form keeps their order and leaves it out.
    """
    if MetadataCatalog.get(dataset_name).get("json_file") is not None:
        return
    records = DatasetCatalog.get(dataset_name)
    annotations = (entry for record in records for entry in record.get("annotations", ()))
    for entry, annotation in zip(truth.annotations, annotations, strict=True):
        entry["difficult"] = annotation.get("difficult", 0)
