"""Run ``train_net.py`` on the tiny miniature world and read what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[2]
QUICK = PROJECT / "configs/quick"

# The demo's config, smaller still: one step of any task takes a fraction of a second.
SMALL = (
    "train.max_iter=6",
    "train.checkpoint_period=3",
    "train.log_period=1",
    "train.route_period=2",
    "train.hooks=null",
    "tasks.objects.batch_size=4",
    "tasks.scenes.batch_size=2",
    "tasks.boxes.batch_size=2",
    "tasks.parsing.batch_size=2",
    "tasks.depth.batch_size=2",
)


def command(config: str, output: Path, *arguments: str, processes: int = 2) -> list[str]:
    """The command line of a small run."""
    options = [a for a in arguments if a.startswith("--") or "=" not in a]
    overrides = [a for a in arguments if not (a.startswith("--") or "=" not in a)]
    return [
        sys.executable,
        str(PROJECT / "train_net.py"),
        "--config-file",
        str(QUICK / f"{config}.py"),
        "--num-processes",
        str(processes),
        *options,
        *SMALL,
        f"train.output_dir={output}",
        *overrides,
    ]


def environment(**more: str) -> dict[str, str]:
    """One thread per process, as the processes share two cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def train(
    config: str, output: Path, *arguments: str, processes: int = 2, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run to the end and check the exit status."""
    return _run(command(config, output, *arguments, processes=processes), status)


def train_config(
    config: Path, output: Path, *arguments: str, processes: int = 2, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a config file as it is, but for the arguments."""
    line = [sys.executable, str(PROJECT / "train_net.py"), "--config-file", str(config)]
    line += ["--num-processes", str(processes), *arguments, f"train.output_dir={output}"]
    return _run(line, status)


def _run(line: list[str], status: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(),
        cwd=PROJECT,
        check=False,
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def losses(output: Path) -> dict[int, dict[str, float]]:
    """Iteration -> losses, from ``metrics.json``; the last line of an iteration counts."""
    found: dict[int, dict[str, float]] = {}
    for line in (output / "metrics.json").read_text().splitlines():
        record = json.loads(line)
        values = {name: value for name, value in record.items() if name.startswith("loss/")}
        found.setdefault(record["iteration"], {}).update(values)
    return found


def checkpoint(output: Path, name: str) -> dict[str, Any]:
    return torch.load(output / f"{name}.pth", weights_only=True)


def assert_equal_states(one: Any, two: Any, where: str = "") -> None:
    """Bitwise equality of nested dicts of tensors and numbers."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal_states(one[key], two[key], f"{where}.{key}")
    elif torch.is_tensor(one):
        assert torch.equal(one, two), f"{where}: {(one.double() - two.double()).abs().max()}"
    else:
        assert one == two, where
