"""Average precision of the Open Images detection challenge 2019, by TensorFlow's protocol.

Three things set it apart from COCO's (``open_images_matching`` says how detections are labelled):

- hierarchy: an object of a class is one of all its ancestors too (a "Boy" is a "Person"); a class
  that is verified as present makes its ancestors present, one verified as absent its descendants
  absent. Detections are taken as they are, as in the challenge, whose entrants were to expand them;
- verified labels: only classes verified for an image count in it. Detections of other classes are
  taken out first;
- group-of boxes, and one IoU threshold of 0.5.

Classes without an object are left out of the mean. The result is named after the protocol, since
libraries that match as COCO does (hotcoco, faster-coco-eval) differ from it by up to 6e-4.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.data import MetadataCatalog

from gppf_d2.evaluation.instances import InstanceEvaluator
from gppf_d2.evaluation.open_images_matching import average_precision, label_detections
from gppf_d2.evaluation.prediction_store import Predictions
from gppf_d2.evaluation.truth import metadata_of

VERIFIED = ("pos_category_ids", "neg_category_ids")
RESULT = "open_images_challenge"
Ancestors = Mapping[int, Sequence[int]]


class OpenImagesEvaluator(InstanceEvaluator):
    """AP at IoU 0.5 of the challenge 2019, mean and per class.

    ``evaluate()`` gives {"open_images_challenge": {"AP50", "AP50-<class>"}}. The metadata holds:

    - "json_file", whose images have "pos_category_ids" and "neg_category_ids" (verified as present
      and absent) and whose annotations have "isgroupof";
    - "hierarchy_file", the challenge's tree of classes, and "thing_mids", the classes' labels in
      it; or instead of both "hierarchy", {category id: [category ids of its ancestors]}.

    Args:
        dataset_name: registered dataset.
        expand_predictions: count each detection as one of all ancestors of its class too, for
            models that predict the most specific class only.
        output_dir: folder that gets ``predictions_bbox.json`` in COCO's result format, and the
            temporary files meanwhile; None keeps nothing.

    Raises:
        KeyError: the metadata lacks the hierarchy.
        ValueError: the ground truth lacks verified labels, or the hierarchy lacks a class.
    """

    def __init__(
        self,
        dataset_name: str,
        expand_predictions: bool = False,
        output_dir: str | None = None,
    ) -> None:
        super().__init__(dataset_name, ["bbox"], output_dir)
        self._expand_predictions = expand_predictions
        if self._truth is None:
            return
        for key in VERIFIED:
            if any(key not in image for image in self._truth.images):
                raise ValueError(
                    f"images of dataset '{dataset_name}' have no '{key}', which the challenge's "
                    "metric needs; evaluate it with DetectionEvaluator"
                )
        ancestors = _ancestors(dataset_name, self._category_ids.tolist())
        self._index = {key: index for index, key in enumerate(self._category_ids.tolist())}
        # relation[a, b]: an object of class a is one of class b
        self._relation = np.eye(len(self._classes), dtype=bool)
        for key, above in ancestors.items():
            self._relation[self._index[key], [self._index[other] for other in above]] = True

    def _measure(self, task: str, predictions: Predictions) -> dict[str, dict[str, float]]:
        objects = self._objects()
        found = self._countable(predictions, objects)
        classes = range(len(self._classes))
        precisions = np.array([self._precision(objects[n], found[n]) for n in classes])
        known = precisions[~np.isnan(precisions)]
        result = {"AP50": 100 * float(known.mean()) if known.size else float("nan")}
        for name, precision in zip(self._names, precisions):
            result[f"AP50-{name}"] = 100 * float(precision)
        return {RESULT: result}

    def _objects(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per class images [G], boxes [G, 4] and group flags [G] of all its objects, by image."""
        entries = [e for e in self._truth.annotations if e["category_id"] in self._index]
        entries.sort(key=lambda entry: entry["image_id"])
        images = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        groups = np.array([entry.get("isgroupof", 0) for entry in entries], dtype=bool)
        classes = np.array([self._index[e["category_id"]] for e in entries], dtype=np.int64)
        chosen = [np.flatnonzero(self._relation[classes, n]) for n in range(len(self._classes))]
        return [(images[i], boxes[i], groups[i]) for i in chosen]

    def _verified(self, objects: Sequence[tuple]) -> np.ndarray:
        """bool [I + 1, K]: classes that count in an image."""
        verified = np.zeros((len(self._truth.images) + 1, len(self._classes)), dtype=bool)
        for image in self._truth.images:
            present, absent = (
                [self._index[key] for key in image[name] if key in self._index] for name in VERIFIED
            )
            verified[image["id"]] = self._relation[present].any(0) | self._relation.T[absent].any(0)
        for index, (images, _, _) in enumerate(objects):
            verified[images, index] = True
        return verified

    def _countable(
        self, predictions: Predictions, objects: Sequence[tuple]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per class images, boxes and scores of the detections that count, by image, best first."""
        boxes = predictions.rows["box"].astype(np.float64)
        verified = self._verified(objects)
        categories = np.where((boxes[:, 2:] > 0).all(axis=1), predictions.rows["category"], -1)
        order = np.argsort(categories, kind="stable")
        limits = np.searchsorted(categories[order], np.arange(len(self._classes) + 1))
        rows_of = [order[low:high] for low, high in zip(limits, limits[1:])]
        result = []
        for index, rows in enumerate(rows_of):
            if self._expand_predictions:
                below = np.flatnonzero(self._relation[:, index])
                rows = np.sort(np.concatenate([rows_of[other] for other in below]))
            rows = rows[verified[predictions.image[rows], index]]
            images, scores = predictions.image[rows], predictions.rows["score"][rows]
            best = np.lexsort((-scores, images))
            result.append((images[best], boxes[rows[best]], scores[best]))
        return result

    @staticmethod
    def _precision(objects: tuple, found: tuple) -> float:
        """AP of one class; arguments are entries of ``_objects`` and ``_countable``."""
        truth_images, truth_boxes, groups = objects
        images, boxes, scores = found
        all_scores, all_labels = [np.zeros(0)], [np.zeros(0, dtype=bool)]
        numbers, starts = np.unique(images, return_index=True)
        limits = np.searchsorted(truth_images, [numbers, numbers + 1])
        for start, end, low, high in zip(starts, np.append(starts, len(images))[1:], *limits):
            if low == high:  # verified as absent
                labelled = scores[start:end], np.zeros(end - start, dtype=bool)
            else:
                there, group = truth_boxes[low:high], groups[low:high]
                labelled = label_detections(
                    boxes[start:end], scores[start:end], there[~group], there[group]
                )
            all_scores.append(labelled[0])
            all_labels.append(labelled[1])
        return average_precision(
            np.concatenate(all_scores), np.concatenate(all_labels), len(truth_boxes)
        )


def _ancestors(dataset_name: str, category_ids: Sequence[int]) -> Ancestors:
    """Category ids of all ancestors of each category, from the metadata."""
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("hierarchy") is not None:
        return metadata.hierarchy
    path, labels = (
        metadata_of(dataset_name, "hierarchy_file"),
        metadata_of(dataset_name, "thing_mids"),
    )
    with open(path) as file:
        above = read_hierarchy(json.load(file))
    missing = [label for label in labels if label not in above]
    if missing:
        raise ValueError(
            f"'{path}' lacks {len(missing)} of the {len(labels)} classes of dataset "
            f"'{dataset_name}', the first is '{missing[0]}'; use the hierarchy of the same release"
        )
    ids = dict(zip(labels, category_ids))
    return {ids[label]: [ids[other] for other in above[label] if other in ids] for label in labels}


def read_hierarchy(tree: dict) -> dict[str, set[str]]:
    """Labels of all ancestors per label of Open Images' tree, whose root stands for no class.

    Args:
        tree: {"LabelName": ..., "Subcategory": [trees]}; a class may occur in several places.
    """
    above: dict[str, set[str]] = defaultdict(set)
    waiting: list[tuple[dict, frozenset[str]]] = [
        (child, frozenset()) for child in tree.get("Subcategory", ())
    ]
    while waiting:
        node, ancestors = waiting.pop()
        above[node["LabelName"]] |= ancestors
        below = ancestors | {node["LabelName"]}
        waiting.extend((child, below) for child in node.get("Subcategory", ()))
    return dict(above)
