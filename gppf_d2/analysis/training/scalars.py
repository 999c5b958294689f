"""The numbers of ``metrics.json`` as columns, and what is computed from them for curves and tables.

An entry is a dict with "iteration" and any of the keys that a run logs. One pass turns the entries
into ``Scalars``, a column of (iteration, value) a key, so that fifty thousand entries stay fast.
Every function takes entries or ``Scalars``: make them once where many curves are drawn. A key that
no entry has gives an empty line; values that are not finite are left out of lines and can be asked
for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Line: TypeAlias = tuple[np.ndarray, np.ndarray]  # iterations int [n] and values float [n]
MOST_POINTS = 1500  # of a drawn line
OUTLIER = 3.0  # times the median: an iteration that took longer is not drawn while it is rare
RARE = 0.05  # of all points
PARTS = {  # of an iteration, in the order in which a step takes them
    "time/data": "wait for data",
    "time/forward": "forward",
    "time/backward": "backward",
    "time/exchange": "exchange",
    "time/update": "update",
}


class Scalars:
    """Columns of a run's metrics.

    Args:
        entries: one dict an iteration, in order of iterations; values that are not numbers are left
            out.
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        collected: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        first = last = None
        for entry in entries:
            last = entry["iteration"]
            first = last if first is None else first
            for key, value in entry.items():
                if type(value) is float or type(value) is int:
                    steps, values = collected[key]
                    steps.append(last)
                    values.append(value)
        self.first, self.last = first or 0, last or 0
        self.columns: dict[str, Line] = {
            key: (np.asarray(steps, dtype=int), np.asarray(values, dtype=float))
            for key, (steps, values) in collected.items()
        }

    @classmethod
    def of(cls, metrics: Metrics) -> Scalars:
        """Columns of entries; columns stay what they are."""
        return metrics if isinstance(metrics, Scalars) else cls(metrics)

    def column(self, key: str) -> Line:
        """All values of a key, also those that are not finite; empty for an unknown key."""
        return self.columns.get(key, (np.zeros(0, dtype=int), np.zeros(0)))

    def below(self, prefix: str) -> list[str]:
        """What follows ``prefix/`` in the keys that start so, in order of first appearance."""
        front = f"{prefix}/"
        return [key[len(front) :] for key in self.columns if key.startswith(front)]


Metrics: TypeAlias = Scalars | Sequence[Mapping[str, Any]]


def series(metrics: Metrics, key: str) -> Line:
    """The finite values of one key."""
    return _finite(Scalars.of(metrics).column(key))


def summed(metrics: Metrics, keys: Iterable[str]) -> Line:
    """The sum of several keys at every iteration that has any of them, where it is finite."""
    scalars = Scalars.of(metrics)
    lines = [scalars.column(key) for key in keys]
    if len(lines) == 1:
        return _finite(lines[0])
    steps = _union(lines)
    return _finite((steps, sum((values_at(line, steps) for line in lines), np.zeros(len(steps)))))


def non_finite(metrics: Metrics, key: str) -> list[int]:
    """Iterations at which a key was NaN or infinite."""
    steps, values = Scalars.of(metrics).column(key)
    return steps[~np.isfinite(values)].tolist()


def values_at(line: Line, steps: np.ndarray) -> np.ndarray:
    """A line's values at ``steps`` (in order), 0 where it has none."""
    places = np.searchsorted(steps, line[0])
    known = places < len(steps)
    known[known] = steps[places[known]] == line[0][known]
    values = np.zeros(len(steps))
    values[places[known]] = line[1][known]
    return values


def thin(line: Line, most: int = MOST_POINTS) -> Line:
    """A line of at most ``most`` points: averages of runs of neighbours, all of nearly one length.

    Args:
        line: in order of iterations; one that is short enough is returned as it is.
        most: points.
    """
    steps, values = line
    if len(steps) <= most:
        return line
    starts = np.arange(most) * len(steps) // most
    lengths = np.diff([*starts, len(steps)])
    middles = np.add.reduceat(steps, starts) / lengths
    return np.rint(middles).astype(int), np.add.reduceat(values, starts) / lengths


def smooth(values: np.ndarray, reach: int | None = None) -> np.ndarray:
    """Moving average with a triangular window, centred, so that a falling curve is not shown late.

    Args:
        values: [n].
        reach: points on either side that count; None takes a twentieth of the curve, 0 changes
            nothing.
    """
    reach = len(values) // 20 if reach is None else reach
    reach = min(reach, (len(values) - 1) // 2)
    if reach < 1:
        return values
    kernel = reach + 1 - np.abs(np.arange(-reach, reach + 1))
    total = np.convolve(values, kernel, mode="same")
    return total / np.convolve(np.ones(len(values)), kernel, mode="same")


def loss_names(metrics: Metrics, task: str) -> list[str]:
    """Names of a task's losses, "total" first."""
    names = Scalars.of(metrics).below(f"loss/{task}")
    return sorted(names, key=lambda name: (name != "total", name))


def loss_labels(metrics: Metrics, task: str) -> dict[str, list[str]]:
    """The losses of a task's label heads: label -> names "<label>.<loss>"."""
    labels: dict[str, list[str]] = {}
    for name in loss_names(metrics, task):
        label, dot, _ = name.partition(".")
        if dot:
            labels.setdefault(label, []).append(name)
    return labels


def task_shares(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    """Wanted and realised share of every task.

    The realised share is the mean over the log periods, each weighted by its iterations.

    Returns:
        {task: {"wanted", "realised"}} in [0, 1], None where the metrics do not tell.
    """
    scalars = Scalars.of(metrics)
    realised = {task: float(line[1][-1]) for task, line in realised_shares(scalars).items()}
    never = 0.0 if realised else None  # of a task that did not run while others did
    shares = {}
    for task in dict.fromkeys([*realised, *scalars.below("wanted_share")]):
        wanted = series(scalars, f"wanted_share/{task}")[1]
        shares[task] = {
            "wanted": float(wanted[-1]) if len(wanted) else None,
            "realised": realised.get(task, never),
        }
    return shares


def realised_shares(metrics: Metrics) -> dict[str, Line]:
    """By task, the share of all work since the first entry that it had, at every log period's end.

    A task that did not run in a log period has no key there: its share of that period was 0.
    """
    scalars = Scalars.of(metrics)
    lines = {task: series(scalars, f"share/{task}") for task in scalars.below("share")}
    lines = {task: line for task, line in lines.items() if len(line[0])}
    steps = _union(lines.values())
    return {task: (steps, _mean_so_far(line, steps)) for task, line in lines.items()}


def relative_shares(metrics: Metrics) -> dict[str, Line]:
    """By task, its realised share over the one that the schedule wanted so far: 1 is as wanted, 0
    of a task that has not run while others did."""
    scalars = Scalars.of(metrics)
    shares, relative = realised_shares(scalars), {}
    steps = _union(shares.values())
    for task in scalars.below("wanted_share"):
        wanted = _mean_so_far(series(scalars, f"wanted_share/{task}"), steps)
        realised = values_at(shares[task], steps) if task in shares else np.zeros(len(steps))
        known = wanted > 0
        if known.any():
            relative[task] = (steps[known], realised[known] / wanted[known])
    return relative


def _mean_so_far(line: Line, steps: np.ndarray) -> np.ndarray:
    """Mean over the log periods that end at ``steps``, each weighted by its iterations."""
    lengths = np.diff(steps, prepend=-1)
    return np.cumsum(values_at(line, steps) * lengths) / np.cumsum(lengths)


def time_parts(metrics: Metrics) -> tuple[np.ndarray, dict[str, np.ndarray], dict[int, float]]:
    """Seconds of the parts of an iteration.

    Rare outliers, above all the first iteration, which warms up, are taken out.

    Returns:
        Iterations [n]; by part, in words, seconds [n] that add up to the whole iteration ("other"
        is what no part holds; of a run that logs no parts all but the wait for data is "the step");
        what was taken out, {iteration: seconds}.

    Raises:
        ValueError: "time" is not in the metrics.
    """
    scalars = Scalars.of(metrics)
    steps, whole = series(scalars, "time")
    if not len(steps):
        raise ValueError("The metrics hold no time of an iteration.")
    slow = whole > OUTLIER * np.median(whole)
    if slow.sum() > max(1, RARE * len(whole)):
        slow[:] = False
    cut = dict(zip(steps[slow].tolist(), whole[slow].tolist()))
    steps, whole = steps[~slow], whole[~slow]
    logged = {name: key for key, name in PARTS.items() if len(series(scalars, key)[0])}
    rest = "other" if logged else "the step"
    parts = {
        name: values_at(series(scalars, key), steps)
        for name, key in (logged or {"wait for data": "data_time"}).items()
    }
    parts[rest] = np.maximum(whole - sum(parts.values()), 0)
    return steps, {name: values for name, values in parts.items() if values.any()}, cut


def replaced_samples(metrics: Metrics) -> dict[str, Line]:
    """By task that had some, the number of unreadable samples that were replaced so far, from the
    run's first entry, with 0 before it, to its last."""
    scalars, totals = Scalars.of(metrics), {}
    for task in scalars.below("replaced"):
        steps, counts = series(scalars, f"replaced/{task}")
        if len(steps):
            total = np.cumsum(counts)
            ends = ([scalars.first, *steps, scalars.last], [0, *total, total[-1]])
            totals[task] = (np.asarray(ends[0]), np.asarray(ends[1], dtype=float))
    return totals


def _finite(line: Line) -> Line:
    keep = np.isfinite(line[1])
    return line[0][keep], line[1][keep]


def _union(lines: Iterable[Line]) -> np.ndarray:
    """All iterations of several lines, in order."""
    return np.unique(np.concatenate([np.zeros(0, dtype=int), *(steps for steps, _ in lines)]))
