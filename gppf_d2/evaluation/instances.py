"""What the evaluators of boxes and masks share: checks, stored predictions, the order of work.

``process`` checks predictions and writes them to disk (``prediction_store``); ``evaluate`` brings
them to rank 0, gives images the numbers of the ground truth and asks the evaluator to measure every
task. Only rank 0 reads the ground truth: a rank of a large run holds a few files, no dataset.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from gppf_d2.evaluation.instance_truth import category_ids, load_truth
from gppf_d2.evaluation.masks import encode_masks
from gppf_d2.evaluation.prediction_store import ROW, Predictions, PredictionStore
from gppf_d2.evaluation.truth import metadata_of

logger = logging.getLogger(__name__)


class InstanceEvaluator(DatasetEvaluator):
    """Base of the evaluators of instances.

    Args:
        dataset_name: registered dataset with "thing_classes".
        tasks: "bbox", "segm" or both; "segm" needs masks in ground truth and predictions.
        output_dir: folder that gets ``predictions_<task>.json`` in COCO's result format, and the
            temporary files meanwhile; None keeps nothing.
    """

    def __init__(
        self, dataset_name: str, tasks: Sequence[str], output_dir: str | None = None
    ) -> None:
        if not tasks or not set(tasks) <= {"bbox", "segm"}:
            raise ValueError(f"tasks are {list(tasks)}; choose 'bbox', 'segm' or both")
        self._tasks = tuple(tasks)
        self._dataset_name = dataset_name
        self._classes = list(metadata_of(dataset_name, "thing_classes"))
        self._names = _distinct(self._classes)
        self._output_dir = None if output_dir is None else Path(output_dir)
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
        self._truth = load_truth(dataset_name) if comm.is_main_process() else None
        if self._truth is not None:
            self._category_ids = np.array(category_ids(dataset_name, self._truth), dtype=np.int64)
        if self._truth is not None and "segm" in self._tasks:
            unmasked = sum(not entry.get("segmentation") for entry in self._truth.annotations)
            if unmasked:
                raise ValueError(
                    f"{unmasked} of {len(self._truth.annotations)} objects of dataset "
                    f"'{dataset_name}' have no mask; evaluate it with tasks=['bbox']"
                )
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._store = PredictionStore(self._output_dir)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep the predictions of images; an image that comes again is left out.

        Args:
            inputs: samples with "image_id".
            outputs: for each sample "instances" with pred_boxes, scores, pred_classes and, for
                "segm", pred_masks bool [R, H, W] at the size of the file.

        Raises:
            ValueError: the image is not in the ground truth, a class is out of range, or masks are
                missing.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            image_id, file_name = sample["image_id"], sample.get("file_name")
            if self._truth is not None and image_id not in self._truth.numbers:
                raise _unknown_image(image_id, file_name)
            instances = output["instances"].to("cpu")
            if "segm" in self._tasks and not instances.has("pred_masks"):
                raise ValueError(
                    f"the prediction for '{file_name}' has no masks; evaluate the model with "
                    "tasks=['bbox']"
                )
            rows, rles = _rows_of(instances, masks="segm" in self._tasks)
            wrong = rows["category"][(rows["category"] < 0) | (rows["category"] >= self._count)]
            if wrong.size:
                raise ValueError(
                    f"the prediction for '{file_name}' has class {wrong[0]}, expected 0 to "
                    f"{self._count - 1}; let the head predict the dataset's classes"
                )
            self._store.add(image_id, instances.image_size, rows, rles)

    @property
    def _count(self) -> int:
        return len(self._classes)

    def evaluate(self) -> OrderedDict | None:
        """Measure all images of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {task: {metric: value}} in percent, NaN for what has no ground truth; None on
            other ranks.

        Raises:
            ValueError: a predicted image is not in the ground truth.
        """
        predictions = self._store.collect()
        if predictions is None:
            return None
        self._match_images(predictions)
        results = OrderedDict()
        for task in self._tasks:
            if self._output_dir is not None:
                self._write(task, predictions)
            if not len(predictions.rows):
                logger.warning("%s on %s: the model found nothing", task, self._dataset_name)
            results.update(self._measure(task, predictions))
        for name, metrics in results.items():
            short = {key: value for key, value in metrics.items() if "-" not in key}
            logger.info("%s:\n%s", name, create_small_table(short))
        return results

    @abstractmethod
    def _measure(self, task: str, predictions: Predictions) -> dict[str, dict[str, float]]:
        """{name: {metric: value}} of a task; images are numbers of the ground truth."""

    def _match_images(self, predictions: Predictions) -> None:
        """Replace indices of predicted images by the numbers of the ground truth."""
        numbers = self._truth.numbers
        unknown = [image_id for image_id in predictions.image_ids if image_id not in numbers]
        if unknown:
            raise _unknown_image(unknown[0], None)
        missing = len(numbers) - len(predictions.image_ids)
        if missing:
            logger.warning(
                "%d of %d images were not predicted; their objects count as missed",
                missing,
                len(numbers),
            )
        order = [numbers[image_id] for image_id in predictions.image_ids]
        predictions.image = np.array(order, dtype=np.int64)[predictions.image]
        if "segm" not in self._tasks:
            return
        for image_id, number, size in zip(predictions.image_ids, order, predictions.sizes.tolist()):
            image = self._truth.images[number - 1]
            if size != [image["height"], image["width"]]:
                raise ValueError(
                    f"the masks predicted for image {image_id!r} have {size[0]} x {size[1]} "
                    f"pixels, the image {image['height']} x {image['width']}; give the model the "
                    "sample's height and width"
                )

    def _write(self, task: str, predictions: Predictions) -> None:
        path = self._output_dir / f"predictions_{task}.json"
        with open(path.with_suffix(".tmp"), "w") as file:
            separator = "["
            for line in self._results(task, predictions):
                file.write(separator + json.dumps(line))
                separator = ",\n"
            file.write("]\n" if separator != "[" else "[]\n")
        path.with_suffix(".tmp").replace(path)

    def _results(self, task: str, predictions: Predictions) -> Iterator[dict]:
        """COCO's results with the ids of the dataset."""
        ids = {number: image_id for image_id, number in self._truth.numbers.items()}
        for index, (number, row) in enumerate(zip(predictions.image.tolist(), predictions.rows)):
            entry = {
                "image_id": ids[number],
                "category_id": int(self._category_ids[row["category"]]),
                "bbox": row["box"].tolist(),
                "score": float(row["score"]),
            }
            if task == "segm":
                image = self._truth.images[number - 1]
                entry["segmentation"] = {
                    "size": [image["height"], image["width"]],
                    "counts": predictions.rles[index].decode(),
                }
            yield entry


def _rows_of(instances: Any, masks: bool) -> tuple[np.ndarray, list[bytes] | None]:
    """``ROW`` [R] and RLEs of Detectron2's Instances on the CPU."""
    rows = np.zeros(len(instances), dtype=ROW)
    rows["category"] = instances.pred_classes.numpy()
    rows["score"] = instances.scores.double().numpy()
    corners = instances.pred_boxes.tensor.detach().numpy()
    rows["box"][:, :2] = corners[:, :2]
    rows["box"][:, 2:] = corners[:, 2:] - corners[:, :2]
    if not masks:
        return rows, None
    pasted = np.asarray(instances.pred_masks).astype(bool, copy=False)
    rles, rows["mask_area"] = encode_masks(pasted)
    return rows, rles


def _distinct(classes: Sequence[str]) -> list[str]:
    """Names for results: of classes with one name (Open Images has two "Bench") later ones get a
    number."""
    times = Counter()
    names = []
    for name in classes:
        times[name] += 1
        names.append(name if times[name] == 1 else f"{name} ({times[name]})")
    return names


def _unknown_image(image_id: Any, file_name: str | None) -> ValueError:
    subject = f"'{file_name}' with image_id" if file_name else "image_id"
    return ValueError(
        f"{subject} {image_id!r} is not in the ground truth; give the evaluator the dataset that "
        "is predicted"
    )
