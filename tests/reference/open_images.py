"""The Open Images challenge's AP, image by image and detection by detection, as its text reads.

Slow and plain: dictionaries and loops instead of arrays, an object and all its ancestors written
out one by one.
"""

from __future__ import annotations

import math


def challenge_ap(
    content: dict, detections: list[dict], ancestors: dict[int, list[int]], expand: bool = False
) -> dict[int, float]:
    """AP at IoU 0.5 per category id, NaN without objects.

    Args:
        content: of a COCO JSON whose images have "pos_category_ids" and "neg_category_ids".
        detections: COCO results.
        ancestors: category ids of all ancestors per category id.
        expand: whether detections are detections of all ancestors too.
    """
    descendants = {key: [k for k, above in ancestors.items() if key in above] for key in ancestors}
    return {
        key: _class_ap(content, detections, ancestors, descendants, key, expand)
        for key in ancestors
    }


def _class_ap(content, detections, ancestors, descendants, key, expand) -> float:
    below = {key, *descendants[key]}
    labelled, count = [], 0
    for image in content["images"]:
        objects = [
            entry
            for entry in content["annotations"]
            if entry["image_id"] == image["id"] and entry["category_id"] in below
        ]
        count += len(objects)
        present = any(k in below for k in image["pos_category_ids"])
        absent = any(k in (key, *ancestors[key]) for k in image["neg_category_ids"])
        if not (objects or present or absent):
            continue
        found = [
            entry
            for entry in detections
            if entry["image_id"] == image["id"]
            and entry["category_id"] in (below if expand else {key})
            and entry["bbox"][2] > 0
            and entry["bbox"][3] > 0
        ]
        found.sort(key=lambda entry: -entry["score"])
        labelled += _label(found, objects)
    if not count:
        return math.nan
    labelled.sort(key=lambda pair: -pair[0])
    return _area([right for _, right in labelled], count)


def _label(found: list[dict], objects: list[dict]) -> list[tuple[float, bool]]:
    single = [entry["bbox"] for entry in objects if not entry["isgroupof"]]
    groups = [entry["bbox"] for entry in objects if entry["isgroupof"]]
    taken, best_of_group, labelled = set(), {}, []
    for entry in found:
        box, score = entry["bbox"], entry["score"]
        overlaps = [
            _shared(box, o) / (_area_of(box) + _area_of(o) - _shared(box, o)) for o in single
        ]
        best = overlaps.index(max(overlaps)) if overlaps else -1
        if overlaps and overlaps[best] >= 0.5 and best not in taken:
            taken.add(best)
            labelled.append((score, True))
            continue
        inside = [_shared(box, group) / _area_of(box) for group in groups]
        group = inside.index(max(inside)) if inside else -1
        if inside and inside[group] >= 0.5:
            best_of_group[group] = max(score, best_of_group.get(group, 0))
        else:
            labelled.append((score, False))
    return labelled + [(score, True) for score in best_of_group.values() if score > 0]


def _area(rights: list[bool], count: int) -> float:
    """Area under the monotone precision-recall curve."""
    points, hits = [], 0
    for number, right in enumerate(rights, start=1):
        hits += right
        points.append((hits / count, hits / number))
    area, reached = 0.0, 0.0
    for index, (recall, _) in enumerate(points):
        if recall > reached:
            area += (recall - reached) * max(precision for _, precision in points[index:])
            reached = recall
    return area


def _area_of(box: list[float]) -> float:
    return box[2] * box[3]


def _shared(first: list[float], second: list[float]) -> float:
    sides = [
        min(first[i] + first[i + 2], second[i] + second[i + 2]) - max(first[i], second[i])
        for i in (0, 1)
    ]
    return max(sides[0], 0) * max(sides[1], 0)
