"""Start the processes of a run: one per device, under torchrun or by ourselves.

Three ways in, one way out (a default process group, a device for this process):

- ``torchrun`` (RANK, WORLD_SIZE, ... in the environment): join what it started;
- ``--num-processes N`` on a CPU, ``--num-gpus N`` on GPUs: spawn N processes on this machine;
- one process: no process group at all, so that a single-process run issues no collective.

``--processes-per-gpu K`` puts K ranks on every GPU (the paper's virtual devices, section 3.2). NCCL
refuses two ranks on one GPU, so these runs use gloo, which stages through pinned memory itself.

A rank that fails ends the run: the launcher waits a moment for the others to leave by themselves,
ends those that stay, and exits with the failing rank's status. Ranks whose launcher is killed stop
as after SIGTERM, with a checkpoint. What ended a rank stands in its log, too.
"""

from __future__ import annotations

import datetime
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from gppf_d2.engine.errors import (
    Interrupted,
    UserError,
    lost_connection,
    sentence,
    show_traceback,
)

logger = logging.getLogger(__name__)

GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Launch:
    """How many processes to start and where they meet.

    Args:
        num_processes: processes on this machine; with GPUs, ``num_gpus * processes_per_gpu``.
        num_gpus: GPUs of this machine to use; 0 trains on the CPU.
        processes_per_gpu: ranks that share one GPU.
        num_machines: machines of the run.
        machine_rank: number of this machine, from 0.
        dist_url: ``tcp://host:port`` where the processes meet, or ``auto`` on one machine.
        timeout: seconds until a collective of the default group (evaluation) gives up; hung steps
            are the heartbeat's business.
    """

    num_processes: int = 1
    num_gpus: int = 0
    processes_per_gpu: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    timeout: float = 7200.0

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise UserError(f"--num-processes is {self.num_processes}; give a number of 1 or more.")
        available = torch.cuda.device_count()
        if self.num_gpus > available:
            raise UserError(
                f"--num-gpus is {self.num_gpus} but this machine has {available} usable GPUs; "
                f"give 0 to {available}, or --num-processes N to train on the CPU."
            )
        if self.processes_per_gpu > 1 and not self.num_gpus:
            raise UserError(
                f"--processes-per-gpu is {self.processes_per_gpu} but no GPU is used; "
                "use --num-processes N for several processes on the CPU."
            )
        if self.num_machines > 1 and self.dist_url == "auto":
            raise UserError(
                f"--num-machines is {self.num_machines}: give --dist-url "
                "tcp://HOST:PORT of machine 0."
            )
        if not 0 <= self.machine_rank < self.num_machines:
            raise UserError(
                f"--machine-rank is {self.machine_rank}; allowed are 0 to {self.num_machines - 1}."
            )

    @property
    def world_size(self) -> int:
        """Processes of the whole run."""
        return self.num_processes * self.num_machines

    @property
    def backend(self) -> str:
        """The backend of the default process group."""
        return "nccl" if self.num_gpus and self.processes_per_gpu == 1 else "gloo"


def under_torchrun() -> bool:
    """Whether torchrun (or another launcher that speaks its environment) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(main: Callable[..., None], how: Launch, args: tuple) -> int:
    """Run ``main(*args)`` on every rank.

    Args:
        main: a module-level function, called with the process group initialised.
        how: processes, devices and meeting point. Under torchrun only its devices count.
        args: passed to ``main``; must be picklable.

    Returns:
        The exit status for this process: 0 when every rank of this machine succeeded.
    """
    if under_torchrun():
        local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        world_size = int(os.environ["WORLD_SIZE"])
        return _run_rank(
            main, how, int(os.environ["RANK"]), world_size, local_rank, local_size, "env://", args
        )
    if how.world_size == 1:
        return _run_rank(main, how, 0, 1, 0, 1, "", args)
    url = how.dist_url
    if url == "auto":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    context = mp.get_context("spawn")
    processes = [
        context.Process(
            target=_spawned,
            args=(main, how, local_rank, url, args, os.getpid()),
            name=f"rank {rank}",
        )
        for local_rank, rank in enumerate(
            range(how.machine_rank * how.num_processes, (how.machine_rank + 1) * how.num_processes)
        )
    ]
    for process in processes:
        process.start()
    return _watch(processes)


def _watch(processes: list) -> int:
    """Wait for the children; end them all when one fails.

    Ctrl-C reaches them on its own; SIGTERM is passed on, so that they stop with a checkpoint.
    """
    status, failed_at, open_ = 0, None, list(processes)

    def pass_on(*_: object) -> None:
        for process in open_:
            process.terminate()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, pass_on)
    while open_:
        try:
            for process in [p for p in open_ if p.exitcode is not None]:
                open_.remove(process)
                if process.exitcode < 0:
                    memory = " (usually: out of memory)" if process.exitcode == -9 else ""
                    print(
                        f"error: {process.name} (pid {process.pid}) died of signal "
                        f"{-process.exitcode}{memory}; ending the other ranks.",
                        file=sys.stderr,
                        flush=True,
                    )
                if process.exitcode and failed_at is None:
                    failed_at, status = time.monotonic(), process.exitcode
            if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
                for process in open_:
                    process.kill()
            time.sleep(0.1)
        except KeyboardInterrupt:
            continue
    return 128 - status if status < 0 else status


def _spawned(
    main: Callable, how: Launch, local_rank: int, url: str, args: tuple, launcher: int
) -> None:
    threading.Thread(target=_follow, args=(launcher,), daemon=True).start()
    rank = how.machine_rank * how.num_processes + local_rank
    sys.exit(_run_rank(main, how, rank, how.world_size, local_rank, how.num_processes, url, args))


def _follow(launcher: int) -> None:
    """Stop this rank when its launcher is gone (kill -9, out of memory): nobody else would."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    logger.error("The launcher (pid %d) is gone; this rank stops.", launcher)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def _run_rank(
    main: Callable,
    how: Launch,
    rank: int,
    world_size: int,
    local_rank: int,
    local_size: int,
    url: str,
    args: tuple,
) -> int:
    """One rank from process group to exit status."""
    try:
        if how.num_gpus:
            if local_size > how.num_gpus * how.processes_per_gpu:
                raise UserError(
                    f"{local_size} processes were started on this machine for {how.num_gpus} GPUs "
                    f"with {how.processes_per_gpu} each; start as many as there is room for."
                )
            torch.cuda.set_device(local_rank // how.processes_per_gpu)
        if world_size > 1:
            if url.startswith("tcp://"):  # where the heartbeat's hub can be reached
                os.environ["MASTER_ADDR"] = url.removeprefix("tcp://").rsplit(":", 1)[0]
            dist.init_process_group(
                how.backend,
                init_method=url,
                rank=rank,
                world_size=world_size,
                timeout=datetime.timedelta(seconds=how.timeout),
            )
            comm.create_local_process_group(local_size)
        main(*args)
        status = 0
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        report_error(error, rank)
        status = 130 if isinstance(error, Interrupted) else 1
    if world_size > 1 and status == 0:
        dist.destroy_process_group()
    elif world_size > 1:
        # A group with a failed member cannot be torn down in order: leave without waiting for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def speaks_for_itself(error: BaseException) -> bool:
    """Whether the message was written for users: ours by type, or raised by this package's code."""
    if isinstance(error, UserError):
        return True
    if not isinstance(error, (ValueError, KeyError, FileNotFoundError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).resolve().parent.parent
    return bool(frames) and package in Path(frames[-1].filename).resolve().parents


def refuse(error: BaseException) -> int:
    """End a tool's call that cannot be meant: one sentence, status 2; other errors go on.

    Raises:
        BaseException: the error itself, where it was not written for users.
    """
    if not speaks_for_itself(error) and not isinstance(error, OSError):
        raise error
    show_traceback(error)
    print(f"error: {sentence(error)}", file=sys.stderr)
    return 2


def report_error(error: BaseException, rank: int = 0) -> None:
    """Print an error: one line where it speaks for itself, else with its traceback.

    GPPF_D2_TRACEBACK=1 in the environment shows the traceback in any case.
    """
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    if lost_connection(error):
        error = UserError("lost the connection to another rank; its own message says why it left.")
        text = str(error)
    if not speaks_for_itself(error) or os.environ.get("GPPF_D2_TRACEBACK"):
        text = "".join(traceback.format_exception(error))
    # one write, so that the lines of several ranks do not mix
    sys.stderr.write(f"[rank {rank}] error: {text}\n")
    sys.stderr.flush()
    _to_log_file(text)


def _to_log_file(text: str) -> None:
    """Write an error into this rank's log file, where one is open: a report reads it there."""
    record = logging.LogRecord(logger.name, logging.ERROR, __file__, 0, text, (), None)
    for handler in logging.getLogger("gppf_d2").handlers:
        stream = getattr(handler, "stream", None)
        if stream is not None and stream not in (sys.stdout, sys.stderr):
            handler.handle(record)
            handler.flush()
