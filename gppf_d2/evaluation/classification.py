"""Accuracy of classification: top-1, top-5 and the mean over classes, in percent.

K classes, probabilities or scores [K] per image. A prediction counts as top-k if fewer than k
classes are ahead of the true one; equal scores are ordered by class index, as argmax does, and a
score that is not a number is never right. Counts are whole numbers: any number of processes gives
the same result to the last bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from gppf_d2.evaluation.truth import metadata_of, truth_of


class ClassificationEvaluator(DatasetEvaluator):
    """Top-1, top-5 and mean per-class accuracy.

    Args:
        dataset_name: registered dataset whose metadata holds "classes".
        num_classes: number of classes K, instead of a dataset.
    """

    def __init__(self, dataset_name: str | None = None, *, num_classes: int | None = None) -> None:
        if (dataset_name is None) == (num_classes is None):
            raise ValueError(
                f"dataset_name is {dataset_name!r}, num_classes {num_classes!r}; give exactly one"
            )
        if dataset_name is not None:
            num_classes = len(metadata_of(dataset_name, "classes"))
        self._num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # per class: images, right at the first place, right within the first five
        self._counts = np.zeros((3, self._num_classes), dtype=np.int64)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Count images.

        Args:
            inputs: samples with "label".
            outputs: for each sample "classes" [K].

        Raises:
            ValueError: a prediction is not [K], or a label is out of range.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            scores, label = output["classes"], int(truth_of(sample, "label"))
            if tuple(scores.shape) != (self._num_classes,):
                raise ValueError(
                    f"'{sample.get('file_name')}' has a prediction of shape {list(scores.shape)}, "
                    f"expected [{self._num_classes}]; let the head predict the dataset's classes"
                )
            if not 0 <= label < self._num_classes:
                raise ValueError(
                    f"'{sample.get('file_name')}' has label {label}, expected 0 to "
                    f"{self._num_classes - 1}; correct the dataset"
                )
            self._counts[:, label] += (1, *self._right(scores.detach(), label))

    @staticmethod
    def _right(scores: torch.Tensor, label: int) -> tuple[bool, bool]:
        true = scores[label]
        # "not at most" and not "greater": NaN is ahead of everything
        ahead = int((~(scores <= true)).sum()) + int((scores[:label] == true).sum())
        return ahead < 1, ahead < 5

    def evaluate(self) -> OrderedDict | None:
        """Accuracies of all images of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {"classification": {"top1", "top5", "mean_per_class"}} in percent, NaN without
            images; "mean_per_class" is over the classes that occur. None on other ranks.
        """
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return None
        images, top1, top5 = np.sum(gathered, axis=0)
        seen = images > 0
        with np.errstate(invalid="ignore"):
            result = {
                "top1": 100 * float(top1.sum() / images.sum()),
                "top5": 100 * float(top5.sum() / images.sum()),
                "mean_per_class": 100 * float((top1[seen] / images[seen]).sum() / seen.sum()),
            }
        return OrderedDict(classification=result)
