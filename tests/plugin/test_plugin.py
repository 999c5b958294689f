"""Plug-and-play: kinds of task from outside the package train and evaluate like others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.runs import PROJECT, environment


@pytest.mark.timeout(280)
@pytest.mark.parametrize("policy", ["pinned", pytest.param("stratified", marks=pytest.mark.slow)])
def test_a_new_kind_is_a_config_and_a_head_class(
    mini_root: Path, tmp_path: Path, policy: str
) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable, str(PROJECT / "train_net.py"),
            "--config-file", str(PROJECT / "tests/plugin/config.py"),
            "--num-processes", "3", f"schedule.policy={policy}", "tasks.objects.batch_size=4",
            "train.max_iter=2", "train.log_period=1", "train.replica_check_period=1",
            f"train.output_dir={output}",
        ],
        capture_output=True, text=True, timeout=240, check=False, cwd=PROJECT,
        env=environment(PYTHONPATH=str(PROJECT)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((output / "results.json").read_text())
    assert list(results) == ["objects", "count", "retina"]
    assert results["count"]["count/mae"] >= 0 and "bbox/AP" in results["retina"]
    saved = torch.load(output / "model_final.pth", weights_only=True)
    heads = {name.split(".")[1] for name in saved["model"] if name.startswith("heads.")}
    assert heads == {"objects", "count", "retina"}, "the file does not show the policy"
    assert "heads.count.linear.weight" in saved["optimizer"] or policy != "pinned"
