"""Where the time of an iteration goes: laps between the parts of ``SIMTTrainer.run_step``.

On a GPU the host only queues the work, so laps are CUDA events on the current stream, read when the
metrics are reduced; elsewhere they are readings of the host's clock. No lap waits for the device.

    data      waiting for the batch and copying it to the device
    forward   the losses, with the statistics that ranks merge on the way
    backward  the gradients; full buckets leave meanwhile
    exchange  what is left of sending, the wait for slower ranks, the buffers of heads
    update    clipping, the optimizer's step, the averaged parameters
"""

from __future__ import annotations

import time
from collections import defaultdict

import torch

PARTS = ("data", "forward", "backward", "exchange", "update")


class StepClock:
    """Adds up the seconds of each part over iterations.

    Args:
        device: where the step computes.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._laps: list[tuple[str, float | torch.cuda.Event]] = []

    def start(self) -> None:
        """An iteration begins: what has passed since the last lap belongs to no part."""
        self._laps.append(("", self._now()))

    def lap(self, part: str) -> None:
        """What has passed since the last lap belongs to ``part``, one of ``PARTS``."""
        assert part in PARTS and self._laps, f"lap {part!r} before start, or unknown"
        self._laps.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds of every part since the last reading; waits for the last lap's work on a GPU."""
        if self._on_gpu and self._laps:
            self._laps[-1][1].synchronize()
        seconds: dict[str, float] = defaultdict(float)
        for (_, before), (part, after) in zip(self._laps, self._laps[1:]):
            if part:
                seconds[part] += (
                    before.elapsed_time(after) / 1e3 if self._on_gpu else after - before
                )
        self._laps.clear()
        return dict(seconds)

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
