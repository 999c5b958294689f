"""The sweep command: search, failures, interruption, kill -9, two commands, the final training."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gppf_d2.engine.config import load_config
from gppf_d2.tools import sweep
from tests.engine.pretrained import pretrained

FOLDER = Path(__file__).resolve().parent
PROJECT = FOLDER.parents[1]
CONFIG = str(FOLDER / "sweep_config.py")


@pytest.fixture(autouse=True)
def stub_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "starts.txt"))
    return tmp_path / "starts.txt"


def arguments(output: Path, *more: str) -> list[str]:
    stub = ["--train-script", str(FOLDER / "stub_train.py")]
    return ["--config-file", CONFIG, "--output", str(output), "--heartbeat", "1", *stub, *more]


def rows(output: Path) -> list[dict[str, str]]:
    with open(output / "trials.csv") as file:
        return list(csv.DictReader(file))


def starts(log: Path) -> list[list]:
    """[learning rate, weight decay, process, training set, GPUs] of every training."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def is_search(start: list) -> bool:
    return start[3] == "some"  # the override of sweep.search


def test_a_sweep_searches_the_grid_and_trains_the_best_once_more(
    tmp_path: Path, stub_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a sweep"
    assert sweep.main(arguments(output, "--workers", "2")) == 0
    found = rows(output)
    assert [row["state"] for row in found] == ["done"] * 4 + ["failed"] * 2
    assert (found[0]["lr"], found[0]["decay"]) == ("0.01", "0.0")
    assert {row["error"] for row in found[4:]} == {"The loss of task 't' is nan at iteration 7."}
    assert "t/classification/top1-cat" not in found[0]
    began = starts(stub_log)
    searched = sorted(start[:2] for start in began if is_search(start))
    wanted = [[lr, decay / lr] for lr in (0.001, 0.01, 0.1) for decay in (0.0, 0.0002)]
    assert searched == wanted
    assert [start[:2] for start in began if not is_search(start)] == [[0.01, 0.0]]
    assert (output / "final/model_0000001.pth").is_file() and (output / "sweep.png").is_file()
    assert not list(output.glob("trials/*/*.pth"))
    said = capsys.readouterr().out
    assert "best classification/top1 78 at lr 0.01, decay 0" in said
    assert "final, t: classification/top1 78" in said

    assert sweep.main(arguments(output)) == 0  # nothing is trained again
    assert len(starts(stub_log)) == 7
    assert sweep.main(arguments(output, "--table-only")) == 0
    assert "0.01" in capsys.readouterr().out
    assert sweep.main(arguments(output, "--retry-failed", "--no-final")) == 0
    assert len(starts(stub_log)) == 9


def test_a_call_that_makes_every_point_fail_ends_early(
    tmp_path: Path,
    stub_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STUB_ERROR", "--data-root 'nowhere' is not a folder.")
    assert sweep.main(arguments(tmp_path / "sweep")) != 0
    assert len(starts(stub_log)) == sweep.ALIKE
    assert "The first 3 points all failed: --data-root 'nowhere'" in capsys.readouterr().err
    monkeypatch.delenv("STUB_ERROR")
    assert sweep.main(arguments(tmp_path / "sweep", "--retry-failed")) == 0


def test_trials_are_counted_and_the_next_command_goes_on(
    tmp_path: Path, stub_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert sweep.main(arguments(output, "--trials", "2")) == 0
    assert "The search is not complete" in capsys.readouterr().out
    assert len(starts(stub_log)) == 2 and len(rows(output)) == 6
    assert sweep.main(arguments(output, "--trials", "3", "--workers", "2")) == 0
    assert len(starts(stub_log)) == 5


def test_a_killed_sweep_goes_on_where_it_was(
    tmp_path: Path, stub_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    monkeypatch.setenv("STUB_SECONDS", "0.3")
    killed = command(output, "--workers", "2")
    wait_for(lambda: stub_log.is_file() and len(starts(stub_log)) >= 3)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    monkeypatch.setenv("STUB_SECONDS", "0")
    assert sweep.main(arguments(output, "--workers", "2")) == 0
    found = rows(output)
    assert sorted((row["lr"], row["decay"]) for row in found) == sorted(
        (str(lr), str(decay)) for lr in (0.001, 0.01, 0.1) for decay in (0.0, 0.0002)
    )
    assert [row["state"] for row in found] == ["done"] * 4 + ["failed"] * 2
    began = [start for start in starts(stub_log) if is_search(start)]
    # only what the dead command had running began again: two at most
    assert 6 < len(began) <= 8
    assert (output / "final/results.json").is_file()
    assert not list(output.glob("trials/*/*.pth"))  # of the killed trainings neither


def test_ctrl_c_stops_the_trainings_and_gives_their_points_back(
    tmp_path: Path, stub_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    monkeypatch.setenv("STUB_SECONDS", "60")

    def interrupt(*_: object) -> None:
        wait_for(lambda: stub_log.is_file() and len(starts(stub_log)) == 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep.threading.Thread, "join", once(interrupt))
    assert sweep.main(arguments(output, "--workers", "2")) == 130
    for _, _, pid, *_ in starts(stub_log):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    monkeypatch.setenv("STUB_SECONDS", "0")
    assert sweep.main(arguments(output, "--no-final")) == 0
    assert [row["state"] for row in rows(output)] == ["done"] * 4 + ["failed"] * 2


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["train.max_itr=3"], "Did you mean 'max_iter'?"),
        (["optimizer.lr=0.1"], "The override of 'optimizer.lr' is the sweep's own"),
        (["sweep.grid.lr=[1,1]"], "names a value twice"),
        (['sweep.search=["tasks.x=1"]'], "names 'x', which tasks does not have"),
        (["--table-only"], "There is no sweep in"),
        (["--num-gpus", "99"], "1 workers with 99 GPUs each need 99 GPUs"),
        (["--train-script", "none.py"], "There is no training script 'none.py'"),
        (["--storage", "nonsense"], "cannot be used"),
    ],
)
def test_bad_input_is_answered_with_a_sentence_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert sweep.main(arguments(tmp_path / "out", *more)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1


def test_another_sweep_in_the_same_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(arguments(tmp_path, "--trials", "1")) == 0
    assert sweep.main(arguments(tmp_path, "sweep.grid.lr=[0.5]")) == 1
    assert "of a sweep with another grid" in capsys.readouterr().err
    assert sweep.main(arguments(tmp_path, "train.max_iter=7")) == 1
    assert "another list of overrides (search)" in capsys.readouterr().err


def test_a_sweep_of_which_everything_fails_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(arguments(tmp_path, "sweep.grid.lr=[0.1]")) == 1
    assert "All points failed (see --retry-failed): The loss of task 't'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_commands_share_a_study(tmp_path: Path, stub_log: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    both = [command(tmp_path / name, "--storage", storage) for name in ("one", "two")]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    began = [start[:2] for start in starts(stub_log) if is_search(start)]
    assert len(began) == len({tuple(start) for start in began}) == 6
    assert len([start for start in starts(stub_log) if not is_search(start)]) == 1
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    folders = [list((tmp_path / name).glob("trials/*")) for name in ("one", "two")]
    assert sum(map(len, folders)) == 6


@pytest.mark.slow
@pytest.mark.timeout(290)
def test_a_sweep_of_a_real_twin_finds_the_rate_that_diverges(
    official_root: Path, tmp_path: Path
) -> None:
    checkpoint, output = tmp_path / "joint.pth", tmp_path / "out"
    pretrained(PROJECT / "configs/quick/pretrain/gppf_r50.py", checkpoint)
    config = PROJECT / "configs/quick/finetune/classification/flowers.py"
    line = ["--config-file", str(config), "--output", str(output), "--workers", "2"]
    line += ["--num-processes", "1", "--data-root", str(official_root)]
    line += ["sweep.grid.lr=[0.01,1e30]", "sweep.grid.weight_decay=[0.0,0.00001]"]
    assert sweep.main([*line, f"train.init_checkpoint={checkpoint}"]) == 0
    found = rows(output)
    assert [row["state"] for row in found] == ["done", "done", "failed", "failed"]
    assert {row["lr"] for row in found[:2]} == {"0.01"}
    assert all("not finite" in row["error"] for row in found[2:]), found
    assert all(0 <= float(row["flowers/classification/top5"]) <= 100 for row in found[:2])
    searched = load_config(str(output / f"trials/{int(found[1]['trial']):04d}/config.yaml"))
    decay = float(found[1]["weight_decay"])
    assert searched.optimizer.weight_decay == pytest.approx(decay / 0.01)
    assert searched.tasks.flowers.train == "flowers_train"
    final = load_config(str(output / "final/config.yaml"))
    assert final.tasks.flowers.train == "flowers_trainval"
    assert (output / "final/model_final.pth").is_file()
    assert not list(output.glob("trials/*/*.pth"))


def command(output: Path, *more: str) -> subprocess.Popen:
    line = [sys.executable, "-m", "gppf_d2.tools.sweep", *arguments(output, *more)]
    return subprocess.Popen(line, cwd=PROJECT)


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def once(first):
    """``threading.Thread.join`` that is ``first`` at its first call."""
    original, called = sweep.threading.Thread.join, []

    def join(self, timeout=None):
        if not called:
            called.append(True)
            return first()
        return original(self, timeout)

    return join
