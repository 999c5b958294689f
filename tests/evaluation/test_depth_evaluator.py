"""Depth measures against values worked out by hand and a loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from gppf_d2.evaluation import DepthEvaluator


def evaluate(pairs: list[tuple[object, object]], **options: object) -> dict[str, float]:
    evaluator = DepthEvaluator(**{"min_depth": 0.1, "max_depth": 10.0, **options})
    for prediction, truth in pairs:
        evaluator.process(
            [{"depth": torch.as_tensor(truth, dtype=torch.float32)}],
            [{"depth": torch.as_tensor(prediction, dtype=torch.float32)}],
        )
    return evaluator.evaluate()["depth"]


def test_measures_by_hand() -> None:
    # ratios 1, 1.5, 2 and a pixel without truth
    result = evaluate([([[1.0, 3.0], [2.0, 9.0]], [[1.0, 2.0], [4.0, 0.0]])])
    assert result["delta1"] == pytest.approx(1 / 3)
    assert result["delta2"] == pytest.approx(2 / 3)  # 1.5 < 1.5625
    assert result["delta3"] == pytest.approx(2 / 3)  # 2 > 1.953
    assert result["abs_rel"] == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert result["sq_rel"] == pytest.approx((0 + 1 / 2 + 4 / 4) / 3)
    assert result["rmse"] == pytest.approx(math.sqrt(5 / 3))
    expected = math.sqrt((math.log(1.5) ** 2 + math.log(2) ** 2) / 3)
    assert result["rmse_log"] == pytest.approx(expected)


def test_images_weigh_the_same_whatever_their_valid_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for share in (0.1, 0.9, 0.5):
        truth = torch.rand(6, 7, generator=generator) * 12
        truth[torch.rand(6, 7, generator=generator) > share] = 0
        pairs.append((truth * torch.rand(6, 7, generator=generator) * 2, truth))
    sums, images = dict.fromkeys(("abs_rel", "rmse", "rmse_log", "delta1"), 0.0), 0
    for prediction, truth in pairs:
        pixels = [
            (min(max(p, 0.1), 10.0), g)
            for p, g in zip(prediction.flatten().tolist(), truth.flatten().tolist())
            if 0.1 < g < 10
        ]
        assert pixels
        images += 1
        count = len(pixels)
        sums["abs_rel"] += sum(abs(p - g) / g for p, g in pixels) / count
        sums["rmse"] += math.sqrt(sum((p - g) ** 2 for p, g in pixels) / count)
        sums["rmse_log"] += math.sqrt(sum(math.log(p / g) ** 2 for p, g in pixels) / count)
        sums["delta1"] += sum(max(p / g, g / p) < 1.25 for p, g in pixels) / count
    result = evaluate(pairs)
    for name, value in sums.items():
        assert result[name] == pytest.approx(value / images), name


def test_a_perfect_prediction() -> None:
    truth = [[1.0, 2.0], [3.0, 0.0]]
    result = evaluate([(truth, truth)])
    assert result.pop("delta1") == result.pop("delta2") == result.pop("delta3") == 1
    assert set(result.values()) == {0.0}


def test_median_scaling_forgives_a_wrong_scale_and_nothing_else() -> None:
    truth = torch.tensor([[1.0, 2.0, 3.0]])
    assert evaluate([(truth * 0.25, truth)], alignment="median")["abs_rel"] == pytest.approx(0)
    assert evaluate([(truth * 0.25, truth)])["abs_rel"] == pytest.approx(0.75)
    assert evaluate([(truth.flip(1), truth)], alignment="median")["abs_rel"] > 0.5
    assert math.isfinite(evaluate([(truth * 0, truth)], alignment="median")["abs_rel"])


def reference(prediction: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """scale * prediction + shift closest to the truth, by numpy's least squares; no turning."""
    p, t = prediction.double().numpy().ravel(), truth.double().numpy().ravel()
    (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)
    if scale < 0:
        scale, shift = 0, t.mean()
    return (scale * p + shift).reshape(prediction.shape)


@pytest.mark.parametrize("sign", [1, -1])
def test_scale_and_shift_follow_the_slow_reference(sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 6, generator=generator) * 8 + 1
    prediction = sign * (0.03 * truth + 0.05 * torch.rand(5, 6, generator=generator)) - 7
    found = evaluate([(prediction, truth)], alignment="scale_shift")
    assert found == pytest.approx(evaluate([(reference(prediction, truth), truth)]))
    if sign < 0:  # a fit that turns the prediction around would be far better
        assert found["delta1"] < 0.5 and found == pytest.approx(
            evaluate([(torch.full_like(truth, truth.mean()), truth)])
        )


@pytest.mark.parametrize("sign", [1, -1])
def test_relative_inverse_depth_is_aligned_to_the_inverse_truth(sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(5, 6, generator=generator) * 8 + 1
    relative = sign * (1 / truth + 0.05 * torch.randn(5, 6, generator=generator)) * 40 - 300
    evaluator = DepthEvaluator(min_depth=0.1, max_depth=10.0)
    holes = truth.clone()
    holes[0, :3] = 0
    evaluator.process([{"depth": holes}], [{"inverse_depth": relative}])
    valid = holes > 0
    aligned = reference(relative[valid], 1 / truth[valid])
    metres = [1 / value if value > 0.1 else 10.0 for value in aligned.tolist()]
    assert max(metres) == 10.0 or sign < 0, "some lie beyond the range"
    wanted = evaluate([([metres], truth[valid][None])])
    assert evaluator.evaluate()["depth"] == pytest.approx(wanted, rel=1e-4)


def test_exact_relative_predictions_are_perfect_and_broken_ones_are_finite() -> None:
    truth = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    evaluator = DepthEvaluator(min_depth=0.1, max_depth=10.0)

    def delta1(output: dict) -> float:
        evaluator.reset()
        evaluator.process([{"depth": truth}], [output])
        result = evaluator.evaluate()["depth"]
        assert all(math.isfinite(value) for value in result.values())
        return result["delta1"]

    assert delta1({"inverse_depth": 3 / truth + 5}) == 1
    assert delta1({"depth": truth, "inverse_depth": -truth}) == 1, "metres come first"
    partly = 3 / truth + 5
    partly[0, 3] = math.nan
    assert delta1({"inverse_depth": partly}) == 0.75
    for broken in (math.nan, math.inf, 1.0):
        assert delta1({"inverse_depth": torch.full_like(truth, broken)}) < 1
    with pytest.raises(ValueError, match="x.jpg.*has sem_seg, but neither 'depth' nor"):
        evaluator.process([{"depth": truth, "file_name": "x.jpg"}], [{"sem_seg": truth}])


def test_not_finite_predictions_are_clipped_to_the_range() -> None:
    result = evaluate([([[math.inf, math.nan, -5.0]], [[5.0, 5.0, 5.0]])])
    assert result["rmse"] == pytest.approx(math.sqrt((5**2 + 4.9**2 + 4.9**2) / 3))


def test_images_without_valid_pixels_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    nothing = ([[1.0]], [[0.0]])
    assert evaluate([([[2.0]], [[1.0]]), nothing])["abs_rel"] == 1
    assert "1 image(s) of 2" in caplog.text
    assert all(math.isnan(value) for value in evaluate([nothing]).values())
    assert all(math.isnan(value) for value in evaluate([]).values())


@pytest.mark.parametrize(
    "crop, box", [("garg", (153, 371, 44, 1197)), ("eigen", (124, 342, 44, 1197))]
)
def test_crops_are_those_of_kitti(crop: str, box: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = box
    truth = torch.zeros(375, 1242)
    truth[top:bottom, left:right] = 1.0
    outside = torch.ones(375, 1242)
    outside[top:bottom, left:right] = 0.0
    evaluator = DepthEvaluator(min_depth=0.1, max_depth=10.0, crop=crop)
    assert evaluator._valid(truth.numpy()).sum() == (bottom - top) * (right - left)
    assert evaluator._valid(outside.numpy()).sum() == 0


def test_the_range_comes_from_the_dataset_and_wrong_options_are_named() -> None:
    MetadataCatalog.get("gppf_test_depth").depth_range = (1.0, 2.0)
    evaluator = DepthEvaluator("gppf_test_depth")
    truth = torch.tensor([[0.5, 1.5, 2.5]])
    evaluator.process([{"depth": truth}], [{"depth": torch.tensor([[9.0, 1.5, 9.0]])}])
    assert evaluator.evaluate()["depth"]["rmse"] == 0
    with pytest.raises(ValueError, match="'half'; choose one of none, garg, eigen"):
        DepthEvaluator("gppf_test_depth", crop="half")
    with pytest.raises(ValueError, match="'shift'; choose one of none, median, scale_shift"):
        DepthEvaluator("gppf_test_depth", alignment="shift")
    with pytest.raises(ValueError, match="0 to 2.0 metres"):
        DepthEvaluator("gppf_test_depth", min_depth=0)
    with pytest.raises(ValueError, match="give a dataset_name"):
        DepthEvaluator(max_depth=80)
    with pytest.raises(ValueError, match=r"x.jpg.*\[1, 2\] and a truth of \[1, 3\]"):
        evaluator.process([{"depth": truth, "file_name": "x.jpg"}], [{"depth": torch.zeros(1, 2)}])
