"""Semantic segmentation by intersection over union, from one confusion matrix.

K classes, scores [K, H, W] per image. Numbers and names are those of Detectron2's
``SemSegEvaluator``: pixels of the ignore label do not count, and the means are over the classes
that occur in the ground truth. Two things differ: the truth is the sample's, cleaned by the mapper
(``SemSegEvaluator`` reads the file again and takes void for a class where a dataset writes it as
one), and no prediction is kept. The boundary IoU is that of its authors (``semantic_boundary``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from gppf_d2.evaluation.semantic_boundary import boundary_counts
from gppf_d2.evaluation.truth import metadata_of, truth_of


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, frequency-weighted IoU, mean and overall pixel accuracy, IoU and accuracy per class.

    Args:
        dataset_name: registered dataset whose metadata holds "stuff_classes" and, unless it is 255,
            "ignore_label".
        boundary: measure the boundary IoU too, mean and per class.
    """

    def __init__(self, dataset_name: str, boundary: bool = False) -> None:
        self._boundary = boundary
        self._classes = list(metadata_of(dataset_name, "stuff_classes"))
        self._ignore = MetadataCatalog.get(dataset_name).get("ignore_label", 255)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # [true class, predicted class], pixels
        self._confusion = np.zeros((len(self._classes), len(self._classes)), dtype=np.int64)
        # pixels of boundary regions: [in both, in the true one, in the predicted one]
        self._regions = np.zeros((3, len(self._classes)), dtype=np.int64)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Count pixels.

        Args:
            inputs: samples with "sem_seg" [H, W] at the size of the file.
            outputs: for each sample "sem_seg" scores [K, H, W].

        Raises:
            ValueError: a prediction is not [K, H, W], or a label is out of range.
        """
        count = len(self._classes)
        for sample, output in zip(inputs, outputs, strict=True):
            truth, scores = truth_of(sample, "sem_seg"), output["sem_seg"]
            if tuple(scores.shape) != (count, *truth.shape):
                raise ValueError(
                    f"'{sample.get('file_name')}' has a prediction of shape {list(scores.shape)}, "
                    f"expected {[count, *truth.shape]}: one score per class of the dataset, at the "
                    "size of the file"
                )
            truth = truth.cpu().numpy().astype(np.int64)
            predicted = scores.detach().argmax(dim=0).cpu().numpy()
            counted = truth != self._ignore
            known = truth[counted]
            if known.size and not 0 <= known.min() <= known.max() < count:
                raise ValueError(
                    f"'{sample.get('file_name')}' has labels {known.min()} to {known.max()}, "
                    f"expected 0 to {count - 1} or {self._ignore}; correct the dataset"
                )
            if self._boundary:
                labels = np.where(counted, truth, count)
                self._regions += boundary_counts(labels, predicted, count)
            pairs = np.bincount(count * known + predicted[counted], minlength=count**2)
            self._confusion += pairs.reshape(count, count)

    def evaluate(self) -> OrderedDict | None:
        """Ratios over all pixels of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {"sem_seg": {"mIoU", "fwIoU", "mACC", "pACC", "IoU-<class>", "ACC-<class>"}}
            in percent, with ``boundary`` also "BoundaryIoU" and "BoundaryIoU-<class>". NaN where a
            class does not occur, everywhere without labelled pixels. None on other ranks.
        """
        gathered = comm.gather((self._confusion, self._regions))
        if not comm.is_main_process():
            return None
        confusion, regions = (np.sum(part, axis=0).astype(np.float64) for part in zip(*gathered))
        right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        occurs = true > 0
        with np.errstate(invalid="ignore"):
            iou = np.where(occurs, right / (true + predicted - right), np.nan)
            accuracy = np.where(occurs, right / true, np.nan)
            result = {
                "mIoU": iou[occurs].sum() / occurs.sum(),
                "fwIoU": (iou[occurs] * true[occurs]).sum() / true.sum(),
                "mACC": accuracy[occurs].sum() / occurs.sum(),
                "pACC": right.sum() / true.sum(),
            }
        if self._boundary:
            both, true, predicted = regions
            with np.errstate(invalid="ignore"):
                boundary = np.where(occurs, both / (true + predicted - both), np.nan)
                result["BoundaryIoU"] = boundary[occurs].sum() / occurs.sum()
            result.update({f"BoundaryIoU-{n}": v for n, v in zip(self._classes, boundary)})
        result.update({f"IoU-{name}": value for name, value in zip(self._classes, iou)})
        result.update({f"ACC-{name}": value for name, value in zip(self._classes, accuracy)})
        return OrderedDict(sem_seg={name: 100 * float(value) for name, value in result.items()})
