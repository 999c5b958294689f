"""Curves of training from ``metrics.json``: losses per task, time, learning rate, temperature, task
share.

Entries are dicts with "iteration" and any of "loss/<task>/<name>", "loss/<task>/total",
"share/<task>", "wanted_share/<task>", "time", "data_time", "lr", "temperature". Every function
takes what is there: a key that no entry has gives no line, a value that is not finite is left out
of the line and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gppf_d2.analysis.figures import LIGHT, LINE_STYLES, Theme, add_legend, new_figure, style_axes

Metrics = Sequence[Mapping[str, Any]]
SIZE = (4.6, 2.7)  # inches of a small chart; the report puts them side by side


def series(metrics: Metrics, key: str) -> tuple[np.ndarray, np.ndarray]:
    """The finite values of one key.

    Returns:
        Iterations int [n] and values float [n].
    """
    points = [
        (entry["iteration"], float(entry[key]))
        for entry in metrics
        if isinstance(entry.get(key), (int, float)) and math.isfinite(entry[key])
    ]
    steps, values = zip(*points) if points else ((), ())
    return np.asarray(steps, dtype=int), np.asarray(values, dtype=float)


def non_finite(metrics: Metrics, key: str) -> list[int]:
    """Iterations at which a key was NaN or infinite."""
    return [
        entry["iteration"]
        for entry in metrics
        if isinstance(entry.get(key), float) and not math.isfinite(entry[key])
    ]


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
    prefix = f"loss/{task}/"
    names = {key[len(prefix) :] for entry in metrics for key in entry if key.startswith(prefix)}
    return sorted(names, key=lambda name: (name != "total", name))


def loss_figure(
    metrics: Metrics, task: str, theme: Theme = LIGHT, color: str | None = None
) -> Figure:
    """The losses of one task: the total raw and smoothed, its parts as thin lines.

    Raises:
        ValueError: the task has no finite loss in the metrics.
    """
    names = [
        name for name in loss_names(metrics, task) if len(series(metrics, f"loss/{task}/{name}")[0])
    ]
    if not names:
        raise ValueError(f"The metrics hold no finite loss of task {task!r}.")
    color = color or theme.palette[0]
    figure = new_figure(*SIZE, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title=task, xlabel="iteration")
    parts = [name for name in names if name != "total"]
    if len(parts) > 1 or "total" not in names:
        others = [other for other in theme.palette if other != color]
        for index, name in enumerate(parts):
            steps, values = series(metrics, f"loss/{task}/{name}")
            style = {"color": others[index % len(others)], "ls": LINE_STYLES[1 + index % 3]}
            axes.plot(steps, smooth(values), lw=1.2, label=name, **style)
    if "total" in names:
        steps, values = series(metrics, f"loss/{task}/total")
        _raw_and_smooth(axes, steps, values, color, "total")
    bad = non_finite(metrics, f"loss/{task}/total")
    if bad:
        axes.axvline(bad[0], color=theme.accent, lw=1, ls=":", label=f"not finite at {bad[0]:,}")
    if any(line.get_label() != "total" and line.get_label()[0] != "_" for line in axes.lines):
        add_legend(axes, theme, fontsize=7)
    if axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    return figure


def _raw_and_smooth(
    axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str
) -> None:
    if len(steps) == 1:
        axes.plot(steps, values, "o", ms=4, color=color, label=label)
        return
    axes.plot(steps, values, lw=0.8, color=color, alpha=0.3, label="_raw")
    axes.plot(steps, smooth(values), lw=2, color=color, label=label)


def time_figure(metrics: Metrics, theme: Theme = LIGHT) -> Figure:
    """Seconds an iteration takes, and how many of them it waits for data.

    Raises:
        ValueError: neither "time" nor "data_time" is in the metrics.
    """
    keys = {"time": "whole iteration", "data_time": "waiting for data"}
    present = [key for key in keys if len(series(metrics, key)[0])]
    if not present:
        raise ValueError(f"The metrics hold none of {', '.join(keys)}.")
    figure = new_figure(*SIZE, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title="Seconds an iteration", xlabel="iteration")
    for key, color in zip(keys, theme.palette):
        if key in present:
            _raw_and_smooth(axes, *series(metrics, key), color, keys[key])
    axes.set_ylim(bottom=0)
    add_legend(axes, theme)
    return figure


def schedule_figure(metrics: Metrics, theme: Theme = LIGHT) -> Figure:
    """Learning rate and temperature over the iterations, one above the other.

    Raises:
        ValueError: neither "lr" nor "temperature" is in the metrics.
    """
    keys = {"lr": "Learning rate", "temperature": "Temperature"}
    present = [key for key in keys if len(series(metrics, key)[0])]
    if not present:
        raise ValueError("The metrics hold neither lr nor temperature.")
    figure = new_figure(*SIZE, theme)
    panels = figure.subplots(len(present), 1, sharex=True, squeeze=False)[:, 0]
    for axes, key, color in zip(panels, present, theme.palette):
        style_axes(axes, theme, title=keys[key])
        steps, values = series(metrics, key)
        axes.plot(steps, values, lw=2, color=color, marker="o" if len(steps) == 1 else None)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=4)
    panels[-1].set_xlabel("iteration", color=theme.muted, fontsize=8)
    return figure


def task_shares(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    """Wanted and realised share of every task.

    The realised share is the mean over the log periods, each weighted by its iterations.

    Returns:
        {task: {"wanted", "realised"}} in [0, 1], None where the metrics do not tell.
    """
    tasks: dict[str, None] = {}
    for entry in metrics:
        for key in entry:
            kind, _, task = key.partition("/")
            if kind in ("share", "wanted_share") and task:
                tasks[task] = None
    steps = [-1] + [entry["iteration"] for entry in metrics if _has_share(entry)]
    lengths = np.diff(steps)
    shares: dict[str, dict[str, float | None]] = {}
    for task in tasks:
        wanted = series(metrics, f"wanted_share/{task}")[1]
        # A task that did not run in a log period has no key there: its share was 0.
        values = [float(entry.get(f"share/{task}") or 0) for entry in metrics if _has_share(entry)]
        shares[task] = {
            "wanted": float(wanted[-1]) if len(wanted) else None,
            "realised": float(np.average(values, weights=lengths)) if values else None,
        }
    return shares


def _has_share(entry: Mapping[str, Any]) -> bool:
    return any(key.startswith("share/") for key in entry)
