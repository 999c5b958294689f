"""Curves of training from ``metrics.json``: losses per task and label, time, learning rate,
temperature, task share.

Entries are dicts with "iteration" and any of "loss/<task>/<name>", "loss/<task>/<label>.<name>",
"loss/<task>/total", "weight/<task>/<label>", "share/<task>", "wanted_share/<task>", "time",
"data_time", "lr", "temperature". Every function takes what is there: a key that no entry has gives
no line, a value that is not finite is left out of the line and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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


def summed(metrics: Metrics, keys: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of several keys at every iteration that has any of them, as ``series`` gives one."""
    sums = []
    for entry in metrics:
        found = [entry[key] for key in keys if isinstance(entry.get(key), (int, float))]
        if found:
            sums.append({"iteration": entry["iteration"], "sum": float(sum(found))})
    return series(sums, "sum")


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


def loss_labels(metrics: Metrics, task: str) -> dict[str, list[str]]:
    """The losses of a task's label heads: label -> names "<label>.<loss>"."""
    labels: dict[str, list[str]] = {}
    for name in loss_names(metrics, task):
        label, dot, _ = name.partition(".")
        if dot:
            labels.setdefault(label, []).append(name)
    return labels


def loss_figure(
    metrics: Metrics, task: str, theme: Theme = LIGHT, color: str | None = None, label: str = ""
) -> Figure:
    """The losses of one task: the total raw and smoothed, its parts as thin lines.

    Args:
        metrics: entries of ``metrics.json``.
        task: whose losses; a task with several label heads has a part for each of them.
        theme: colours.
        color: of the total; None takes the theme's first.
        label: show this label head's losses instead.

    Raises:
        ValueError: there is no finite loss in the metrics.
    """
    total, parts = _parts_of(metrics, task, label)
    lines = {
        name: summed(metrics, [f"loss/{task}/{key}" for key in keys])
        for name, keys in {**parts, "total": total}.items()
    }
    lines = {name: line for name, line in lines.items() if len(line[0])}
    if not lines:
        whose = f"label {label!r} of task {task!r}" if label else f"task {task!r}"
        raise ValueError(f"The metrics hold no finite loss of {whose}.")
    color = color or theme.palette[0]
    figure = new_figure(*SIZE, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title=f"{task} · {label}" if label else task, xlabel="iteration")
    whole = lines.pop("total", None)
    if len(lines) > 1 or whole is None:
        others = [other for other in theme.palette if other != color]
        for index, (name, (steps, values)) in enumerate(lines.items()):
            style = {"color": others[index % len(others)], "ls": LINE_STYLES[1 + index % 3]}
            axes.plot(steps, smooth(values), lw=1.2, label=name, **style)
    if whole is not None:
        _raw_and_smooth(axes, *whole, color, "total")
    bad = [step for key in total for step in non_finite(metrics, f"loss/{task}/{key}")]
    if bad:
        axes.axvline(
            min(bad), color=theme.accent, lw=1, ls=":", label=f"not finite at {min(bad):,}"
        )
    if any(line.get_label() != "total" and line.get_label()[0] != "_" for line in axes.lines):
        add_legend(axes, theme, fontsize=7)
    if axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    return figure


def _parts_of(metrics: Metrics, task: str, label: str) -> tuple[list[str], dict[str, list[str]]]:
    """Losses that add up to the bold line, and those that add up to each thin one."""
    names, labels = loss_names(metrics, task), loss_labels(metrics, task)
    # "absent" is the zero of labels that no image of a batch has
    plain = {name: [name] for name in names if "." not in name and name not in ("total", "absent")}
    if label:
        total = labels.get(label, [])
    elif len(labels) == 1 and not plain:  # one label head: its losses are the task's
        total, ((label, _),) = ["total"], labels.items()
    else:
        return ["total"], plain | labels
    return total, {name.partition(".")[2]: [name] for name in labels.get(label, [])}


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


def weight_figure(metrics: Metrics, theme: Theme = LIGHT) -> Figure:
    """Weights of the labels' losses over the iterations, as far as they are learned.

    Raises:
        ValueError: no "weight/<task>/<label>" is in the metrics.
    """
    keys = sorted({key for entry in metrics for key in entry if key.startswith("weight/")})
    lines = {key.partition("/")[2]: series(metrics, key) for key in keys}
    if not any(len(steps) for steps, _ in lines.values()):
        raise ValueError("The metrics hold no weight of a label.")
    figure = new_figure(*SIZE, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title="Learned weights of the labels", xlabel="iteration")
    for index, (label, (steps, values)) in enumerate(lines.items()):
        style = {"color": theme.palette[index % len(theme.palette)]}
        style |= {"ls": LINE_STYLES[index // len(theme.palette) % len(LINE_STYLES)]}
        axes.plot(steps, values, lw=2, label=label, marker="o" if len(steps) == 1 else "", **style)
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
