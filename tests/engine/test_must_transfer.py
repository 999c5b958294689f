"""MuST's transfer in miniature: what comes along from a student, finetuning, the swept suite."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config
from gppf_d2.engine.transfer import fit_backbone, load_pretrained_run
from gppf_d2.tools import suite
from tests.engine.pretrained import pretrained
from tests.engine.runs import QUICK, train_config

TRANSFER = QUICK / "must/transfer"
# what starts afresh, below the label head
FRESH = {
    "cifar100": {"heads.classes.linear"},
    "pascal_detection": {
        "heads.boxes.roi_heads.box_predictor.cls_score",
        "heads.boxes.roi_heads.box_predictor.bbox_pred",
    },
    "pascal_segmentation": {"heads.segments.predict"},
    "nyu_depth": {"heads.depth.predict"},
    "ade20k": {"heads.segments.predict"},
    "diode_normals": {
        "heads.normals.predict",
        *(f"heads.normals.fuse.{n}" for n in range(3)),
        *(f"heads.normals.fuse.{n}.norm" for n in range(3)),
    },
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the form of a student's with classes, boxes, segments and depth."""
    path = tmp_path_factory.mktemp("student") / "model_final.pth"
    pretrained(QUICK / "must/students/imagenet.py", path)
    return path


@pytest.mark.parametrize("name", FRESH)
def test_the_label_head_of_a_student_comes_along(student: Path, name: str) -> None:
    cfg = load_config(
        str(TRANSFER / f"{name}.py"), ["train.device=cpu", f"train.init_checkpoint={student}"]
    )
    model = setup.build_model(fit_backbone(cfg), setup.build_tasks(cfg))
    report = load_pretrained_run(model, str(student), "student", head="student")
    fresh = {part.rpartition(".")[0].removeprefix(f"heads.{name}.") for part in report.fresh}
    assert fresh == FRESH[name]
    assert f"heads.{name}.trunk.fpn_lateral3.weight" in report.loaded


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", FRESH)
def test_a_twin_is_finetuned_and_evaluated(
    official_root: Path, student: Path, tmp_path: Path, name: str
) -> None:
    config, output = TRANSFER / f"{name}.py", tmp_path / "run"
    options = ["--data-root", str(official_root), "train.max_iter=2"]
    train_config(config, output, *options, f"train.init_checkpoint={student}", processes=1)
    ((task, found),) = json.loads((output / "results.json").read_text()).items()
    cfg = load_config(str(config))
    assert task == name and cfg.paper.metric in found
    assert all(v is None or not math.isinf(v) for v in found.values())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_suite_sweeps_over_twins(official_root: Path, student: Path, tmp_path: Path) -> None:
    configs = [str(TRANSFER / f"{name}.py") for name in ("cifar100", "diode_normals")]
    line = [*configs, "--sweep", "--workers", "2", "--num-processes", "1"]
    line += ["--output", str(tmp_path), "--data-root", str(official_root), "sweep.grid.steps=[2]"]
    assert suite.main([*line, f"train.init_checkpoint={student}"]) == 0
    (ours,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert set(ours["values"]) == {"cifar100", "diode_normals"}
    assert all(0 <= value <= 100 for value in ours["values"].values())
    final = load_config(str(tmp_path / "ours/cifar100/final/config.yaml"))
    assert final.tasks.cifar100.train == "cifar100_trainval"
    assert load_config(str(tmp_path / "ours/diode_normals/final/config.yaml")).train.seed == 1
    assert (tmp_path / "ours/diode_normals/sweep.png").is_file()
