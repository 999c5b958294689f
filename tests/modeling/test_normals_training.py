"""Normals in a run: data, head, evaluator, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from gppf_d2.engine.config import load_config
from gppf_d2.engine.setup import build_model, build_tasks, load_records
from gppf_d2.tools.contact_sheets import draw_sheets
from tests.data.test_normals import BALL
from tests.data.test_real_catalog import ROOT
from tests.engine.runs import losses, train_config

CONFIG = Path(__file__).parent / "normals_config.py"
METRICS = {
    f"normals/{name}" for name in ("mean", "median", "within_11.25", "within_22.5", "within_30")
}


def test_mapper_head_and_evaluator_of_a_config_fit_together(mini_root: Path) -> None:
    cfg = load_config(str(CONFIG), tasks=["normals"])
    tasks = build_tasks(cfg)
    model = build_model(cfg, tasks, ["normals"])
    mapper = instantiate(tasks["normals"].mapper)
    records = load_records(["mini_normals_train"])[:2]
    model.begin_micro_step(0, 0, 0, 0)
    (loss,) = model.train().losses("normals", [mapper(record) for record in records]).values()
    assert 0 < loss.item() < 2
    evaluation = tasks["normals"].evaluators[0]
    evaluator, mapper = instantiate(evaluation.evaluator), instantiate(evaluation.mapper)
    samples = [mapper(record) for record in records]
    with torch.no_grad():
        evaluator.process(samples, model.eval().inference("normals", samples))
    results = evaluator.evaluate()["normals"]
    assert {f"normals/{name}" for name in results} == METRICS and 0 < results["mean"] < 180


@pytest.mark.slow
def test_a_run_learns_from_normals_evaluates_and_draws_them(
    mini_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    train_config(
        CONFIG, output, "--tasks", "normals", "--data-root", str(mini_root), "train.max_iter=3",
        processes=1,
    )  # fmt: skip
    values = [found["loss/normals/loss_normals"] for found in losses(output).values()]
    assert all(0 < value < 2 for value in values)
    results = json.loads((output / "results.json").read_text())["normals"]
    assert set(results) == METRICS and 0 < results["normals/mean"] < 180
    (sheet_file,) = draw_sheets(output, ["normals"], str(output / "model_final.pth"), count=2)
    with Image.open(sheet_file) as sheet:
        assert min(sheet.size) > 200


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_ball_is_learned(tmp_path: Path) -> None:
    if not (ROOT / BALL).is_dir():
        pytest.skip(f"the ball is not in '{ROOT}' (DETECTRON2_DATASETS)")
    output = tmp_path / "run"
    train_config(
        CONFIG, output, "--tasks", "ball", "--data-root", str(ROOT), "train.max_iter=70",
        processes=1,
    )  # fmt: skip
    results = json.loads((output / "results.json").read_text())
    # facing the viewer everywhere is wrong by 45 degrees on a ball, the mean over its disc
    assert results["ball"]["normals/mean"] < 33
