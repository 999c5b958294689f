"""Dead and hung processes, with real ones: who is named, who exits with what, and how soon.

Its own worker: ``python -m tests.distributed.test_heartbeat CASE RANK WORLD_SIZE PORT``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gppf_d2.distributed.heartbeat import EXIT_STATUS, Heartbeat
from gppf_d2.distributed.heartbeat_wire import Hub, Spoke, listen

PROJECT = Path(__file__).resolve().parents[2]
TASKS = ("classify", "segment", "detect")


@dataclass
class Ended:
    """How a worker ended: exit status, what it wrote to stderr, seconds since the event."""

    status: int
    said: str
    seconds: float


def run_workers(case: str, world_size: int, limit: float = 60.0) -> list[Ended]:
    """Start the workers of a case and wait for all; the clock starts when the first one ends."""
    from tests.harness import free_port

    port = str(free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.test_heartbeat", case, str(rank),
             str(world_size), port],
            cwd=PROJECT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "MASTER_ADDR": "127.0.0.1"},
        )
        for rank in range(world_size)
    ]  # fmt: skip
    deadline = time.monotonic() + limit
    ended: dict[int, float] = {}
    try:
        while len(ended) < world_size:
            assert time.monotonic() < deadline, (
                f"still running: {set(range(world_size)) - set(ended)}"
            )
            for rank, worker in enumerate(workers):
                if rank not in ended and worker.poll() is not None:
                    ended[rank] = time.monotonic()
            time.sleep(0.05)
        start = min(ended.values())
        return [
            Ended(worker.returncode, worker.stderr.read(), ended[rank] - start)
            for rank, worker in enumerate(workers)
        ]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.stderr.close()


# -------------------------------------------------------------------------------- the workers


def join(rank: int, world_size: int, port: int, **options: float) -> Heartbeat:
    link = (
        Hub(listen("127.0.0.1", port), "run")
        if rank == 0
        else Spoke("127.0.0.1", port, rank, "run")
    )
    options = {"timeout": 600.0, "interval": 0.1, "grace": 0.5, **options}
    return Heartbeat(rank, world_size, link, **options)


def beat_for(heartbeat: Heartbeat, seconds: float) -> None:
    end = time.monotonic() + seconds
    iteration = 0
    while time.monotonic() < end:
        heartbeat.beat(iteration, TASKS[heartbeat.rank], "forward")
        iteration += 1
        time.sleep(0.05)


def killed_in_all_reduce(rank: int, world_size: int, port: int) -> None:
    """Rank 2 is killed. Rank 0's main thread stays where it is, rank 1 handles the error."""
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    heartbeat = Heartbeat.start(rank, world_size, interval=0.1, grace=2.0)
    for iteration in range(4):
        heartbeat.beat(iteration, TASKS[rank], "backward")
        time.sleep(0.3)
        if iteration == 3 and rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            dist.all_reduce(torch.ones(1))
        except RuntimeError as error:
            if rank == 0:
                time.sleep(600)
            print(f"CAUSE {heartbeat.fail(str(error), wait=20)}", file=sys.stderr, flush=True)
            os._exit(7)


def hub_killed(rank: int, world_size: int, port: int) -> None:
    """Rank 0 hosts the hub; its death is noticed like any other."""
    heartbeat = join(rank, world_size, port)
    beat_for(heartbeat, 1.0)
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    beat_for(heartbeat, 600)


def hung(rank: int, world_size: int, port: int) -> None:
    """Rank 1 hangs; the others go on beating and stop with it."""

    def stuck_in_a_lock() -> None:
        time.sleep(600)

    heartbeat = join(rank, world_size, port, timeout=1.5 if rank == 1 else 600.0)
    beat_for(heartbeat, 0.5)
    if rank == 1:
        stuck_in_a_lock()
    beat_for(heartbeat, 600)


def long_work(rank: int, world_size: int, port: int) -> None:
    """Nobody beats for long: before the first beat, and in a pause. Then all leave, one late."""
    heartbeat = join(rank, world_size, port, timeout=0.6)
    time.sleep(1.2)
    beat_for(heartbeat, 0.2)
    with heartbeat.paused("evaluation"), heartbeat.paused("saving"):
        time.sleep(1.2)
    beat_for(heartbeat, 0.2 + 0.2 * rank)
    heartbeat.close()
    heartbeat.close()
    time.sleep(1.0)


def killed_in_a_pause(rank: int, world_size: int, port: int) -> None:
    """A process that dies while all are evaluating is noticed, though a child outlives it."""
    heartbeat = join(rank, world_size, port)
    if rank == 1 and os.fork() == 0:
        time.sleep(6)
        os._exit(0)
    beat_for(heartbeat, 0.3)
    with heartbeat.paused("evaluation"):
        time.sleep(0.5)
        if rank == 1:
            os._exit(0)
        time.sleep(600)


def failed(rank: int, world_size: int, port: int) -> None:
    """Rank 1 ends with an error of its own and says so."""
    heartbeat = join(rank, world_size, port)
    beat_for(heartbeat, 0.5)
    if rank == 1:
        assert heartbeat.fail("21 corrupt images in a row of task 'segment'") is None
        sys.exit(1)
    beat_for(heartbeat, 600)


# ---------------------------------------------------------------------------------- the tests


def test_killed_process_ends_the_others_with_its_name() -> None:
    first, second, victim = run_workers("killed_in_all_reduce", 3, limit=100)
    assert victim.status == -signal.SIGKILL
    assert first.status == EXIT_STATUS and second.status == 7
    for ended in (first, second):
        assert ended.seconds < 20
        assert (
            "rank 2 of 3 (last seen at task 'detect', iteration 3, backward) is gone" in ended.said
        )
    assert "CAUSE rank 2 of 3" in second.said
    assert "stopping at task 'classify', iteration 3, backward" in first.said


def test_death_of_rank_0_is_noticed_too() -> None:
    victim, *others = run_workers("hub_killed", 3)
    assert victim.status == -signal.SIGKILL
    for ended in others:
        assert ended.status == EXIT_STATUS and ended.seconds < 20
        assert "rank 0 of 3 (last seen at task 'classify', iteration" in ended.said


def test_hang_stops_all_ranks_with_positions_and_stacks() -> None:
    ended = run_workers("hung", 3)
    for rank, process in enumerate(ended):
        assert process.status == EXIT_STATUS
        assert "rank 1 of 3 (task 'segment', iteration" in process.said
        assert "made no progress for 1.5 s" in process.said
        assert f"stopping at task '{TASKS[rank]}'" in process.said
        assert "most recent call first" in process.said
    assert "stuck_in_a_lock" in ended[1].said and "beat_for" in ended[2].said


def test_long_work_before_the_first_beat_or_in_a_pause_is_no_hang() -> None:
    for process in run_workers("long_work", 3):
        assert (process.status, process.said) == (0, "")


def test_process_that_disappears_in_a_pause_is_noticed() -> None:
    first, victim, third = run_workers("killed_in_a_pause", 3)
    assert victim.status == 0, "even an end with status 0 is no clean one"
    for ended in (first, third):
        assert ended.status == EXIT_STATUS and ended.seconds < 5
        assert "rank 1 of 3" in ended.said and "paused for evaluation) is gone" in ended.said


def test_failing_rank_tells_the_others_why() -> None:
    first, failing, third = run_workers("failed", 3)
    assert (failing.status, failing.said) == (1, "")
    for ended in (first, third):
        assert ended.status == EXIT_STATUS
        assert "rank 1 of 3 failed: 21 corrupt images in a row of task 'segment'" in ended.said


def test_strangers_on_the_port_change_nothing() -> None:
    import socket

    server = listen("127.0.0.1")
    hub = Hub(server, "run")
    with socket.create_connection(server.getsockname()) as stranger:
        stranger.sendall(
            b'GET / HTTP/1.1\r\n\r\n{"kind": "hello", "rank": 1, "token": "guess"}\n{"a": 1}\n'
        )
        friend = Spoke(*server.getsockname(), rank=2, token="run")
        friend.send({"kind": "state", "rank": 2, "position": "here"})
        heard = [message for _ in range(6) for message in hub.poll(0.2)]
    friend.close()
    heard += [message for _ in range(3) for message in hub.poll(0.2)]
    assert heard == [
        {"kind": "state", "rank": 2, "position": "here"}, {"kind": "gone", "rank": 2},
    ]  # fmt: skip
    hub.close()


def test_alone_a_hang_is_found_and_times_are_checked() -> None:
    (process,) = run_workers("alone", 1)
    assert process.status == EXIT_STATUS
    assert "rank 0 of 1 (task 'classify', iteration" in process.said
    with pytest.raises(ValueError, match="timeout is 0"):
        Heartbeat(0, 1, timeout=0)


def alone(rank: int, world_size: int, port: int) -> None:
    heartbeat = Heartbeat(rank, world_size, timeout=0.5, interval=0.1, grace=0.1)
    beat_for(heartbeat, 0.3)
    time.sleep(600)


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(int, sys.argv[2:]))
