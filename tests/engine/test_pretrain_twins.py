"""The paper's runs in miniature: official datasets, eight tasks, trained, evaluated, resumed.

What differs from the full configs is in ``configs/common/toy.py``: widths, image sizes, batches.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config
from tests.engine.runs import QUICK, checkpoint, train_config

TWINS = sorted(path.relative_to(QUICK / "pretrain") for path in QUICK.glob("pretrain/**/*.py"))
FAMILIES = {"gppf_r50.py", "gppf_swin_t.py", "single/r50_voc.py"}
# what every evaluator has to say, whatever the numbers of an untrained model are
METRICS = {
    "in21k": "classification/top5",
    "coco": "segm/AP",
    "lvis": "bbox/APr",
    "objects365": "bbox/AP",
    "open_images": "open_images_challenge/AP50",
    "ade20k": "sem_seg/mIoU",
    "coco_stuff": "sem_seg/mIoU",
    "voc": "sem_seg/mIoU",
}


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(str(name), marks=() if str(name) in FAMILIES else pytest.mark.slow)
        for name in TWINS
    ],
)
def test_a_twin_trains_evaluates_and_resumes(
    official_root: Path, tmp_path: Path, name: str
) -> None:
    config, output = QUICK / "pretrain" / name, tmp_path / "run"
    options = ("--data-root", str(official_root), "train.checkpoint_period=1")
    tasks = setup.build_tasks(load_config(str(config)))
    train_config(config, output, *options, "train.max_iter=2")
    results = json.loads((output / "results.json").read_text())
    assert set(results) == set(tasks)
    for task, found in results.items():
        assert METRICS[task] in found, f"{task} has {sorted(found)[:9]}"
        assert all(v is None or math.isfinite(v) for v in found.values())
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = {key: v for r in records for key, v in r.items() if key.startswith("loss/")}
    assert losses and all(math.isfinite(value) for value in losses.values())
    train_config(config, output, *options, "train.max_iter=3", "--resume")
    assert checkpoint(output, "model_final")["iteration"] == 3
