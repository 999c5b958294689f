"""Signs of life beside the collectives: dead processes get a name, silent hangs get stacks.

A collective waits for all ranks. When one of them dies or hangs the others would wait on, or get
an error about a closed connection that names nobody. A thread in every process, with connections
of its own (``heartbeat_wire``), watches two things:

- **a process is gone** (killed, crashed, out of memory): rank 0 sees its connection end and tells
  everyone; all print who it was, its task and iteration, and exit;
- **no progress**: a rank whose ``beat`` has not been called for ``timeout`` seconds says so; all
  print their position and the stacks of all their threads, and exit. Not before the first beat,
  and not inside ``paused`` (evaluation, index building, saving).

Either way every survivor ends with ``EXIT_STATUS`` a few seconds after the news, through
``os._exit``: the main thread may sit in a collective that nothing interrupts. ``close`` before a
clean end; ``fail`` before ending with an error, so that the others hear the reason and blame the
right rank.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gppf_d2.distributed.heartbeat_wire import Hub, Message, Spoke, listen

if TYPE_CHECKING:
    import torch.distributed as dist

EXIT_STATUS = 3
GRACE = 5.0
LEAVE_TOGETHER = 30.0
TICK = 0.5


def _to_stderr(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")  # one write: the lines of several ranks do not mix
    sys.stderr.flush()


class Heartbeat:
    """Watches this rank's progress and the other ranks' processes in a daemon thread.

    Args:
        rank: of this process.
        world_size: number of ranks.
        link: to the other ranks: ``Hub`` on rank 0, ``Spoke`` elsewhere, ``None`` at world size 1.
        timeout: seconds without a beat that count as a hang.
        interval: seconds between two messages about this rank's position.
        grace: seconds between the news and the end of this process, in which the main thread may
            end by itself.
        report: takes each sentence; prints to stderr by default.

    ``start`` builds one together with its link.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        link: Hub | Spoke | None = None,
        timeout: float = 600.0,
        interval: float = 2.0,
        grace: float = GRACE,
        report: Callable[[str], None] = _to_stderr,
    ) -> None:
        if timeout <= 0 or interval <= 0:
            raise ValueError(f"timeout is {timeout} and interval {interval}; give seconds above 0")
        self.rank, self.world_size = rank, world_size
        self.timeout, self.interval, self.grace = timeout, interval, grace
        self._link, self._report = link, report
        self._beaten: float | None = None
        self._position: tuple[int, str, str] | None = None
        self._pauses: list[str] = []
        self._positions: dict[int, str] = {}
        self._left: dict[int, float] = {}
        self._news: Message | None = None
        self._known = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        if link is not None:
            os.register_at_fork(after_in_child=functools.partial(_forget, weakref.ref(link)))
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        rank: int,
        world_size: int,
        group: dist.ProcessGroup | None = None,
        host: str | None = None,
        timeout: float = 600.0,
        interval: float = 2.0,
        **options: object,
    ) -> Heartbeat:
        """Open the hub on rank 0, connect everyone, start watching.

        Collective: all ranks must call.

        Args:
            rank: of this process.
            world_size: number of ranks.
            group: control group, over which rank 0 says where it listens.
            host: address of rank 0 as the others reach it; by default MASTER_ADDR from the
                environment, else this machine.
            timeout: seconds without a beat that count as a hang.
            interval: seconds between two messages about this rank's position.
            options: further arguments of the class.

        Raises:
            ValueError: on all ranks, if one cannot reach the hub.
        """
        link = None if world_size == 1 else _connect(rank, group, host)
        return cls(rank, world_size, link, timeout, interval, **options)

    def beat(self, iteration: int, task: str, phase: str = "step") -> None:
        """Say that this rank makes progress.

        Args:
            iteration: about to run.
            task: of this rank in it.
            phase: of the step, for example ``forward``; shown when something goes wrong.
        """
        self._position = (iteration, task, phase)
        self._beaten = time.monotonic()

    @contextlib.contextmanager
    def paused(self, reason: str) -> Iterator[None]:
        """No hang is suspected inside; processes that die are still noticed.

        Args:
            reason: what takes long, for example ``evaluation``.
        """
        self._pauses.append(reason)
        try:
            yield
        finally:
            if self._beaten is not None:
                self._beaten = time.monotonic()
            self._pauses.pop()

    def fail(self, sentence: str, wait: float = 0.0) -> str | None:
        """Tell the others that this rank ends with an error, and why.

        An error about a lost connection has its cause on another rank: wait for the news about it,
        then nothing is said about this one.

        Args:
            sentence: the error.
            wait: seconds to wait for news about another rank first.

        Returns:
            The sentence about another rank that was at fault first, already reported; else
            ``None``.
        """
        if self._known.wait(wait):
            return self._news["sentence"]
        sentence = f"rank {self.rank} of {self.world_size} failed: {sentence}"
        self._leave({"kind": "verdict", "rank": self.rank, "sentence": sentence})
        return None

    def close(self) -> None:
        """Leave cleanly; may be called twice.

        The others must close within half a minute, or be paused: a rank that goes on would wait for
        this one in vain.
        """
        self._leave({"kind": "left", "rank": self.rank})

    def _leave(self, message: Message) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        with self._lock:
            self._send(message)
        self._thread.join(4 * TICK)
        if self._link is not None and not self._thread.is_alive():
            self._link.close()

    # ------------------------------------------------------------------------------- the thread

    def _watch(self) -> None:
        told = 0.0
        while not self._closed.is_set() and self._news is None:
            for message in self._hear():
                self._handle(message)
            now = time.monotonic()
            if now - told >= self.interval:
                told = now
                with self._lock:
                    self._send({"kind": "state", "rank": self.rank, "position": self._where()})
            self._look(now)
        if self._news is not None and not self._closed.is_set():
            self._end()

    def _hear(self) -> list[Message]:
        tick = min(TICK, self.interval)
        if self._link is not None:
            return self._link.poll(tick)
        self._closed.wait(tick)
        return []

    def _look(self, now: float) -> None:
        """Is this rank hung, or left alone?"""
        if self._closed.is_set() or self._pauses or self._beaten is None:
            return
        if now - self._beaten > self.timeout:
            self._judge(self.rank, f"made no progress for {self.timeout:g} s", hung=True)
        for rank, since in self._left.items():
            if now - since > LEAVE_TOGETHER:
                self._judge(rank, "left the run while others go on")

    def _where(self) -> str:
        if self._position is None:
            return "before its first iteration" + self._doing()
        iteration, task, phase = self._position
        return f"task {task!r}, iteration {iteration}, {phase}" + self._doing()

    def _doing(self) -> str:
        return f", paused for {self._pauses[-1]}" if self._pauses else ""

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def _handle(self, message: Message) -> None:
        kind, rank = message.get("kind"), message.get("rank")
        if kind == "state":
            self._positions[rank] = message["position"]
        elif kind == "left":
            self._left.setdefault(rank, time.monotonic())
        elif kind == "gone" and rank not in self._left:
            self._judge(rank, "is gone: its process died or its machine is unreachable")
        elif kind == "verdict":
            self._accept(message)

    def _judge(self, rank: int, what: str, hung: bool = False) -> None:
        """A rank at fault was found here."""
        where = self._positions.get(rank, "position unknown")
        where = self._where() if rank == self.rank else f"last seen at {where}"
        sentence = f"rank {rank} of {self.world_size} ({where}) {what}"
        self._accept({"kind": "verdict", "rank": rank, "sentence": sentence, "hung": hung})

    def _accept(self, verdict: Message) -> None:
        """The first verdict counts; the hub passes it on, a spoke tells the hub."""
        if self._news is None:
            self._news = verdict
            with self._lock:
                self._send(verdict)
            self._known.set()

    def _end(self) -> None:
        """Report, let the main thread end by itself for a moment, then end the process."""
        where = self._where()
        self._report(f"[rank {self.rank}] error: {self._news['sentence']}; stopping at {where}")
        if self._news.get("hung"):
            faulthandler.dump_traceback(file=2, all_threads=True)
        if not self._closed.wait(self.grace):
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(EXIT_STATUS)


def _forget(link: weakref.ref) -> None:
    """Close a forked child's copies of the connections: they must end with this process."""
    if link() is not None:
        link().close()


def _connect(rank: int, group: dist.ProcessGroup | None, host: str | None) -> Hub | Spoke:
    """Rank 0 listens and says where; the others connect. Collective."""
    import torch.distributed as dist

    from gppf_d2.distributed.consensus import agree

    host = host or os.environ.get("MASTER_ADDR") or "127.0.0.1"
    where: list = [None]
    server = None
    if rank == 0:
        server = listen(host)
        where = [(host, server.getsockname()[1], secrets.token_hex(16))]
    dist.broadcast_object_list(where, src=0, group=group)
    host, port, token = where[0]
    link, error = None, None
    try:
        link = Hub(server, token) if server is not None else Spoke(host, port, rank, token)
    except OSError as problem:
        error = (
            f"rank {rank} cannot reach the heartbeat of rank 0 at {host}:{port} ({problem}); give "
            "an address of machine 0 that all machines reach (--dist-url or MASTER_ADDR)"
        )
    agree(error, group)
    return link
