"""Starting processes: exit statuses, one sentence per error, nobody waits for a failed rank."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gppf_d2.engine.errors import Interrupted, UserError
from gppf_d2.engine.launch import Launch, launch, speaks_for_itself


def _sum_of_ranks(folder: str) -> None:
    value = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(value)
    Path(folder, f"rank{dist.get_rank()}").write_text(str(value.item()))


def _rank_one_refuses(_: str) -> None:
    if dist.get_rank() == 1:
        raise UserError("the sentence of rank 1")
    time.sleep(30)


def _rank_one_is_killed(_: str) -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def _alone(folder: str) -> None:
    assert not dist.is_initialized()
    Path(folder, "alone").touch()


def _interrupted(_: str) -> None:
    raise Interrupted("stopped")


@pytest.mark.timeout(90)
def test_two_processes_meet_and_succeed(tmp_path: Path) -> None:
    assert launch(_sum_of_ranks, Launch(num_processes=2), (str(tmp_path),)) == 0
    assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["3.0", "3.0"]


@pytest.mark.timeout(90)
def test_a_failing_rank_ends_the_run_with_its_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gppf_d2.engine.launch.GRACE_SECONDS", 1.0)
    start = time.monotonic()
    assert launch(_rank_one_refuses, Launch(num_processes=2), (str(tmp_path),)) == 1
    assert time.monotonic() - start < 25
    assert "[rank 1] error: the sentence of rank 1" in capfd.readouterr().err


@pytest.mark.timeout(90)
def test_a_killed_rank_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gppf_d2.engine.launch.GRACE_SECONDS", 2.0)
    assert launch(_rank_one_is_killed, Launch(num_processes=2), (str(tmp_path),)) != 0
    said = capfd.readouterr().err
    assert "rank 1" in said and "died of signal 9" in said
    assert "[rank 0] error: lost the connection to another rank" in said


def test_one_process_has_no_process_group(tmp_path: Path) -> None:
    assert launch(_alone, Launch(), (str(tmp_path),)) == 0
    assert (tmp_path / "alone").exists()


def test_an_interrupt_has_the_status_of_one(tmp_path: Path) -> None:
    assert launch(_interrupted, Launch(), (str(tmp_path),)) == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_processes": 0}, "--num-processes is 0"),
        ({"num_gpus": 99}, "--num-gpus is 99"),
        ({"processes_per_gpu": 2}, "--processes-per-gpu is 2"),
        ({"num_machines": 2}, "--dist-url"),
        ({"num_machines": 2, "dist_url": "tcp://a:1", "machine_rank": 2}, "allowed are 0 to 1"),
    ],
)
def test_impossible_launches_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Launch(**arguments)


def test_two_ranks_on_one_gpu_use_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert Launch(num_processes=8, num_gpus=8).backend == "nccl"
    assert Launch(num_processes=16, num_gpus=8, processes_per_gpu=2).backend == "gloo"
    assert Launch(num_processes=2).backend == "gloo"


def test_only_errors_written_for_users_lose_their_traceback() -> None:
    assert speaks_for_itself(UserError("x"))
    assert not speaks_for_itself(RuntimeError("x"))
    try:
        int("not a number")
    except ValueError as error:
        assert not speaks_for_itself(error), "a ValueError from elsewhere keeps its traceback"
