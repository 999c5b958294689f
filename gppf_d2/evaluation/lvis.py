"""Average precision of LVIS v1, whose images are labelled for some of the 1,203 classes only.

Every image says which classes were looked for and found absent ("neg_category_ids") and which are
not marked everywhere ("not_exhaustive_category_ids"). A detection counts as wrong only where its
class is known to be absent or is marked everywhere; 300 detections an image count. APr, APc and
APf are the means over the rare, common and frequent classes. Numbers are those of lvis-api, in
percent, counted by hotcoco where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence

from gppf_d2.evaluation.counting import (
    choose_library,
    count_with_hotcoco,
    count_with_lvis,
    mean_precision,
    standard_metrics,
)
from gppf_d2.evaluation.instances import InstanceEvaluator
from gppf_d2.evaluation.prediction_store import Predictions

FREQUENCIES = ("r", "c", "f")
IMAGE_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


class LVISEvaluator(InstanceEvaluator):
    """Federated average precision of boxes and masks, overall and by frequency of the class.

    ``evaluate()`` gives {"bbox": {...}, "segm": {...}} with AP, AP50, AP75, APs, APm, APl, APr,
    APc, APf.

    Args:
        dataset_name: registered dataset with "thing_classes", whose "json_file" is LVIS's.
        tasks: "bbox", "segm" or both.
        backend: what counts: "hotcoco", "lvis", or "auto" for the first that is installed.
        output_dir: folder that gets ``predictions_<task>.json`` in LVIS's result format, and the
            temporary files meanwhile; None keeps nothing.

    Raises:
        ValueError: the ground truth lacks what LVIS needs, or no library is installed.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] = ("bbox", "segm"),
        backend: str = "auto",
        output_dir: str | None = None,
    ) -> None:
        self._library = choose_library(backend, "lvis")
        super().__init__(dataset_name, tasks, output_dir)
        if self._truth is not None:
            self._check(dataset_name)

    def _check(self, dataset_name: str) -> None:
        for key in IMAGE_LISTS:
            if any(key not in image for image in self._truth.images):
                raise ValueError(
                    f"images of dataset '{dataset_name}' have no '{key}', which LVIS's metric "
                    "needs; evaluate it with DetectionEvaluator"
                )
        for category in self._truth.categories:
            if category.get("frequency") not in FREQUENCIES:
                raise ValueError(
                    f"category '{category['name']}' of dataset '{dataset_name}' has frequency "
                    f"{category.get('frequency')!r}, expected one of {', '.join(FREQUENCIES)}; use "
                    "the categories of LVIS's annotation file"
                )

    def _measure(self, task: str, predictions: Predictions) -> dict[str, dict[str, float]]:
        arguments = (self._truth, predictions, self._category_ids, task)
        if self._library == "hotcoco":
            precision = count_with_hotcoco(*arguments, federated=True)
        else:
            precision = count_with_lvis(*arguments)
        result = standard_metrics(precision)
        categories = sorted(self._truth.categories, key=lambda category: category["id"])
        for frequency in FREQUENCIES:
            places = [n for n, c in enumerate(categories) if c["frequency"] == frequency]
            result[f"AP{frequency}"] = mean_precision(precision[:, :, places, 0])
        return {task: result}
