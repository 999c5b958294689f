"""Angles of normals: against a plain computation, and the same on any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.utils import comm

from gppf_d2.evaluation import NormalsEvaluator
from gppf_d2.evaluation.normals import METRICS, angles


def images(count: int = 7) -> list[tuple[dict, dict]]:
    """Samples and outputs of different sizes; some pixels have no truth."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        truth = F.normalize(torch.randn(3, 8 + i, 10, generator=generator), dim=0)
        noise = torch.randn(truth.shape, generator=generator) * (0.1 + 0.2 * i)
        truth[:, :2] = 0
        made.append(({"normals": truth, "file_name": f"{i}.png"}, {"normals": truth + noise}))
    return made


def evaluate(pairs: list[tuple[dict, dict]]) -> dict[str, float]:
    evaluator = NormalsEvaluator()
    for sample, output in pairs:
        evaluator.process([sample], [output])
    return evaluator.evaluate()["normals"]


def test_the_measures_are_those_of_all_valid_pixels() -> None:
    pairs = images()
    found = evaluate(pairs)
    every = []
    for sample, output in pairs:
        valid = sample["normals"].any(0)
        one, two = (F.normalize(x["normals"].double()[:, valid], dim=0) for x in (sample, output))
        every.append(torch.acos((one * two).sum(0).clamp(-1, 1)).rad2deg())
    wanted = torch.cat(every).numpy()
    assert list(found) == list(METRICS)
    assert found["mean"] == pytest.approx(wanted.mean(), abs=1e-5)
    assert found["median"] == pytest.approx(np.median(wanted), abs=0.0026)
    for limit in (11.25, 22.5, 30):
        assert found[f"within_{limit:g}"] == pytest.approx(100 * (wanted <= limit).mean())


def test_known_angles() -> None:
    truth = np.array([[0.0, 0, 1]] * 6).T
    degrees = np.radians([0, 11.25, 60, 180])
    given = np.stack([np.sin(degrees), 0 * degrees, np.cos(degrees)]) * 7
    given = np.concatenate([given, [[0, np.nan], [0, 0], [0, 1]]], axis=1)
    assert angles(given, truth) == pytest.approx([0, 11.25, 60, 180, 180, 180])
    tiny = np.array([[1e-9], [0], [1]])
    assert angles(tiny, truth[:, :1]) == pytest.approx([math.degrees(1e-9)], rel=1e-6)


def test_any_number_of_ranks_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = images()
    wanted = evaluate(pairs)
    assert evaluate(pairs[::-1]) == wanted
    for ranks in (2, 3, 5):
        parts: list = []

        def keep(data: tuple, parts: list = parts) -> list:
            parts.append(data)
            return [data]

        monkeypatch.setattr(comm, "gather", keep)
        for rank in range(ranks):
            evaluate(pairs[rank::ranks])
        monkeypatch.setattr(comm, "gather", lambda _, all_parts=tuple(parts): list(all_parts))
        assert NormalsEvaluator().evaluate()["normals"] == wanted
        monkeypatch.undo()


def test_images_without_a_truth_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    pairs = images(2)
    wanted = evaluate(pairs)
    empty = ({"normals": torch.zeros(3, 4, 4)}, {"normals": torch.ones(3, 4, 4)})
    assert evaluate([*pairs, empty]) == wanted and "1 image(s) have no pixel" in caplog.text
    assert all(math.isnan(value) for value in evaluate([empty]).values())
    evaluator = NormalsEvaluator()
    evaluator.process(*zip(*pairs))
    evaluator.reset()
    assert math.isnan(evaluator.evaluate()["normals"]["mean"])


def test_another_size_and_a_missing_truth_are_named() -> None:
    (sample, output), *_ = images(1)
    with pytest.raises(ValueError, match=r"'0.png' has a prediction of shape \[3, 8, 5\]"):
        NormalsEvaluator().process([sample], [{"normals": output["normals"][..., :5]}])
    with pytest.raises(KeyError, match="has no 'normals' to compare with"):
        NormalsEvaluator().process([{}], [output])
