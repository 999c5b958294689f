"""The downstream tasks in miniature: official datasets prepared, finetuned from a joint run's
checkpoint, evaluated.

What differs from the full configs is in ``configs/common/toy.py``: widths, image sizes, batches.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config
from tests.engine.pretrained import pretrained
from tests.engine.runs import QUICK, train_config

FINETUNE = QUICK / "finetune"
TWINS = sorted(str(path.relative_to(FINETUNE)) for path in FINETUNE.rglob("*.py"))
# a detector, a head of its own and a frozen one; the others are slow
FAMILIES = {"kitti_depth.py", "lvis_classifier.py", "uodb/clipart.py"}


@pytest.fixture(scope="module")
def joint_run(official_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the form of the joint run's twin, N = 2, all eight tasks."""
    path = tmp_path_factory.mktemp("joint") / "model_final.pth"
    pretrained(QUICK / "pretrain/gppf_r50.py", path)
    return path


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAMILIES else pytest.mark.slow) for n in TWINS],
)
def test_a_twin_is_finetuned_and_evaluated(
    official_root: Path, joint_run: Path, tmp_path: Path, name: str
) -> None:
    config, output = FINETUNE / name, tmp_path / "run"
    cfg = load_config(str(config))
    options = ["--data-root", str(official_root), "train.max_iter=2"]
    if cfg.train.init_checkpoint:
        options.append(f"train.init_checkpoint={joint_run}")
    train_config(config, output, *options, processes=1)
    ((task, found),) = json.loads((output / "results.json").read_text()).items()
    assert task in setup.build_tasks(cfg)
    assert cfg.paper.metric in found, f"{cfg.paper.metric} is not among {sorted(found)[:9]}"
    assert all(v is None or not math.isinf(v) for v in found.values())
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = {key: v for r in records for key, v in r.items() if key.startswith("loss/")}
    assert losses and all(math.isfinite(value) for value in losses.values())


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", ["kitti_depth.py", "uodb/dota.py"])
def test_a_twin_learns_a_route_on_two_ranks(
    official_root: Path, joint_run: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "run"
    train_config(
        FINETUNE / name, output, "--data-root", str(official_root), "train.max_iter=2",
        f"train.init_checkpoint={joint_run}", "train.init_route=dynamic",
    )  # fmt: skip
    assert (output / "model_extracted.pth").is_file()
    assert json.loads((output / "routes.json").read_text())["num_units"] == 2
