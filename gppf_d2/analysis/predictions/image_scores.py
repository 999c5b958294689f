"""How well a prediction fits the truth of one image: one number a kind, to find failures by.

    classes                probability of the true class
    instances              F1 of the boxes that are drawn: 2 right / (drawn + true); a box is right
                           if it overlaps an object of its class, that no better-scored box has,
                           by an IoU of at least 0.5. Boxes in a crowd, or of a class that is not
                           verified in this image (LVIS, Open Images), do not count unless they are
                           right. An image with neither box nor object has 1
    sem_seg                mean IoU of the classes that are in the truth, over the labelled pixels
    depth, inverse_depth   mean |p - g| / g over the pixels within the dataset's range, as in the
                           evaluation; inverse depth is fitted to the truth first
    normals                mean angle in degrees over the pixels with a truth

H, W size of the image, D drawn boxes, G objects. The evaluation's crops and alignments of metres do
not apply: the numbers order images, results are those of the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances, pairwise_ioa, pairwise_iou

from gppf_d2.analysis.predictions.class_bars import rank_of
from gppf_d2.analysis.predictions.class_names import class_name
from gppf_d2.analysis.predictions.drawing import KINDS, labels_of, strongest
from gppf_d2.analysis.predictions.pixel_maps import as_array
from gppf_d2.evaluation.depth import fitted
from gppf_d2.evaluation.normals import angles

# kind of output -> kind of truth that it is compared with, where the two have different names
ANSWERS = {"classes": "label", "inverse_depth": "depth"}
OVERLAP = 0.5  # IoU from which on a box is right
DEPTH_RANGE = (1e-3, 1e3)  # metres, where the dataset does not say


class ImageScore(NamedTuple):
    """A number for one image: what it is, NaN where the truth has nothing to measure, how it is
    told in full, whether more is better, and how many mistakes there are where that is a number."""

    name: str
    value: float
    text: str
    rising: bool
    mistakes: int = 0

    @property
    def badness(self) -> tuple[float, int]:
        """Orders images of one kind, the worst last."""
        return (-self.value if self.rising else self.value), self.mistakes


class Matches(NamedTuple):
    """Which boxes are right, which count neither way because nobody knows (both bool [D]), and
    which objects were found (bool [G])."""

    right: np.ndarray
    left_out: np.ndarray
    found: np.ndarray

    @property
    def counts(self) -> tuple[int, int, int]:
        """Right, wrong and missed ones."""
        wrong = int((~self.right & ~self.left_out).sum())
        return int(self.right.sum()), wrong, int((~self.found).sum())


def score_image(
    output: Mapping[str, Any],
    truth: Mapping[str, Any],
    metadata: Metadata | None = None,
    min_score: float = 0.3,
) -> ImageScore | None:
    """The score of an image.

    Args:
        output: of a head; of several kinds, the first in the order of ``KINDS`` that has a truth
            decides.
        truth: of ``truth_of``.
        metadata: names of classes, "ignore_label", "depth_range" in metres.
        min_score: boxes below it are not drawn and do not count.

    Returns:
        The score, None where no kind of the output has a truth.
    """
    metadata = metadata or Metadata()
    for kind in KINDS:
        answer = truth.get(ANSWERS.get(kind, kind))
        if kind not in output or answer is None:
            continue
        if kind == "instances":
            shown = strongest(output[kind], min_score)
            return _of_boxes(match(shown, answer, truth.get("crowds"), truth.get("verified")))
        if kind == "classes":
            return _of_classes(as_array(output[kind]), int(answer), metadata)
        if kind == "sem_seg":
            ignore = metadata.get("ignore_label", 255)
            value = mean_iou(labels_of(output[kind]), as_array(answer), ignore)
            return _of_pixels("mean IoU", value, f"{value:.2f}", True)
        if kind == "normals":
            value = _mean(normal_errors(as_array(output[kind]), as_array(answer)))
            return _of_pixels("mean angle", value, f"{value:.1f}°", False)
        if kind in ("depth", "inverse_depth"):
            errors = depth_errors(kind, as_array(output[kind]), as_array(answer), metadata)
            value = _mean(np.abs(errors))
            return _of_pixels("relative error", value, f"{value:.1%}", False)
    return None


def _of_boxes(matches: Matches) -> ImageScore:
    right, wrong, missed = matches.counts
    name = f"F1 at IoU {OVERLAP:g}"
    if not right + wrong + missed:
        return ImageScore(name, 1.0, "nothing to find, nothing wrong", True)
    value = 2 * right / (2 * right + wrong + missed)
    text = f"F1 {value:.2f} · {right} right, {wrong} wrong, {missed} missed"
    unknown = int(matches.left_out.sum())
    text += f", {unknown} not counted" if unknown else ""
    return ImageScore(name, value, text, True, wrong + missed)


def _of_classes(scores: np.ndarray, label: int, metadata: Metadata) -> ImageScore:
    value = float(np.nan_to_num(scores[label]))  # NaN is no answer, the worst there is
    name = class_name(metadata, label, "classes")
    text = f"{name}: rank {rank_of(scores, label)} of {len(scores):,}, {value:.1%}"
    return ImageScore("probability of the true class", value, text, True)


def _of_pixels(name: str, value: float, told: str, rising: bool) -> ImageScore:
    words = f"{name} {told}" if math.isfinite(value) else "no pixel of the truth counts"
    return ImageScore(name, value, words, rising)


def _mean(errors: np.ndarray) -> float:
    known = errors[np.isfinite(errors)]
    return float(known.mean()) if known.size else math.nan


def match(
    predicted: Instances,
    truth: Instances,
    crowds: Instances | None = None,
    verified: Collection[int] | None = None,
) -> Matches:
    """Match boxes with objects, the best-scored box first, each with the object of its class that
    it overlaps most among those that are left.

    Args:
        predicted: D boxes in the order of their scores.
        truth: G objects.
        crowds: regions of many objects; a box of their class that is not right, but lies in one by
            half of its own area, counts neither way.
        verified: classes of which every object of the image is marked; a box of another class that
            is not right counts neither way. None is all classes.
    """
    truth = truth.to("cpu")
    same = predicted.pred_classes[:, None] == truth.pred_classes[None]
    overlaps = (pairwise_iou(predicted.pred_boxes, truth.pred_boxes) * same).numpy()
    right, found = np.zeros(len(predicted), bool), np.zeros(len(truth), bool)
    for place, row in enumerate(overlaps):
        row = np.where(found, 0.0, row)
        if row.size and row.max() >= OVERLAP:
            right[place] = found[row.argmax()] = True
    left_out = np.zeros(len(predicted), bool)
    if crowds is not None and len(crowds) and len(predicted):
        same = crowds.pred_classes[:, None] == predicted.pred_classes[None]
        inside = (pairwise_ioa(crowds.pred_boxes, predicted.pred_boxes) * same).numpy()
        left_out = ~right & (inside.max(0) >= OVERLAP)
    if verified is not None:
        left_out |= ~right & ~np.isin(predicted.pred_classes.numpy(), list(verified))
    return Matches(right, left_out, found)


def mean_iou(labels: np.ndarray, truth: np.ndarray, ignore: int = 255) -> float:
    """Mean IoU of the classes of a truth [H, W]; NaN where nothing is labelled."""
    counted = truth != ignore
    said, true = labels[counted], truth[counted]
    shares = [
        ((said == label) & (true == label)).sum() / ((said == label) | (true == label)).sum()
        for label in np.unique(true)
    ]
    return float(np.mean(shares)) if shares else math.nan


def depth_errors(
    kind: str, prediction: np.ndarray, truth: np.ndarray, metadata: Metadata
) -> np.ndarray:
    """(p - g) / g of every pixel.

    Args:
        kind: "depth", or "inverse_depth", which is fitted to 1 / g first.
        prediction: [H, W].
        truth: g in metres, [H, W].
        metadata: its "depth_range" says which g count; p is clipped to it.

    Returns:
        float64 [H, W], above 0 where p is too far, NaN where g does not count.
    """
    low, high = metadata.get("depth_range", DEPTH_RANGE)
    valid = np.isfinite(truth) & (truth > low) & (truth < high)
    true, said = truth[valid].astype(np.float64), prediction[valid].astype(np.float64)
    if kind == "inverse_depth":
        said = 1 / np.clip(fitted(said, 1 / true), 1 / high, 1 / low)
    errors = np.full(truth.shape, np.nan)
    errors[valid] = (np.clip(np.nan_to_num(said, nan=low), low, high) - true) / true
    return errors


def normal_errors(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Degrees between normals [3, H, W], float64 [H, W]; NaN where the truth has none."""
    known = truth.any(0) & np.isfinite(truth).all(0)
    errors = np.full(truth.shape[1:], np.nan)
    errors[known] = angles(prediction[:, known], truth[:, known])
    return errors
