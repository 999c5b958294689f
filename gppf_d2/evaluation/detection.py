"""Detection and instance segmentation by COCO's average precision, for COCO, Objects365 and others.

Numbers and names are those of Detectron2's ``COCOEvaluator``, in percent, with these differences:

- the ground truth is the dataset's JSON where the metadata names one ("json_file"), else the
  catalog's records, converted in memory: nothing is cached on disk, nothing goes stale;
- annotations are numbered anew from 1, since pycocotools takes a match with annotation 0 for none;
- a model that finds nothing gets 0, not NaN or an empty result. NaN is left for what has no ground
  truth, such as APs in a dataset without small objects;
- predictions wait on disk, masks are encoded in their windows, and hotcoco counts where it is
  installed: the same numbers, many times faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from gppf_d2.evaluation.counting import (
    category_order,
    choose_library,
    count_with_hotcoco,
    count_with_pycocotools,
    mean_precision,
    standard_metrics,
)
from gppf_d2.evaluation.instances import InstanceEvaluator
from gppf_d2.evaluation.prediction_store import Predictions

COUNT_WITH = {"hotcoco": count_with_hotcoco, "pycocotools": count_with_pycocotools}


class DetectionEvaluator(InstanceEvaluator):
    """Average precision of boxes and masks, over all classes and per class.

    ``evaluate()`` gives {"bbox": {...}, "segm": {...}} with AP, AP50, AP75, APs, APm, APl and, if
    there are several classes, "AP-<class>".

    Args:
        dataset_name: registered dataset with "thing_classes".
        tasks: "bbox", "segm" or both; "segm" needs masks in ground truth and predictions.
        backend: what counts: "hotcoco", "pycocotools", or "auto" for the first that is installed.
        output_dir: folder that gets ``predictions_<task>.json`` in COCO's result format, and the
            temporary files meanwhile; None keeps nothing.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = ("bbox", "segm"),
        backend: str = "auto",
        output_dir: str | None = None,
    ) -> None:
        self._library = choose_library(backend, "pycocotools")
        super().__init__(dataset_name, tasks, output_dir)

    def _measure(self, task: str, predictions: Predictions) -> dict[str, dict[str, float]]:
        count = COUNT_WITH[self._library]
        precision = count(self._truth, predictions, self._category_ids, task)
        result = standard_metrics(precision)
        if len(self._classes) > 1:
            places = category_order(self._truth, self._category_ids)
            for name, place in zip(self._names, places):
                result[f"AP-{name}"] = mean_precision(precision[:, :, place, 0])
        return {task: result}
