"""One trial of a sweep: its process, its error, its folder; and what is shown of all."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from gppf_d2.tools import sweep_report as report
from gppf_d2.tools.sweep_plan import Plan
from gppf_d2.tools.sweep_queue import Entry
from gppf_d2.tools.sweep_trial import (
    Trainer,
    TrialError,
    TrialStopped,
    environment_of_workers,
    sentence,
    tidy,
)

PLAN = Plan("m", {"lr": [0.1, 0.2, 0.3], "decay": [0.0, 1.0]})


def run(folder: Path, script: str, **options) -> dict:
    path = folder / "script.py"
    path.write_text(script)
    trainer = Trainer(script=path, config_file="c.py", options=["--o", "1"], overrides=["a=1"])
    return trainer.run(folder / "run", ["b=2"], **options)


@pytest.mark.parametrize(
    ("console", "status", "wanted"),
    [
        ("x\n[rank 0] error: The loss is nan.\n[rank 1] error: The loss is nan.\n", 1,
         "The loss is nan."),
        ("error: rank 1 (pid 5) died of signal 9; ending the other ranks.\n", 137,
         "rank 1 (pid 5) died of signal 9; ending the other ranks."),
        ("[rank 0] error: Traceback (most recent call last):\n  File\nRuntimeError: big\n\n", 1,
         "RuntimeError: big"),
        ("", 3, "The training ended with status 3 and said nothing."),
        ("all is well\n", -9, "The training died of signal 9 (SIGKILL)."),
    ],
)  # fmt: skip
def test_the_sentence_of_a_failure(tmp_path: Path, console: str, status: int, wanted: str) -> None:
    path = tmp_path / "console.txt"
    path.write_text(console)
    assert sentence(path, status) == wanted


def test_the_command_line_of_a_trial(tmp_path: Path) -> None:
    write = "import json, sys; folder = sys.argv[-1].partition('=')[2]; "
    write += "json.dump({'t': {'m': sys.argv[1:]}}, open(folder + '/results.json', 'w'))"
    results = run(tmp_path, write, resume=True)
    folder = tmp_path / "run"
    line = ["--config-file", "c.py", "--o", "1", "--resume", "a=1", "b=2"]
    assert results["t"]["m"] == [*line, f"train.output_dir={folder}"]


def test_a_training_without_results_has_failed(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"left no results\.json"):
        run(tmp_path, "")


def test_a_stopped_training_ends(tmp_path: Path) -> None:
    beats: list[int] = []
    script = "import pathlib, time; pathlib.Path('{}').touch(); time.sleep(60)"
    begun = tmp_path / "begun"
    with pytest.raises(TrialStopped):
        run(
            tmp_path,
            script.format(begun),
            beat=lambda: beats.append(1),
            stopped=begun.exists,
            interval=0.1,
        )
    assert beats


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_no_training_goes_on_when_the_sweep_is_killed(tmp_path: Path) -> None:
    training = tmp_path / "training.py"
    training.write_text(
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    code = (
        "from pathlib import Path; from gppf_d2.tools.sweep_trial import Trainer\n"
        f"Trainer(Path({str(training)!r}), 'c.py').run(Path({str(tmp_path / 'run')!r}), [])"
    )
    project = Path(__file__).resolve().parents[2]
    sweep = subprocess.Popen([sys.executable, "-c", code], cwd=project)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the training goes on")


def test_only_small_files_of_a_trial_stay(tmp_path: Path) -> None:
    for name in ("results.json", "metrics.json", "log.txt", "model_final.pth", "events.out"):
        (tmp_path / name).touch()
    (tmp_path / "inference").mkdir()
    tidy(tmp_path)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"results.json", "metrics.json", "log.txt"}
    tidy(tmp_path / "none")


@pytest.mark.parametrize(
    ("workers", "each", "available", "wanted"),
    [
        (2, None, "01234567", ["0,1,2,3", "4,5,6,7"]),
        (2, 1, "57", ["5", "7"]),
        (3, None, "", [None, None, None]),
        (2, 0, "01", [None, None]),
    ],
)
def test_gpus_are_shared_out(workers: int, each: int | None, available: str, wanted: list) -> None:
    assert environment_of_workers(workers, each, list(available)) == wanted


def test_too_few_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="3 workers with 1 GPUs each need 3 GPUs"):
        environment_of_workers(3, None, ["0", "1"])


def grid(*values: float | str) -> list[Entry]:
    return [
        Entry(point, "done", number, value, seconds=60.0, results={"t": {"x": 2 * value}})
        if isinstance(value, float)
        else Entry(point, value, number, error="no, nan" if value == "failed" else "")
        for number, (point, value) in enumerate(zip(PLAN.points(), values))
    ]


def test_progress_says_how_far_how_good_and_how_long() -> None:
    entries = grid(1.0, 3.0, "failed", "running", "waiting", "waiting")
    line = report.progress(entries, PLAN)
    # 2.5 points of a minute each, one worker
    wanted = "3 of 6 points | 1 failed | 1 running | best m 3 at lr 0.1, decay 1 | about 2 min left"
    assert line == wanted
    assert report.duration(89) == "89 s" and report.duration(7500) == "2 h 05 min"


def test_the_best_is_the_lowest_where_lower_is_better() -> None:
    lower = Plan("m", PLAN.grid, direction="minimize")
    entries = grid(2.0, 1.0, 3.0, "failed", "failed", "failed")
    assert report.best_of(entries, lower).value == 1.0
    assert [entry.value for entry in report.ranked(entries, lower)][:3] == [1.0, 2.0, 3.0]
    assert report.best_of(grid("failed", "waiting"), lower) is None


def test_the_table_holds_every_point_with_all_metrics(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    report.write_table(path, grid(1.0, 3.0, "failed", "waiting", "waiting", "waiting"), PLAN)
    with open(path) as file:
        rows = list(csv.DictReader(file))
    assert [row["m"] for row in rows] == ["3.0", "1.0", "", "", "", ""]
    assert rows[0] == {
        "trial": "1", "state": "done", "lr": "0.1", "decay": "1.0", "m": "3.0", "seconds": "60.0",
        "host": "", "error": "", "t/x": "6.0",
    }  # fmt: skip
    assert rows[2]["error"] == "no, nan"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("names", [1, 2, 3])
def test_grids_of_any_dimension_are_drawn(tmp_path: Path, names: int) -> None:
    plan = Plan("m", dict(list({"a": [1, 2], "b": ["x", "y"], "c": [True]}.items())[:names]))
    states = ("done", "failed", "running", "waiting")
    entries = [
        Entry(point, states[i], i, float(i) if states[i] == "done" else None)
        for i, point in enumerate(plan.points())
    ]
    report.draw(tmp_path / "sweep.png", entries, plan, "title")
    with Image.open(tmp_path / "sweep.png") as image:
        assert min(image.size) > 300 and len(image.getcolors(1 << 20)) > 10
    report.draw(tmp_path / "sweep.png", [Entry(p) for p in plan.points()], plan, "nothing yet")
