"""Detection and instance segmentation by COCO's average precision, through pycocotools.

Numbers and names are those of Detectron2's ``COCOEvaluator``, in percent, with these differences:

- the ground truth is the dataset's JSON where the metadata names one ("json_file"), else the
  catalog's records, converted in memory: nothing is cached on disk, nothing goes stale;
- annotations are numbered anew from 1, since pycocotools takes a match with annotation 0 for none;
- a model that finds nothing gets 0, not NaN or an empty result. NaN is left for what has no ground
  truth, such as APs in a dataset without small objects;
- it needs no compiled part of Detectron2; ``use_fast_impl`` uses it where it is there.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gppf_d2.evaluation.truth import metadata_of

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class DetectionEvaluator(DatasetEvaluator):
    """Average precision of boxes and masks, over all classes and per class.

    Args:
        dataset_name: registered dataset with "thing_classes".
        tasks: "bbox", "segm" or both; "segm" needs masks in ground truth and predictions.
        use_fast_impl: count with Detectron2's compiled evaluation where it was built.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = ("bbox", "segm"),
        use_fast_impl: bool = False,
    ) -> None:
        if not tasks or not set(tasks) <= {"bbox", "segm"}:
            raise ValueError(f"tasks are {list(tasks)}; choose 'bbox', 'segm' or both")
        self._tasks = tuple(tasks)
        self._classes = list(metadata_of(dataset_name, "thing_classes"))
        mapping = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            mapping = {index: index for index in range(len(self._classes))}
        self._category_ids = {index: key for key, index in mapping.items()}
        content = _ground_truth(dataset_name)
        unmasked = sum(not entry.get("segmentation") for entry in content["annotations"])
        if "segm" in self._tasks and unmasked:
            raise ValueError(
                f"{unmasked} of {len(content['annotations'])} objects of dataset '{dataset_name}' "
                "have no mask; evaluate it with tasks=['bbox']"
            )
        self._truth = _coco(content)
        self._count = _fast_counter() if use_fast_impl else COCOeval
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[dict] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep the predictions of images in COCO's result format, masks as RLE.

        Args:
            inputs: samples with "image_id".
            outputs: for each sample "instances" with pred_boxes, scores, pred_classes and, for
                "segm", pred_masks bool [R, H, W] at the size of the file.

        Raises:
            ValueError: the image is not in the ground truth, a class is out of range, or masks are
                missing.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            image_id = sample["image_id"]
            if image_id not in self._truth.imgs:
                raise ValueError(
                    f"'{sample.get('file_name')}' with image_id {image_id!r} is not in the ground "
                    "truth; give the evaluator the dataset that is predicted"
                )
            instances = output["instances"].to("cpu")
            if "segm" in self._tasks and not instances.has("pred_masks"):
                raise ValueError(
                    f"the prediction for '{sample.get('file_name')}' has no masks; evaluate the "
                    "model with tasks=['bbox']"
                )
            for result in instances_to_coco_json(instances, image_id):
                if result["category_id"] not in self._category_ids:
                    raise ValueError(
                        f"the prediction for '{sample.get('file_name')}' has class "
                        f"{result['category_id']}, expected 0 to {len(self._classes) - 1}; let "
                        "the head predict the dataset's classes"
                    )
                result["category_id"] = self._category_ids[result["category_id"]]
                self._predictions.append(result)

    def evaluate(self) -> OrderedDict | None:
        """Average precision over all images of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {"bbox": {...}, "segm": {...}} with the metrics of ``METRICS`` and, if there
            are several classes, "AP-<class>", in percent. None on other ranks.
        """
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = [result for part in gathered for result in part]
        return OrderedDict((task, self._precision(task, predictions)) for task in self._tasks)

    def _precision(self, task: str, predictions: list[dict]) -> dict[str, float]:
        if not predictions:
            logging.getLogger(__name__).warning("%s: the model found nothing", task)
        with contextlib.redirect_stdout(io.StringIO()):
            found = _coco({**self._truth.dataset, "annotations": []})
            if predictions:
                # without the box, so that pycocotools takes small, medium, large from the mask
                left_out = "bbox" if task == "segm" else "segmentation"
                found = self._truth.loadRes(
                    [{k: v for k, v in entry.items() if k != left_out} for entry in predictions]
                )
            # the compiled evaluation assumes at least one detection
            counter = (self._count if predictions else COCOeval)(self._truth, found, task)
            counter.evaluate()
            counter.accumulate()
            counter.summarize()
        result = {name: _percent(value) for name, value in zip(METRICS, counter.stats)}
        logging.getLogger(__name__).info("%s:\n%s", task, create_small_table(result))
        if len(self._classes) > 1:
            # precision: [thresholds, recalls, classes, areas, detections per image]
            for index, name in enumerate(self._classes):
                values = counter.eval["precision"][:, :, index, 0, -1]
                known = values[values > -1]
                result[f"AP-{name}"] = _percent(known.mean() if known.size else -1)
        return result


def _ground_truth(dataset_name: str) -> dict:
    """COCO content of a dataset, from its JSON or its records; annotations numbered from 1."""
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file is None:
        if dataset_name not in DatasetCatalog:
            raise KeyError(f"dataset '{dataset_name}' has metadata but no records; register it")
        content = convert_to_coco_dict(dataset_name)
        content.setdefault("annotations", [])
    else:
        with open(json_file) as file:
            content = json.load(file)
        if "annotations" not in content:
            raise ValueError(
                f"'{json_file}' has no annotations; evaluate a dataset with ground truth"
            )
    for number, entry in enumerate(content["annotations"], start=1):
        entry["id"] = number
        entry.setdefault("iscrowd", 0)
        entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
    return content


def _coco(content: dict) -> COCO:
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _fast_counter() -> type[COCOeval]:
    try:
        from detectron2.evaluation.fast_eval_api import COCOeval_opt
    except ImportError:
        logging.getLogger(__name__).info(
            "Detectron2 was installed without its compiled evaluation; counting with pycocotools"
        )
        return COCOeval
    return COCOeval_opt


def _percent(value: float) -> float:
    return 100 * float(value) if np.isfinite(value) and value >= 0 else float("nan")
