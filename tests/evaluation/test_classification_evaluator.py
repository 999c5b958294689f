"""Accuracies against values worked out by hand and a plain reference."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.data import MetadataCatalog

from gppf_d2.evaluation import ClassificationEvaluator


def evaluate(scores: list, labels: list[int], num_classes: int) -> dict[str, float]:
    evaluator = ClassificationEvaluator(num_classes=num_classes)
    evaluator.process(
        [{"label": label} for label in labels],
        [{"classes": torch.as_tensor(row, dtype=torch.float32)} for row in scores],
    )
    return evaluator.evaluate()["classification"]


def test_accuracies_by_hand() -> None:
    rows = torch.eye(6).tolist()
    # class 0: three of four right; class 1: none of one; class 2: one of one; no other occurs
    result = evaluate([rows[i] for i in (0, 0, 0, 3, 0, 2)], [0, 0, 0, 0, 1, 2], 6)
    assert result["top1"] == pytest.approx(100 * 4 / 6)
    assert result["mean_per_class"] == pytest.approx(100 * (3 / 4 + 0 + 1) / 3)
    # equal scores of 0 are in the order of the classes: true class 0 is second after class 3, and
    # class 1 is second after class 0
    assert result["top5"] == 100
    descending = [[6.0, 5, 4, 3, 2, 1]]
    for label in range(6):
        result = evaluate(descending, [label], 6)
        assert (result["top1"], result["top5"]) == (100.0 * (label < 1), 100.0 * (label < 5))


def test_it_agrees_with_sorting() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (200, 9), generator=generator).float()  # with many ties
    labels = torch.randint(0, 9, (200,), generator=generator).tolist()
    order = [sorted(range(9), key=lambda k: (-row[k], k)) for row in scores.tolist()]
    result = evaluate(scores.tolist(), labels, 9)
    for name, k in (("top1", 1), ("top5", 5)):
        right = [label in ranks[:k] for ranks, label in zip(order, labels)]
        assert result[name] == pytest.approx(100 * sum(right) / 200)
    assert result["top1"] == pytest.approx(
        100 * sum(int(row.argmax()) == label for row, label in zip(scores, labels)) / 200
    )


def test_nan_is_never_right() -> None:
    nan = float("nan")
    assert evaluate([[nan] * 6], [0], 6)["top5"] == 0
    assert evaluate([[nan, 1.0, 0, 0, 0, 0]], [1], 6)["top1"] == 0
    assert evaluate([[nan, 1.0, 0, 0, 0, 0]], [1], 6)["top5"] == 100


def test_one_class_and_no_image() -> None:
    assert evaluate([[0.3]], [0], 1) == {"top1": 100, "top5": 100, "mean_per_class": 100}
    assert all(math.isnan(value) for value in evaluate([], [], 3).values())


def test_reset_forgets() -> None:
    evaluator = ClassificationEvaluator(num_classes=2)
    evaluator.process([{"label": 0}], [{"classes": torch.tensor([0.0, 1.0])}])
    evaluator.reset()
    evaluator.process([{"label": 0}], [{"classes": torch.tensor([1.0, 0.0])}])
    assert evaluator.evaluate()["classification"]["top1"] == 100


def test_wrong_inputs_are_named() -> None:
    MetadataCatalog.get("gppf_test_classes").classes = ["a", "b"]
    evaluator = ClassificationEvaluator("gppf_test_classes")
    sample = {"file_name": "x.jpg", "label": 1}
    with pytest.raises(ValueError, match=r"x.jpg.* shape \[3\], expected \[2\]"):
        evaluator.process([sample], [{"classes": torch.zeros(3)}])
    with pytest.raises(ValueError, match="x.jpg.* label 2, expected 0 to 1"):
        evaluator.process([{**sample, "label": 2}], [{"classes": torch.zeros(2)}])
    with pytest.raises(KeyError, match="x.jpg.*no 'label'"):
        evaluator.process([{"file_name": "x.jpg"}], [{"classes": torch.zeros(2)}])
    with pytest.raises(ValueError, match="exactly one"):
        ClassificationEvaluator("gppf_test_classes", num_classes=2)
    with pytest.raises(KeyError, match="'gppf_unknown' is not registered"):
        ClassificationEvaluator("gppf_unknown")
    MetadataCatalog.get("gppf_test_things").evaluator_type = "coco"
    with pytest.raises(KeyError, match="no 'classes' in its metadata.*'coco'"):
        ClassificationEvaluator("gppf_test_things")
