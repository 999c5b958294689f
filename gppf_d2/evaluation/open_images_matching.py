"""Which detections are right, by the rules of the Open Images detection challenge 2019.

Per image and class, with the detections in order of their scores (TensorFlow's Object Detection
API, ``OpenImagesDetectionChallengeEvaluator``):

1. A detection is right if its IoU with the object that it overlaps MOST is at least 0.5 and no
   better detection had that object. There is no second choice, unlike in COCO's matching.
2. A group-of box stands for several objects. Detections that are not right and lie in one by at
   least half of their own area are dropped; together they are one right detection of weight 1, with
   the best of their scores.
3. What remains is wrong.

AP is the area under precision made monotone over recall, where the number of objects includes the
groups. Equal scores keep the order of the images, which TensorFlow leaves open.
"""

from __future__ import annotations

import numpy as np

IOU_THRESHOLD = 0.5


def label_detections(
    boxes: np.ndarray, scores: np.ndarray, objects: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Label the detections of one class in one image.

    Args:
        boxes: x, y, width, height of D detections with area, best first, float64 [D, 4].
        scores: descending, [D].
        objects: boxes of single objects, [G, 4].
        groups: group-of boxes, [Q, 4].

    Returns:
        Scores and labels (right or wrong) of what counts, both [E], E <= D + Q.
    """
    right = np.zeros(len(boxes), dtype=bool)
    if len(objects):
        shared, of_box, of_object = _intersections(boxes, objects)
        overlap = shared / (of_box + of_object - shared)
        best = overlap.argmax(axis=1)
        near = np.flatnonzero(overlap.max(axis=1) >= IOU_THRESHOLD)
        _, first = np.unique(best[near], return_index=True)
        right[near[first]] = True
    if not len(groups):
        return scores, right
    shared, of_box, _ = _intersections(boxes, groups)
    inside = shared / of_box
    best = inside.argmax(axis=1)
    dropped = ~right & (inside.max(axis=1) >= IOU_THRESHOLD)
    _, first = np.unique(best[dropped], return_index=True)
    found = scores[dropped][first]
    found = found[found > 0]
    return (
        np.concatenate([scores[~dropped], found]),
        np.concatenate([right[~dropped], np.ones(len(found), dtype=bool)]),
    )


def average_precision(scores: np.ndarray, right: np.ndarray, count: int) -> float:
    """Area under precision over recall of one class.

    Args:
        scores: of the detections of all images, [E].
        right: labels, [E].
        count: number of objects and groups.

    Returns:
        In [0, 1]; NaN if the class has no object.
    """
    if not count:
        return float("nan")
    right = right[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # recall rises by 1 / count at each right detection
    return float(precision[right].sum() / count)


def _intersections(
    boxes: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shared areas [D, G], areas of boxes [D, 1], of others [1, G]."""
    first, second = boxes[:, None], others[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    return shared, first[..., 2:].prod(axis=2), second[..., 2:].prod(axis=2)
