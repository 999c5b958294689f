"""Segmentation measures by hand, against a loop over pixels and against Detectron2's evaluator."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from gppf_d2.evaluation import SemanticEvaluator

CLASSES = ["road", "sky", "car"]


@pytest.fixture(autouse=True)
def dataset() -> None:
    MetadataCatalog.get("gppf_test_parsing").set(stuff_classes=CLASSES, ignore_label=255)


def scores_of(predicted: torch.Tensor, count: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(predicted, count).permute(2, 0, 1).float()


def evaluate(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    evaluator = SemanticEvaluator("gppf_test_parsing")
    for predicted, truth in pairs:
        evaluator.process([{"sem_seg": truth}], [{"sem_seg": scores_of(predicted)}])
    return evaluator.evaluate()["sem_seg"]


def test_measures_by_hand() -> None:
    truth = torch.tensor([[0, 0, 0, 1, 1, 255]])
    predicted = torch.tensor([[0, 0, 1, 1, 2, 2]])
    result = evaluate([(predicted, truth)])
    # road: 2 right of 3 true and 2 predicted; sky: 1 right of 2 and 2; car: never true
    assert result["IoU-road"] == pytest.approx(100 * 2 / 3)
    assert result["IoU-sky"] == pytest.approx(100 * 1 / 3)
    assert math.isnan(result["IoU-car"]) and math.isnan(result["ACC-car"])
    assert result["mIoU"] == pytest.approx(50)
    assert result["fwIoU"] == pytest.approx(100 * (3 / 5 * 2 / 3 + 2 / 5 * 1 / 3))
    assert result["mACC"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert result["pACC"] == pytest.approx(60)


def test_it_agrees_with_detectron2(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    name, records, samples, outputs = "gppf_test_parsing", [], [], []
    for index in range(4):
        truth = torch.randint(0, 4, (9, 11), generator=generator)
        truth[truth == 3] = 255
        record = {"file_name": f"{index}.jpg", "sem_seg_file_name": str(tmp_path / f"{index}.png")}
        Image.fromarray(truth.numpy().astype(np.uint8)).save(record["sem_seg_file_name"])
        records.append(record)
        samples.append({**record, "sem_seg": truth})
        outputs.append({"sem_seg": torch.rand(3, 9, 11, generator=generator)})
    DatasetCatalog.register(name, lambda: records)
    try:
        # its own reader fails with numpy 2: np.array(..., copy=False)
        theirs = SemSegEvaluator(
            name,
            sem_seg_loading_fn=lambda path, dtype: np.asarray(Image.open(path)).astype(dtype),
        )
        ours = SemanticEvaluator(name)
        for evaluator in (theirs, ours):
            evaluator.reset()
            evaluator.process(samples, outputs)
        theirs, ours = theirs.evaluate()["sem_seg"], ours.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove(name)
    assert set(ours) == {key for key in theirs if "oundary" not in key and "min(" not in key}
    for key, value in ours.items():
        assert value == pytest.approx(theirs[key]), key


def test_only_ignored_pixels_is_nan_and_not_an_error() -> None:
    void = torch.full((2, 2), 255)
    assert all(math.isnan(v) for v in evaluate([(torch.zeros_like(void), void)]).values())
    assert all(math.isnan(value) for value in evaluate([]).values())


def test_one_class() -> None:
    MetadataCatalog.get("gppf_test_one").stuff_classes = ["all"]
    evaluator = SemanticEvaluator("gppf_test_one")
    evaluator.process([{"sem_seg": torch.zeros(2, 2).long()}], [{"sem_seg": torch.zeros(1, 2, 2)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100


def test_small_integer_labels_do_not_overflow() -> None:
    MetadataCatalog.get("gppf_test_many").stuff_classes = [str(i) for i in range(150)]
    evaluator = SemanticEvaluator("gppf_test_many")
    truth = torch.full((1, 1), 149, dtype=torch.uint8)
    evaluator.process([{"sem_seg": truth}], [{"sem_seg": scores_of(truth.long(), 150)}])
    assert evaluator.evaluate()["sem_seg"]["IoU-149"] == 100


def test_wrong_inputs_are_named() -> None:
    evaluator = SemanticEvaluator("gppf_test_parsing")
    sample = {"file_name": "x.png", "sem_seg": torch.tensor([[3]])}
    with pytest.raises(ValueError, match="x.png.* labels 3 to 3, expected 0 to 2 or 255"):
        evaluator.process([sample], [{"sem_seg": torch.zeros(3, 1, 1)}])
    with pytest.raises(ValueError, match=r"x.png.*\[3, 2, 1\], expected \[3, 1, 1\]"):
        evaluator.process([sample], [{"sem_seg": torch.zeros(3, 2, 1)}])
    with pytest.raises(ValueError, match=r"\[4, 1, 1\], expected \[3, 1, 1\]"):
        evaluator.process([sample], [{"sem_seg": torch.zeros(4, 1, 1)}])


def eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels whose square of 2 distance + 1 pixels lies in the mask."""
    padded = np.pad(mask, distance)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * distance + 1,) * 2)
    return windows.all(axis=(2, 3))


@pytest.mark.parametrize("size", [(40, 60), (120, 100), (3, 4)])
def test_boundary_iou_is_that_of_each_class_alone(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    both, either, pairs = np.zeros(3), np.zeros(3), []
    distance = max(1, round(0.02 * float(np.hypot(*size))))
    for _ in range(3):
        coarse = generator.choice([0, 1, 255], (2, 4, 5))
        truth, predicted = (
            np.kron(labels, np.ones((size[0] // 4 + 1, size[1] // 5 + 1)))[: size[0], : size[1]]
            for labels in coarse
        )
        predicted = np.where(predicted == 255, 2, predicted)
        pairs.append((torch.from_numpy(predicted).long(), torch.from_numpy(truth).long()))
        for index in range(3):
            true, found = truth == index, (predicted == index) & (truth != 255)
            true_region, region = (mask & ~eroded(mask, distance) for mask in (true, found))
            both[index] += (true_region & region).sum()
            either[index] += (true_region | region).sum()
    evaluator = SemanticEvaluator("gppf_test_parsing", boundary=True)
    for predicted, truth in pairs:
        evaluator.process([{"sem_seg": truth}], [{"sem_seg": scores_of(predicted)}])
    result = evaluator.evaluate()["sem_seg"]
    expected = 100 * both[:2] / either[:2]
    assert result["BoundaryIoU-road"] == pytest.approx(expected[0])
    assert result["BoundaryIoU-sky"] == pytest.approx(expected[1])
    assert math.isnan(result["BoundaryIoU-car"])
    assert result["BoundaryIoU"] == pytest.approx(expected.mean())
    assert result["IoU-road"] == evaluate(pairs)["IoU-road"]


def test_a_perfect_prediction_has_perfect_boundaries() -> None:
    truth = torch.zeros(30, 40, dtype=torch.int64)
    truth[10:20, 5:30] = 1
    truth[12:15, 8:12] = 255
    evaluator = SemanticEvaluator("gppf_test_parsing", boundary=True)
    predicted = torch.where(truth == 255, 2, truth)
    evaluator.process([{"sem_seg": truth}], [{"sem_seg": scores_of(predicted)}])
    assert evaluator.evaluate()["sem_seg"]["BoundaryIoU"] == 100
