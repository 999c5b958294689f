"""Options of the train section, each in a whole run: several per run, as starting one is dear."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.runs import PROJECT, assert_equal_states, checkpoint, command, environment, train

TWO = ("--tasks", "objects,depth")


@pytest.mark.timeout(280)
def test_bf16_accumulation_hard_gates_compression_and_watched_collectives_together(
    mini_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    train(
        "mini_r18", output, "--tasks", "scenes,parsing", "train.max_iter=2", "train.amp=bfloat16",
        "train.accumulation=2", "gates.mode=hard", "train.grad_compression=bf16",
        "train.debug_collectives=true", "train.replica_check_period=1", "train.bucket_mb=1",
        "train.num_workers=1",
    )  # fmt: skip
    last = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    assert last["share/scenes"] == last["share/parsing"] == 0.5


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_bf16_checkpointing_and_pinned_tasks_resume_bitwise(
    mini_root: Path, tmp_path: Path
) -> None:
    options = (
        *TWO, "train.amp=bfloat16", "backbone.checkpoint=true", "schedule.policy=pinned",
        "train.max_iter=2", "train.checkpoint_period=1", "train.ema_decay=0.5",
    )  # fmt: skip
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train("mini_r18", whole, *options)
    resumed.mkdir()
    (whole / "model_0000001.pth").rename(resumed / "model_0000001.pth")
    train("mini_r18", resumed, *options, "--resume")
    one, two = checkpoint(whole, "model_final"), checkpoint(resumed, "model_final")
    assert any(name.startswith("heads.objects.") for name in one["optimizer"])
    assert any(name.startswith("heads.depth.") for name in one["ema"]["average"])
    assert set(one["streams"]["streams"]) == {"objects", "depth"}
    one.pop("config"), two.pop("config")
    assert_equal_states(one, two)
    train("mini_r18", whole, *options, "--eval-only", processes=1)


@pytest.mark.timeout(280)
def test_evaluation_periods_and_the_best_checkpoint(mini_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(
        "mini_r18", output, *TWO, "train.max_iter=3", "tasks.objects.eval_period=1",
        "train.best=[objects/classification/top5]", "train.virtual_ranks=2", processes=1,
    )  # fmt: skip
    found = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert sum("eval/objects/classification/top1" in record for record in found) >= 2
    assert checkpoint(output, "model_best_objects_classification_top5")["iteration"] in (1, 2, 3)
    assert set(found[0]) >= {"share/objects", "share/depth"}, "two virtual ranks, two tasks"


@pytest.mark.timeout(280)
def test_it_works_under_torchrun(mini_root: Path, tmp_path: Path) -> None:
    line = command("mini_r18", tmp_path / "run", *TWO, "train.max_iter=2")
    at = line.index("--num-processes")
    del line[at : at + 2]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *line[1:]],
        capture_output=True, text=True, timeout=240, check=False, cwd=PROJECT, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "model_final.pth").is_file()


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    "config",
    [
        path.stem
        for path in sorted((PROJECT / "configs/quick").glob("mini_r18_*.py"))
        if path.stem != "mini_r18_finetune"  # of one task: test_transfer.py
    ],
)
def test_every_joint_quick_config_trains_evaluates_and_resumes(
    mini_root: Path, tmp_path: Path, config: str
) -> None:
    processes = 5 if config.endswith("pinned") else 2
    output = tmp_path / "run"
    train(config, output, "train.max_iter=2", "train.checkpoint_period=1", processes=processes)
    (output / "model_0000002.pth").unlink()
    train(config, output, "train.max_iter=2", "--resume", processes=processes)
    results = json.loads((output / "results.json").read_text())
    assert len(results) == (6 if config.endswith("contrastive") else 5)


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("processes", [2, 3])
def test_the_real_config_trains_on_the_real_datasets(tmp_path: Path, processes: int) -> None:
    root = Path(os.environ.get("DETECTRON2_DATASETS", PROJECT.parent / "shared" / "data"))
    if not (root / "coco128").is_dir():
        pytest.skip(f"the small real datasets are not in {root} (DETECTRON2_DATASETS)")
    done = subprocess.run(
        [
            sys.executable, str(PROJECT / "train_net.py"),
            "--config-file", str(PROJECT / "configs/real/pack_r18.py"),
            "--num-processes", str(processes), "--data-root", str(root),
            "train.max_iter=2", f"train.output_dir={tmp_path}/run",
        ],
        capture_output=True, text=True, timeout=270, check=False, env=environment(), cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())) == 6
