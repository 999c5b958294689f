"""The seven measures of monocular depth (Eigen et al., 2014), per image and then averaged.

With g the true and p the predicted depth in metres over the valid pixels of an image:

    delta_k    share of pixels with max(p / g, g / p) < 1.25^k, in [0, 1]
    abs_rel    mean |p - g| / g            rmse       sqrt(mean (p - g)^2), metres
    sq_rel     mean (p - g)^2 / g, metres  rmse_log   sqrt(mean (ln p - ln g)^2)

A pixel is valid if min_depth < g < max_depth; predictions are clipped to that range first, NaN to
its lower end. As on KITTI and NYU every image has the same weight. Only sums are kept.

Models that know depth up to scale (and shift) only are aligned to the truth of every image first.
The scale of a least-squares fit is at least 0: a prediction that falls where the truth rises is not
turned around, but becomes constant at the mean, and is measured so.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from gppf_d2.evaluation.truth import metadata_of, truth_of

ALIGNMENTS = ("none", "median", "scale_shift")
METRICS = ("delta1", "delta2", "delta3", "abs_rel", "sq_rel", "rmse", "rmse_log")

# top, bottom, left, right as shares of height and width
CROPS = {
    "none": (0.0, 1.0, 0.0, 1.0),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),  # KITTI, Garg et al., 2016
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),  # KITTI, Eigen et al., 2014
    "nyu_eigen": (45 / 480, 471 / 480, 41 / 640, 601 / 640),  # NYU, Eigen et al., 2014
}


def depth_errors(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The seven measures over paired depths.

    Args:
        prediction: positive depths in metres, [P].
        truth: positive depths in metres, [P], P >= 1.

    Returns:
        float64 [7] in the order of ``METRICS``.
    """
    ratio = np.maximum(prediction / truth, truth / prediction)
    difference = prediction - truth
    log_difference = np.log(prediction) - np.log(truth)
    return np.array(
        [
            *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
            np.mean(np.abs(difference) / truth),
            np.mean(difference**2 / truth),
            np.sqrt(np.mean(difference**2)),
            np.sqrt(np.mean(log_difference**2)),
        ]
    )


def fitted(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """s prediction + t with the s >= 0 and t of the smallest squared error, in closed form.

    Args:
        prediction: [P]; what is not finite has no say in s and t.
        truth: finite, [P].

    Returns:
        float64 [P], NaN where the prediction is not finite. All are the mean of the truth if the
        prediction is constant or falls where the truth rises.
    """
    finite = np.isfinite(prediction)
    result = np.full(prediction.shape, np.nan)
    if finite.any():
        prediction, truth = prediction[finite], truth[finite]
        centred = prediction - prediction.mean()
        square = centred @ centred
        scale = max(0.0, centred @ (truth - truth.mean()) / square) if square else 0.0
        result[finite] = scale * centred + truth.mean()
    return result


class DepthEvaluator(DatasetEvaluator):
    """delta1 to delta3, AbsRel, SqRel, RMSE and RMSElog, of metres or of relative inverse depth.

    Outputs with "depth" are taken in metres, after ``alignment``. Outputs without it, but with
    "inverse_depth", are always aligned to 1 / truth by scale and shift, then inverted; what comes
    out at or below 1 / max_depth is at max_depth.

    Args:
        dataset_name: registered dataset; its metadata's "depth_range" is the default range.
        min_depth: lower end of the range in metres, > 0.
        max_depth: upper end of the range in metres.
        crop: part of the image that counts, "none", "garg" or "eigen" (both for KITTI), or
            "nyu_eigen".
        alignment: of each "depth" to its truth. "median" scales it by median(truth) /
            median(prediction), "scale_shift" by the least-squares fit (`fitted`).
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        *,
        min_depth: float | None = None,
        max_depth: float | None = None,
        crop: str = "none",
        alignment: str = "none",
    ) -> None:
        if min_depth is None or max_depth is None:
            if dataset_name is None:
                raise ValueError("give a dataset_name, or both min_depth and max_depth in metres")
            low, high = metadata_of(dataset_name, "depth_range")
            min_depth = low if min_depth is None else min_depth
            max_depth = high if max_depth is None else max_depth
        if not 0 < min_depth < max_depth:
            raise ValueError(
                f"the depth range is {min_depth} to {max_depth} metres; choose 0 < min < max"
            )
        if crop not in CROPS:
            raise ValueError(f"crop is '{crop}'; choose one of {', '.join(CROPS)}")
        if alignment not in ALIGNMENTS:
            raise ValueError(f"alignment is '{alignment}'; choose one of {', '.join(ALIGNMENTS)}")
        self._range = (min_depth, max_depth)
        self._crop = CROPS[crop]
        self._alignment = alignment
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sums = np.zeros(len(METRICS))
        self._images = 0
        self._skipped = 0

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Add images; an image without a valid pixel is left out and counted.

        Args:
            inputs: samples with "depth" [H, W] in metres, 0 = invalid, at the size of the file.
            outputs: for each sample "depth" [H, W] in metres or "inverse_depth" [H, W].

        Raises:
            ValueError: prediction and truth differ in size, or there is no prediction.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            truth = truth_of(sample, "depth").detach().cpu().double().numpy()
            kind = _kind_of(sample, output)
            prediction = output[kind].detach().cpu().double().numpy()
            if prediction.shape != truth.shape:
                raise ValueError(
                    f"'{sample.get('file_name')}' has a prediction of shape "
                    f"{list(prediction.shape)} and a truth of {list(truth.shape)}; both must have "
                    "the size of the file"
                )
            valid = self._valid(truth)
            if valid.any():
                align = self._aligned if kind == "depth" else self._inverted
                self._sums += self._errors(align(prediction[valid], truth[valid]), truth[valid])
                self._images += 1
            else:
                self._skipped += 1

    def _valid(self, truth: np.ndarray) -> np.ndarray:
        height, width = truth.shape
        top, bottom, left, right = self._crop
        inside = np.zeros_like(truth, dtype=bool)
        inside[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = 1
        return inside & (truth > self._range[0]) & (truth < self._range[1])

    def _aligned(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Metres as ``alignment`` wants them."""
        if self._alignment == "median":
            median = np.median(prediction)
            return prediction * (np.median(truth) / median if median > 0 else np.nan)
        if self._alignment == "scale_shift":
            return fitted(prediction, truth)
        return prediction

    def _inverted(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Metres from relative inverse depth."""
        low, high = self._range
        return 1 / np.clip(fitted(prediction, 1 / truth), 1 / high, 1 / low)

    def _errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        prediction = np.nan_to_num(prediction, nan=self._range[0])
        return depth_errors(np.clip(prediction, *self._range), truth)

    def evaluate(self) -> OrderedDict | None:
        """Averages over all images of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {"depth": {metric: value}} for the seven of ``METRICS``, NaN without a valid
            image. None on other ranks.
        """
        gathered = comm.gather((self._sums, self._images, self._skipped))
        if not comm.is_main_process():
            return None
        sums, images, skipped = (sum(part) for part in zip(*gathered))
        if skipped:
            logging.getLogger(__name__).warning(
                "depth: %d image(s) of %d have no pixel between %g and %g metres and do not count",
                skipped,
                images + skipped,
                *self._range,
            )
        means = sums / images if images else np.full(len(METRICS), np.nan)
        return OrderedDict(depth=dict(zip(METRICS, map(float, means))))


def _kind_of(sample: dict[str, Any], output: dict[str, Any]) -> str:
    for kind in ("depth", "inverse_depth"):
        if kind in output:
            return kind
    raise ValueError(
        f"the output for '{sample.get('file_name')}' has {', '.join(output) or 'nothing'}, but "
        "neither 'depth' nor 'inverse_depth'; evaluate a task (and label) that predicts depth"
    )
