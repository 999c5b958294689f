"""Runs that end early: interrupts, dead processes, values that are not finite, truncated files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.engine.runs import PROJECT, checkpoint, command, environment, losses, train

LONG = ("train.max_iter=500", "train.checkpoint_period=1000", "train.log_period=1")


def start(output: Path, *arguments: str) -> subprocess.Popen[str]:
    """A run that goes on until somebody stops it, in a process group of its own."""
    return subprocess.Popen(
        command("mini_r18", output, "--tasks", "objects,depth", *LONG, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=PROJECT,
        start_new_session=True,
    )


def wait_for_steps(output: Path, process: subprocess.Popen[str], steps: int = 2) -> None:
    deadline = time.monotonic() + 90
    metrics = output / "metrics.json"
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= steps):
        assert process.poll() is None and time.monotonic() < deadline, "the run did not start"
        time.sleep(0.2)


def children(process: subprocess.Popen[str]) -> list[int]:
    """The spawned ranks, in rank order."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                line = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(fields[1]) == process.pid and "spawn_main" in line:
                found.append(int(entry.name))
    return sorted(found)


def runs(pid: int) -> bool:
    """Whether a process is there and not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(200)
def test_ctrl_c_ends_cleanly_with_a_checkpoint_to_resume_from(
    mini_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = start(output)
    wait_for_steps(output, process)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "go on with --resume" in text and "Traceback" not in text
    saved = sorted(output.glob("model_*.pth"))
    assert len(saved) == 1
    done = checkpoint(output, saved[0].stem)["iteration"]
    train(
        "mini_r18", output, "--tasks", "objects,depth", "--resume", *LONG,
        f"train.max_iter={done + 1}",
    )  # fmt: skip
    assert max(losses(output)) == done


@pytest.mark.timeout(200)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_ends_the_others_within_a_minute(
    mini_root: Path, tmp_path: Path, victim: int
) -> None:
    output = tmp_path / "run"
    process = start(output)
    wait_for_steps(output, process)
    ranks = children(process)
    assert len(ranks) == 2
    os.kill(ranks[victim], signal.SIGKILL)
    begin = time.monotonic()
    text, _ = process.communicate(timeout=90)
    assert time.monotonic() - begin < 60
    assert process.returncode != 0
    assert f"rank {victim}" in text and "Traceback" not in text, text
    log = (output / ("log.txt" if victim else "log.txt.rank1")).read_text()
    assert re.search(r"ERROR: .*(another rank|rank \d)", log), "whoever looks later is told, too"


@pytest.mark.timeout(200)
def test_ranks_of_a_killed_launcher_stop_with_a_checkpoint(mini_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(output)
    wait_for_steps(output, process)
    ranks = children(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)  # until the last rank has closed its end
    deadline = time.monotonic() + 20
    while any(map(runs, ranks)):
        assert time.monotonic() < deadline, "a rank goes on without its launcher"
        time.sleep(0.2)
    assert len(list(output.glob("model_*.pth"))) == 1
    assert f"The launcher (pid {process.pid}) is gone" in (output / "log.txt").read_text()


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "tasks", ["objects,boxes", pytest.param("objects,depth", marks=pytest.mark.slow)]
)
def test_a_value_that_is_not_finite_stops_every_rank_and_keeps_the_last_checkpoint(
    mini_root: Path, tmp_path: Path, tasks: str
) -> None:
    output = tmp_path / "run"
    done = train(
        "mini_r18", output, "--tasks", tasks, "train.max_iter=40", "optimizer.lr=1e30",
        "train.clip_norm=0", "train.checkpoint_period=1", "lr_multiplier.warmup_length=0.0",
        status=1,
    )  # fmt: skip
    for rank in (0, 1):
        lines = [x for x in done.stderr.splitlines() if x.startswith(f"[rank {rank}] error: ")]
        assert len(lines) == 1 and "is not finite" in lines[0] and "of task" in lines[0]
    assert sorted(output.glob("model_*.pth")), "the steps before are kept"
    for value in json.loads((output / "metrics.json").read_text().splitlines()[-1]).values():
        assert value == value


@pytest.mark.timeout(200)
def test_a_truncated_newest_checkpoint_gives_way_to_the_previous_one(
    mini_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    arguments = ("--tasks", "objects", "train.max_iter=4", "train.checkpoint_period=2")
    train("mini_r18", output, *arguments, processes=1)
    newest = output / "model_0000004.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    done = train("mini_r18", output, *arguments, "--resume", processes=1)
    assert "THE PREVIOUS CHECKPOINT IS USED" in done.stdout + done.stderr
    assert checkpoint(output, "model_0000004")["iteration"] == 4


@pytest.mark.timeout(280)
def test_a_failing_evaluation_does_not_cost_the_results_of_the_others(
    mini_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    done = train(
        "mini_r18", output, "--tasks", "objects,depth", "train.max_iter=1",
        "tasks.objects.head.num_classes=9", processes=1, status=1,
    )  # fmt: skip
    assert "Evaluation of task 'objects'" in done.stderr
    assert list(json.loads((output / "results.json").read_text())) == ["depth"]
    assert (output / "model_final.pth").is_file()
