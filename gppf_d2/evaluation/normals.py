"""Angles between predicted and true surface normals, over all valid pixels of a dataset.

    mean, median               degrees
    within_{11.25,22.5,30}     percent of the pixels whose angle is at most that many degrees

Every valid pixel of the set has the same weight. Memory does not grow with the set: angles are
counted in 36,000 bins of 0.005 degrees, so the median is right to half a bin; the other measures
are exact. Counts add up exactly and the sums of the images are added without rounding, so that any
number of ranks and any order of images give the same numbers. A prediction without a direction
(zero or not finite) counts as 180 degrees.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from gppf_d2.evaluation.truth import truth_of

LIMITS = (11.25, 22.5, 30.0)
METRICS = ("mean", "median", *(f"within_{limit:g}" for limit in LIMITS))
BIN = 0.005  # degrees


def angles(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Angles between paired vectors of any length, also where they are tiny.

    Args:
        prediction: [3, P].
        truth: [3, P], not zero.

    Returns:
        float64 [P] in degrees, 0 to 180; 180 for a prediction without a direction.
    """
    prediction, truth = prediction.astype(np.float64), truth.astype(np.float64)
    lost = ~np.isfinite(prediction).all(0) | ~prediction.any(0)
    prediction = np.where(lost, -truth, prediction)
    sine = np.linalg.norm(np.cross(prediction, truth, axis=0), axis=0)
    return np.degrees(np.arctan2(sine, (prediction * truth).sum(0)))


class NormalsEvaluator(DatasetEvaluator):
    """Mean and median angle, and the share of pixels within three limits."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._bins = np.zeros(round(180 / BIN), np.int64)
        self._within = np.zeros(len(LIMITS), np.int64)
        self._sums: list[float] = []
        self._skipped = 0

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Add images; an image without a valid pixel is left out and counted.

        Args:
            inputs: samples with "normals" [3, H, W], (0, 0, 0) = none, at the size of the file.
            outputs: for each sample "normals" [3, H, W].

        Raises:
            ValueError: prediction and truth differ in size.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            truth = truth_of(sample, "normals").detach().cpu().numpy()
            prediction = output["normals"].detach().cpu().float().numpy()
            if prediction.shape != truth.shape:
                raise ValueError(
                    f"'{sample.get('file_name')}' has a prediction of shape "
                    f"{list(prediction.shape)} and a truth of {list(truth.shape)}; both must have "
                    "the size of the file"
                )
            valid = truth.any(0)
            if not valid.any():
                self._skipped += 1
                continue
            found = angles(prediction[:, valid], truth[:, valid])
            self._sums.append(math.fsum(found))
            self._within += [np.count_nonzero(found <= limit) for limit in LIMITS]
            index = np.minimum((found / BIN).astype(np.int64), len(self._bins) - 1)
            self._bins += np.bincount(index, minlength=len(self._bins))

    def evaluate(self) -> OrderedDict | None:
        """The measures over all pixels of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {"normals": {metric: value}} for the five of ``METRICS``, NaN without a valid
            pixel. None on other ranks.
        """
        gathered = comm.gather((self._bins, self._within, self._sums, self._skipped))
        if not comm.is_main_process():
            return None
        parts = list(zip(*gathered))
        bins, within, skipped = sum(parts[0]), sum(parts[1]), sum(parts[3])
        if skipped:
            logging.getLogger(__name__).warning(
                "normals: %d image(s) have no pixel with a normal and do not count", skipped
            )
        count = int(bins.sum())
        if not count:
            return OrderedDict(normals=dict.fromkeys(METRICS, math.nan))
        mean = math.fsum(value for part in parts[2] for value in part) / count
        values = (mean, _median(bins), *(float(100 * n / count) for n in within))
        return OrderedDict(normals=dict(zip(METRICS, values)))


def _median(bins: np.ndarray) -> float:
    """The middle angle, or the middle of the two middle ones, from counts."""
    done, count = bins.cumsum(), int(bins.sum())
    middle = np.searchsorted(done, [(count - 1) // 2 + 1, count // 2 + 1])
    return float((middle.mean() + 0.5) * BIN)
