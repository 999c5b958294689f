"""Run a function in several gloo processes on this machine and collect what every rank returns.

A hang is a failure with a name: after ``timeout`` seconds every process is asked for its stacks,
killed, and the test fails saying which ranks had not finished. When a rank raises, its traceback is
the one shown, and the error of the rank that failed first wins over the errors it caused elsewhere.
"""

from __future__ import annotations

import datetime
import faulthandler
import os
import queue
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _worker(
    rank: int, world_size: int, port: int, timeout: float, results: Any, fn: Callable, args: tuple
) -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(timeout, file=sys.__stderr__)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        dist.init_process_group(
            "gloo", rank=rank, world_size=world_size, timeout=datetime.timedelta(seconds=timeout)
        )
        value = fn(rank, world_size, *args)
        results.put((rank, time.time(), True, value))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, time.time(), False, traceback.format_exc()))
        results.close()
        results.join_thread()
        os._exit(1)


def run_distributed(fn: Callable, world_size: int, *args: Any, timeout: float = 90) -> list[Any]:
    """Call ``fn(rank, world_size, *args)`` in ``world_size`` processes with a gloo group.

    Args:
        fn: a module-level function; what it returns must be picklable.
        world_size: number of processes.
        timeout: seconds until the whole call counts as a hang.

    Returns:
        The value of every rank, in rank order.

    Raises:
        AssertionError: a rank raised, or not all ranks finished in time.
    """
    context = mp.get_context("spawn")
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(
            target=_worker, args=(rank, world_size, port, timeout, results, fn, args), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout + 10
    values: dict[int, Any] = {}
    failures: list[tuple[float, int, str]] = []
    try:
        while len(values) + len(failures) < world_size and time.monotonic() < deadline:
            try:
                rank, when, good, value = results.get(timeout=0.5)
            except queue.Empty:
                if failures or any(p.exitcode not in (None, 0) for p in processes):
                    deadline = min(deadline, time.monotonic() + 5)
                continue
            if good:
                values[rank] = value
            else:
                failures.append((when, rank, value))
        if failures:
            _, rank, text = min(failures)
            raise AssertionError(f"rank {rank} of {world_size} failed first:\n{text}")
        missing = sorted(set(range(world_size)) - set(values))
        assert not missing, (
            f"ranks {missing} of {world_size} did not finish within {timeout:.0f} s "
            f"(exit codes {[p.exitcode for p in processes]}): a hang or a dead process"
        )
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return [values[rank] for rank in range(world_size)]
