"""The queue of gradient buckets: they leave in one fixed order, each as soon as it may.

All ranks hold the same buckets in the same order. A bucket leaves once every gradient that this
rank expects in it has arrived and all buckets before it have left; the last one waits for
``collect``, since the caller's flags ride in it. Ranks with different tasks complete buckets at
different moments, but the order of the collectives is the same everywhere (I2). Gradients may
arrive from several autograd threads (one per device), so the queue is locked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gppf_d2.distributed.buckets import Bucket, Route, Slot


class BucketQueue:
    """Launches buckets in order.

    Args:
        buckets: in launch order; the last one has room for extra flags.
    """

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self.buckets = list(buckets)
        self._lock = threading.Lock()
        self._next = 0
        self._open = False
        self._expected: set[Slot] = set()

    def reset(self, routes: Iterable[Route]) -> None:
        """Begin an iteration with one route per bucket."""
        self._next, self._open = 0, False
        self._expected.clear()
        for bucket, route in zip(self.buckets, routes, strict=True):
            bucket.reset(route)

    @property
    def is_open(self) -> bool:
        """Whether buckets may leave already."""
        return self._open

    def open(self, expected: Iterable[Slot]) -> None:
        """Let buckets leave: now those without an expected gradient, the others as theirs arrive.

        Collective (it launches some): all ranks must call.

        Args:
            expected: whose gradients the coming backward may bring.
        """
        with self._lock:
            for slot in expected:
                self._expected.add(slot)
                slot.bucket.pending += 1
            self._open = True
            self._launch_ready()

    def arrived(self, slot: Slot, contributed: bool) -> None:
        """Autograd is done with a parameter.

        Args:
            slot: of the parameter.
            contributed: whether a gradient came.

        Raises:
            RuntimeError: the gradient came after its bucket had left.
        """
        with self._lock:
            if contributed:
                _keep(slot)
            if self._open and slot in self._expected:
                self._expected.remove(slot)
                slot.bucket.pending -= 1
                self._launch_ready()

    def flush(self) -> None:
        """Backward is over: what was expected and did not come is not coming."""
        with self._lock:
            for slot in self._expected:
                slot.bucket.pending = 0
            self._expected.clear()
            self._launch_ready()

    def _launch_ready(self) -> None:
        while self._next < len(self.buckets) - 1 and not self.buckets[self._next].pending:
            self._next += 1
            self.buckets[self._next - 1].launch()

    def collect(self, flags: Tensor) -> list[list[float]]:
        """Send what is left, wait for everything and read all tails.

        Collective: all ranks must call. Waits for the device once.

        Args:
            flags: ride behind the last bucket's contributor flags [n].

        Returns:
            Per bucket its tail: contributors per parameter, then the summed extra flags. Zeros for
            buckets that nobody contributed to.
        """
        last = self.buckets[-1]
        last.extra[: flags.numel()].copy_(flags, non_blocking=True)
        with self._lock:
            for bucket in self.buckets[self._next :]:
                bucket.launch()
            self._next = len(self.buckets)
        for bucket in self.buckets:
            bucket.wait()
        return self._read_tails()

    def _read_tails(self) -> list[list[float]]:
        tails = [[0.0] * bucket.tail.numel() for bucket in self.buckets]
        live = [i for i, b in enumerate(self.buckets) if b.route.travels or b.route.sends]
        for device in {self.buckets[i].flat.device for i in live}:
            chosen = [i for i in live if self.buckets[i].flat.device == device]
            values = torch.cat([self.buckets[i].tail.float() for i in chosen]).tolist()
            for i in chosen:
                size = len(tails[i])
                tails[i], values = values[:size], values[size:]
        return tails


def _keep(slot: Slot) -> None:
    """Take a gradient that is not too late."""
    if slot.bucket.launched:
        raise RuntimeError(
            f"the gradient of {slot.name} came after its bucket was sent and would be lost: it was "
            "hidden from the autograd graph or came twice; use non-reentrant checkpointing "
            "(use_reentrant=False) and no backward inside backward"
        )
    slot.bucket.take(slot)
