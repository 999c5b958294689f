"""Per-task metrics: collected on each rank, reduced by name, written by rank 0.

Every rank runs another task, so a rank knows only its own losses. Sums and counts are kept on the
device and gathered once per log period over the control group, under names that carry the task: a
loss is averaged over the ranks and iterations that ran its task, nothing else (``SimpleTrainer``
would read every rank's dict with rank 0's keys).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage, EventWriter

from gppf_d2.engine.step_clock import PARTS, StepClock

logger = logging.getLogger(__name__)


class TaskMetrics:
    """Sums of one rank since the last reduction.

    Args:
        device: where the step computes; None is the CPU.

    Attributes:
        clock: takes the laps of a step.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.clock = StepClock(device)
        self._reset()

    def _reset(self) -> None:
        self._losses: list[tuple[str, torch.Tensor]] = []
        self._runs: dict[str, int] = defaultdict(int)
        self._samples: dict[str, int] = defaultdict(int)
        self._replaced: dict[str, int] = defaultdict(int)
        self._steps = 0
        self._start = time.perf_counter()

    def record(
        self, task: str, losses: Mapping[str, torch.Tensor], num_samples: int, num_replaced: int = 0
    ) -> None:
        """Note one micro-step. No host synchronisation: tensors are read at the reduction.

        Args:
            task: what ran.
            losses: scalars by name, before the task's loss weight.
            num_samples: in the batch.
            num_replaced: corrupt samples that were resampled.
        """
        values = [(name, value.detach().float()) for name, value in losses.items()]
        self._losses += [(f"loss/{task}/{name}", value) for name, value in values]
        self._losses.append((f"loss/{task}/total", sum(value for _, value in values)))
        self._runs[task] += 1
        self._samples[task] += num_samples
        self._replaced[task] += num_replaced

    def rest(self, seconds: float) -> None:
        """Leave time out that was not spent on steps: an evaluation, a checkpoint."""
        self._start += seconds

    def step(self) -> None:
        """Note the end of an iteration."""
        self._steps += 1

    def reduce(
        self, group: dist.ProcessGroup | None, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Average over iterations and ranks, then start anew.

        Collective: all ranks must call.

        Args:
            group: of all ranks; None in a single process.
            known: further scalars, alike on all ranks that know them: those that hold a head.

        Returns:
            Scalars by name, the same on every rank: ``loss/<task>/<name>``, ``share/<task>``
            (realised), ``samples_per_second``, ``time`` (seconds an iteration), ``time/<part>``
            (of it, the mean over the ranks, see ``step_clock``), ``data_time`` (of the rank that
            waited longest), ``replaced/<task>``, and what is known on some rank.
        """
        mine = self._summary() | {"known": dict(known or {})}
        everyone = [mine]
        if group is not None:
            everyone = [None] * dist.get_world_size(group)
            dist.all_gather_object(everyone, mine, group=group)
        self._reset()
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for summary in everyone:
            for name, (total, count) in summary["losses"].items():
                sums[name][0] += total
                sums[name][1] += count
        result = {name: total / count for name, (total, count) in sorted(sums.items())}
        for summary in everyone:
            result |= summary["known"]
        runs = _add(summary["runs"] for summary in everyone)
        for task, count in runs.items():
            result[f"share/{task}"] = count / max(sum(runs.values()), 1)
        for task, count in _add(summary["replaced"] for summary in everyone).items():
            if count:
                result[f"replaced/{task}"] = float(count)
        elapsed = max(summary["elapsed"] for summary in everyone)
        steps = max(summary["steps"] for summary in everyone)
        samples = sum(_add(summary["samples"] for summary in everyone).values())
        result["samples_per_second"] = samples / max(elapsed, 1e-9)
        result["time"] = elapsed / max(steps, 1)
        for part in PARTS:
            seconds = [summary["parts"].get(part, 0.0) for summary in everyone]
            result[f"time/{part}"] = sum(seconds) / len(seconds) / max(steps, 1)
        longest = max(summary["parts"].get("data", 0.0) for summary in everyone)
        result["data_time"] = longest / max(steps, 1)
        return result

    def _summary(self) -> dict:
        losses: dict[str, tuple[float, int]] = {}
        if self._losses:
            values = torch.stack([value.reshape(()) for _, value in self._losses]).tolist()
            for (name, _), value in zip(self._losses, values):
                total, count = losses.get(name, (0.0, 0))
                losses[name] = (total + value, count + 1)
        return {
            "losses": losses,
            "runs": dict(self._runs),
            "samples": dict(self._samples),
            "replaced": dict(self._replaced),
            "parts": self.clock.read(),
            "steps": self._steps,
            "elapsed": time.perf_counter() - self._start,
        }


def _add(counts: Sequence[Mapping[str, int]] | object) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for mapping in counts:
        for name, count in mapping.items():
            total[name] += count
    return dict(sorted(total.items()))


class ConsoleWriter(EventWriter):
    """One line per log period: progress, time left, speed, and every task's loss.

    Args:
        max_iter: iterations of the run.
    """

    def __init__(self, max_iter: int) -> None:
        self.max_iter = max_iter

    def write(self) -> None:
        from detectron2.utils.events import get_event_storage

        logger.info(progress_line(get_event_storage(), self.max_iter))


def progress_line(storage: EventStorage, max_iter: int) -> str:
    """The console line of the storage's latest scalars."""
    latest = {name: value for name, (value, _) in storage.latest().items()}
    done = storage.iter + 1
    left = int(latest.get("eta_seconds", 0))
    losses = "  ".join(
        f"{name.split('/')[1]} {value:.3g}{_by_label(latest, name.split('/')[1])}"
        for name, value in sorted(latest.items())
        if name.startswith("loss/") and name.endswith("/total")
    )
    tau = f"tau {latest['temperature']:.3g}  " if "temperature" in latest else ""
    return (
        f"{done}/{max_iter}  eta {left // 3600}:{left % 3600 // 60:02d}:{left % 60:02d}  "
        f"{latest.get('samples_per_second', 0):.1f} samples/s  {latest.get('time', 0):.3f} s/it  "
        f"data {latest.get('data_time', 0):.3f} s  lr {latest.get('lr', 0):.3g}  {tau}|  {losses}"
    )


def _by_label(latest: Mapping[str, float], task: str) -> str:
    """The sum of each label's losses, "<label>.<loss>", in brackets; "" where there are none."""
    sums: dict[str, float] = defaultdict(float)
    for name, value in sorted(latest.items()):
        label, dot, _ = name.removeprefix(f"loss/{task}/").partition(".")
        if name.startswith(f"loss/{task}/") and dot:
            sums[label] += value
    if len(sums) < 2:
        return ""
    return f" ({', '.join(f'{label} {value:.3g}' for label, value in sums.items())})"
