"""Scores of single images against values worked out by hand, and against the evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances

from gppf_d2.analysis.predictions.class_bars import rank_of
from gppf_d2.analysis.predictions.error_maps import WRONG, draw_errors
from gppf_d2.analysis.predictions.image_scores import (
    ImageScore,
    depth_errors,
    match,
    mean_iou,
    score_image,
)
from gppf_d2.analysis.predictions.keys import pixels_of
from gppf_d2.analysis.predictions.prediction_sheets import comparable
from gppf_d2.analysis.predictions.truth import truth_of
from gppf_d2.evaluation.depth import DepthEvaluator
from gppf_d2.evaluation.normals import NormalsEvaluator

SIZE = (100, 100)


def regions(boxes: list[list[float]], classes: list[int], scores: list[float] | None = None):
    """Instances of an image of ``SIZE``."""
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if scores is not None:
        found.scores = torch.tensor(scores)
    return found


def test_probability_of_the_true_class_and_its_rank() -> None:
    scores = torch.tensor([0.2, 0.5, 0.2, 0.1])
    found = score_image({"classes": scores}, {"label": 2}, Metadata(classes=list("abcd")))
    assert found.value == pytest.approx(0.2) and found.rising
    assert found.text == "c: rank 3 of 4, 20.0%", "of equal ones the lower index is ahead"
    assert [rank_of(scores.numpy(), label) for label in range(4)] == [2, 1, 3, 4]


def test_f1_counts_boxes_that_are_drawn_against_objects_of_their_class() -> None:
    truth = regions([[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]], [0, 0, 1])
    found = regions(
        [
            [0, 0, 10, 10],  # right
            [0, 0, 10, 9],  # wrong: a better one has the object
            [20, 0, 30, 5],  # right: IoU exactly 0.5
            [50, 50, 60, 60],  # wrong: another class
            [50, 50, 60, 60],  # not drawn
        ],
        [0, 0, 0, 0, 1],
        [0.9, 0.8, 0.7, 0.6, 0.1],
    )
    score = score_image({"instances": found}, {"instances": truth}, min_score=0.3)
    assert score.value == pytest.approx(2 * 2 / (4 + 3)) and score.mistakes == 3
    assert score.text == "F1 0.57 · 2 right, 2 wrong, 1 missed"
    assert score_image({"instances": found}, {"instances": truth}, min_score=0.05).value == 0.75
    matches = match(found[:4], truth)
    assert matches.right.tolist() == [True, False, True, False]
    assert matches.found.tolist() == [True, True, False]


def test_boxes_take_the_object_that_they_overlap_most_of_those_that_are_left() -> None:
    truth = regions([[0, 0, 10, 10], [0, 0, 10, 8]], [0, 0])
    found = regions([[0, 0, 10, 8], [0, 0, 10, 8]], [0, 0], [0.9, 0.8])
    assert match(found, truth).right.tolist() == [True, True]


def test_boxes_in_a_crowd_count_neither_way_and_empty_images_are_right() -> None:
    nothing = regions([], [])
    crowd = regions([[0, 0, 50, 50]], [0])
    found = regions([[0, 0, 10, 10], [0, 0, 10, 10], [45, 0, 60, 10]], [0, 1, 0], [0.9, 0.8, 0.7])
    truth = {"instances": nothing, "crowds": crowd}
    score = score_image({"instances": found}, truth)
    assert score.text.endswith("0 right, 2 wrong, 0 missed, 1 not counted"), (
        "the other class, and one beside it"
    )
    assert score_image({"instances": found[:1]}, truth).value == 1.0
    nobody = regions([], [], [])
    assert score_image({"instances": nobody}, {"instances": nothing}).text.startswith("nothing to")
    assert score_image({"instances": nobody}, {"instances": crowd}).value == 0.0


def test_boxes_of_classes_that_nobody_looked_for_count_neither_way() -> None:
    marked = {"bbox": [0, 0, 10, 10], "bbox_mode": BoxMode.XYWH_ABS}
    record = {
        "height": 100, "width": 100, "neg_category_ids": [1], "not_exhaustive_category_ids": [3],
        "annotations": [{**marked, "category_id": label} for label in (0, 3)],
    }  # fmt: skip
    truth = truth_of(record)
    assert truth["verified"] == {0, 1}
    assert truth_of({**record, "pos_category_ids": [4]})["verified"] == {0, 1, 4}
    boxes = [[0, 0, 10, 10], *[[50, 50, 60, 60]] * 4]
    output = {"instances": regions(boxes, [3, 0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6, 0.5])}
    score = score_image(output, truth)
    assert score.text == "F1 0.40 · 1 right, 2 wrong, 1 missed, 2 not counted", (
        "another 3, and 2, may be there"
    )
    del record["neg_category_ids"]
    assert score_image(output, truth_of(record)).mistakes == 4 + 1
    shown, kept = comparable(output, truth)
    assert kept["verified"] == {0, 1} and set(shown) == {"instances"}
    image = np.full((*SIZE, 3), 128, np.uint8)
    output["instances"] = output["instances"][3:4]
    pictures = [draw_errors(image, output, t).picture for t in (truth, truth_of(record))]
    wrong = [(np.abs(one.astype(int) - pixels_of(WRONG)).max(2) < 12).sum() for one in pictures]
    assert wrong[0] == 0 and wrong[1] > 50, "nor is it drawn as wrong"


def test_an_answer_without_numbers_is_the_worst_and_a_truth_without_pixels_is_said() -> None:
    scores = torch.tensor([0.1, math.nan, 0.3, math.nan])
    assert [rank_of(scores.numpy(), label) for label in range(4)] == [4, 4, 3, 4]
    found = score_image({"classes": torch.full((4,), math.nan)}, {"label": 1})
    assert found.value == 0.0 and "rank 4 of 4" in found.text
    for kind in ("depth", "inverse_depth"):
        blank = score_image({kind: np.ones((4, 5))}, {"depth": np.zeros((4, 5))})
        assert math.isnan(blank.value) and blank.text == "no pixel of the truth counts"


def test_mean_iou_is_over_the_classes_of_the_truth_and_labelled_pixels() -> None:
    truth = np.array([[0, 0, 1, 1, 255, 255]])
    labels = np.array([[0, 2, 1, 1, 1, 2]])
    assert mean_iou(labels, truth) == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert mean_iou(labels, truth, ignore=1) == pytest.approx((1 / 2 + 0) / 2)
    scores = torch.nn.functional.one_hot(torch.from_numpy(labels), 3).permute(2, 0, 1).float()
    assert score_image({"sem_seg": scores}, {"sem_seg": truth}).text == "mean IoU 0.75"
    unknown = score_image({"sem_seg": labels}, {"sem_seg": np.full((1, 6), 255)})
    assert math.isnan(unknown.value)


@pytest.mark.parametrize("kind", ["depth", "inverse_depth"])
def test_relative_error_is_that_of_the_evaluation(kind: str) -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 12, (20, 30))
    truth[:3] = 0
    prediction = truth * rng.uniform(0.5, 1.5, truth.shape) if kind == "depth" else rng.normal(
        size=truth.shape
    ) + 1 / truth.clip(0.5)  # fmt: skip
    prediction[5, 5] = np.nan
    evaluator = DepthEvaluator(min_depth=1, max_depth=10)
    evaluator.process([{"depth": torch.from_numpy(truth)}], [{kind: torch.from_numpy(prediction)}])
    expected = evaluator.evaluate()["depth"]["abs_rel"]
    found = score_image({kind: prediction}, {"depth": truth}, Metadata(depth_range=(1.0, 10.0)))
    assert found.value == pytest.approx(expected) and not found.rising
    errors = depth_errors(
        "depth", np.array([[1.0, 3.0, 5.0]]), np.array([[2.0, 2.0, 0.0]]), Metadata()
    )
    assert errors[0, :2].tolist() == [-0.5, 0.5] and math.isnan(errors[0, 2])


def test_mean_angle_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(0)
    prediction, truth = rng.normal(size=(2, 3, 8, 9))
    truth[:, :2] = 0
    evaluator = NormalsEvaluator()
    evaluator.process(
        [{"normals": torch.from_numpy(truth)}], [{"normals": torch.from_numpy(prediction)}]
    )
    found = score_image({"normals": prediction}, {"normals": truth})
    assert found.value == pytest.approx(evaluator.evaluate()["normals"]["mean"], abs=1e-3)
    assert found.text == f"mean angle {found.value:.1f}°"


def test_without_a_truth_there_is_no_score_and_failures_sort_last() -> None:
    assert score_image({"classes": torch.ones(2)}, {}) is None
    assert score_image({"embedding": 1}, {"label": 1}) is None
    rising = [ImageScore("F1", value, "", True, mistakes) for value, mistakes in
              ((0.5, 1), (0.0, 2), (1.0, 0), (0.0, 9))]  # fmt: skip
    order = sorted(rising, key=lambda score: score.badness)
    assert [score.mistakes for score in order] == [0, 1, 2, 9]
    falling = [ImageScore("angle", value, "", False) for value in (3.0, 1.0)]
    assert sorted(falling, key=lambda score: score.badness)[-1].value == 3.0
