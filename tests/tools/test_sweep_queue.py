"""The queue of a sweep: nothing runs twice, nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gppf_d2.tools.sweep_plan import Plan
from gppf_d2.tools.sweep_queue import Queue, open_storage

PROJECT = Path(__file__).resolve().parents[2]
PLAN = Plan("m", {"a": [0.1, 0.2, 0.3, 0.4], "b": list(range(3))})
SMALL = Plan("m", {"a": [1.0, 2.0, 3.0]})

WORKER = """
import sys
from gppf_d2.tools.sweep_queue import Queue, open_storage
from tests.tools.test_sweep_queue import PLAN
queue = Queue(open_storage(sys.argv[1], 30), "s", PLAN, PLAN.points(), {"k": 1})
while (trial := queue.take()) is not None:
    print(trial.number)
    queue.finish(trial, trial.params["b"], {})
"""


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def open_queue(folder: Path, plan: Plan = SMALL, heartbeat: int = 30, **options) -> Queue:
    storage = open_storage(url_of(folder), heartbeat)
    return Queue(storage, "s", plan, plan.points(), {"grid": plan.as_dict()["grid"]}, **options)


def states(queue: Queue) -> list[str]:
    return [entry.state for entry in queue.entries()]


def test_processes_that_start_together_run_every_point_once(tmp_path: Path) -> None:
    line = [sys.executable, "-c", WORKER, url_of(tmp_path)]
    workers = [
        subprocess.Popen(line, cwd=PROJECT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    taken = [[int(number) for number in w.communicate(timeout=120)[0].split()] for w in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert sorted(sum(taken, [])) == list(range(12))
    queue = Queue(open_storage(url_of(tmp_path), 30), "s", PLAN, PLAN.points(), {"k": 1})
    assert states(queue) == ["done"] * 12
    assert [entry.value for entry in queue.entries()] == list(range(3)) * 4


def test_a_point_of_a_dead_worker_is_run_again(tmp_path: Path) -> None:
    queue = open_queue(tmp_path, heartbeat=1)
    dead, alive = queue.take(), queue.take()
    deadline = time.monotonic() + 30
    found = []
    while len(found) < 2 and time.monotonic() < deadline:
        for trial in (alive, *found):
            queue.beat(trial)
        trial = queue.take()
        found += [trial] if trial is not None else []
        time.sleep(0.3)
    assert dead.params in [trial.params for trial in found]
    assert alive.params not in [trial.params for trial in found]
    assert states(queue) == ["running"] * 3
    assert list(queue.numbers("lost")) == [dead.number]


def test_a_point_that_failed_is_a_result_unless_it_is_to_be_tried_again(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    trial = queue.take()
    queue.fail(trial, "The loss is nan.")
    queue.finish(queue.take(), 5.0, {"t": {"m": 5.0}})
    again = open_queue(tmp_path)
    assert sorted(states(again)) == ["done", "failed", "waiting"]
    (failed,) = [entry for entry in again.entries() if entry.state == "failed"]
    assert (failed.point, failed.error) == (trial.params, "The loss is nan.")
    again = open_queue(tmp_path, retry_failed=True)
    assert sorted(states(again)) == ["done", "waiting", "waiting"]
    assert len(again.study.trials) == 4


def test_an_interrupted_point_waits_again(tmp_path: Path) -> None:
    queue = open_queue(tmp_path)
    trial = queue.take()
    queue.give_back(trial)
    assert states(queue) == ["waiting"] * 3
    assert [t.params for t in queue.study.trials].count(trial.params) == 2


def test_points_that_a_crash_left_out_are_queued_at_the_next_start(tmp_path: Path) -> None:
    short = Plan("m", {"a": [1.0, 2.0, 3.0]})
    storage = open_storage(url_of(tmp_path), 30)
    identity = {"grid": short.as_dict()["grid"]}
    Queue(storage, "s", short, short.points()[:1], identity)  # as if killed after the first
    assert states(open_queue(tmp_path)) == ["waiting"] * 3


def test_a_study_of_another_sweep_is_refused(tmp_path: Path) -> None:
    open_queue(tmp_path)
    with pytest.raises(ValueError, match="of a sweep with another grid"):
        open_queue(tmp_path, Plan("m", {"a": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="There is no study 's'"):
        os.mkdir(tmp_path / "other")
        open_queue(tmp_path / "other", make=False)


def test_a_bad_storage_is_refused_with_one_sentence() -> None:
    for url in ("nonsense", "sqlite:////no/such/folder/study.db", "wrong://me:secret@host/study"):
        with pytest.raises(ValueError, match="cannot be used") as error:
            open_storage(url, 30)
        assert "\n" not in str(error.value) and "secret" not in str(error.value)
