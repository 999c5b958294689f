"""Curves of training: losses, time and its parts, shares of the tasks, evaluations, and any other
scalar of a run.

Every function draws one small chart of the same size from what ``scalars`` reads, and raises
``ValueError`` where there is nothing to draw. Lines of long runs are thinned out by averaging
before they are drawn; where a curve is smoothed, the faint line behind it is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gppf_d2.analysis.figures import (
    LIGHT,
    LINE_STYLES,
    Theme,
    new_figure,
    style_axes,
    task_styles,
)
from gppf_d2.analysis.training.scalars import (
    Line,
    Metrics,
    Scalars,
    loss_labels,
    loss_names,
    non_finite,
    relative_shares,
    replaced_samples,
    series,
    smooth,
    summed,
    thin,
    time_parts,
)

SIZE = (3.7, 2.5)  # inches of a small chart; the report puts them side by side
LEGEND_ROW = 0.16  # inches of a row of a legend below the axes; two rows have room
STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten


def loss_figure(
    metrics: Metrics, task: str, theme: Theme = LIGHT, color: str | None = None, label: str = ""
) -> Figure:
    """The losses of one task: the total raw and smoothed, its parts as thin lines.

    Args:
        metrics: of the run.
        task: whose losses; a task with several label heads has a part for each of them.
        theme: colours.
        color: of the total; None takes the theme's first.
        label: show this label head's losses instead.

    Raises:
        ValueError: there is no finite loss in the metrics.
    """
    scalars = Scalars.of(metrics)
    total, parts = _parts_of(scalars, task, label)
    lines = {
        name: summed(scalars, [f"loss/{task}/{key}" for key in keys])
        for name, keys in {**parts, "total": total}.items()
    }
    lines = {name: line for name, line in lines.items() if len(line[0])}
    if not lines:
        whose = f"label {label!r} of task {task!r}" if label else f"task {task!r}"
        raise ValueError(f"The metrics hold no finite loss of {whose}.")
    color = color or theme.palette[0]
    figure, axes = _small_chart(scalars, f"{task} · {label}" if label else task, theme)
    whole = lines.pop("total", None)
    if len(lines) > 1 or whole is None:
        others = [other for other in theme.palette if other != color]
        for index, (name, line) in enumerate(lines.items()):
            steps, values = thin(line)
            style = {"color": others[index % len(others)], "ls": LINE_STYLES[1 + index % 3]}
            axes.plot(steps, smooth(values), lw=1.2, label=name, **style)
    if whole is not None:
        _raw_and_smooth(axes, whole, color, "total")
    bad = [step for key in total for step in non_finite(scalars, f"loss/{task}/{key}")]
    if bad:
        axes.axvline(
            min(bad), color=theme.accent, lw=1, ls=":", label=f"not finite at {min(bad):,}"
        )
    if any(line.get_label() != "total" and line.get_label()[0] != "_" for line in axes.lines):
        _legend_below(figure, axes, theme)
    if axes.get_ylim()[0] > 0:
        _from_zero(axes)
    return figure


def _parts_of(scalars: Scalars, task: str, label: str) -> tuple[list[str], dict[str, list[str]]]:
    """Losses that add up to the bold line, and those that add up to each thin one."""
    names, labels = loss_names(scalars, task), loss_labels(scalars, task)
    # "absent" is the zero of labels that no image of a batch has
    plain = {name: [name] for name in names if "." not in name and name not in ("total", "absent")}
    if label:
        total = labels.get(label, [])
    elif len(labels) == 1 and not plain:  # one label head: its losses are the task's
        total, ((label, _),) = ["total"], labels.items()
    else:
        return ["total"], plain | labels
    return total, {name.partition(".")[2]: [name] for name in labels.get(label, [])}


def time_figure(metrics: Metrics, theme: Theme = LIGHT) -> Figure:
    """Seconds an iteration takes, as a stack of its parts.

    Raises:
        ValueError: "time" is not in the metrics.
    """
    scalars = Scalars.of(metrics)
    steps, parts, cut = time_parts(scalars)
    figure, axes = _small_chart(scalars, "Seconds an iteration", theme)
    thinned = {name: thin((steps, values)) for name, values in parts.items()}
    steps = next(iter(thinned.values()))[0]
    heights = [smooth(values) for _, values in thinned.values()]
    colors = [theme.muted if name == "other" else c for name, c in zip(parts, theme.palette)]
    if len(steps) == 1:
        bottoms = np.cumsum([0, *(height[0] for height in heights[:-1])])
        for name, height, bottom, color in zip(thinned, heights, bottoms, colors):
            axes.bar(steps, height, bottom=bottom, color=color, label=name)
    else:
        areas = axes.stackplot(steps, heights, colors=colors, labels=list(thinned))
        for area in areas:
            area.set(edgecolor=theme.background, linewidth=0.6)
    _from_zero(axes)
    if cut:
        axes.text(
            1, 1.02, f"not drawn: up to {max(cut.values()):.3g} s", color=theme.muted, fontsize=7.5,
            ha="right", va="bottom", transform=axes.transAxes,
        )  # fmt: skip
    _legend_below(figure, axes, theme)
    return figure


def share_figure(metrics: Metrics, tasks: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """How much of the share that the schedule wants for it every task has had so far.

    Dashed is the wanted share. The axis is chosen for the later three quarters of the run: the
    first iterations, which give whole batches to few tasks, may leave it.

    Args:
        metrics: of the run.
        tasks: all tasks of the run, which gives them their colours.
        theme: colours.

    Raises:
        ValueError: the metrics do not tell which task ran, or what was wanted.
    """
    scalars = Scalars.of(metrics)
    lines = relative_shares(scalars)
    if not lines:
        raise ValueError("The metrics do not tell how often every task ran and was to run.")
    figure, axes = _small_chart(scalars, "Realised share of the wanted one", theme)
    styles = task_styles(list(dict.fromkeys([*tasks, *lines])), theme)
    lines = {task: lines[task] for task in styles if task in lines}
    axes.axhline(1, color=theme.muted, lw=1, ls=(0, (4, 3)), label="wanted", zorder=1.5)
    for task, line in lines.items():
        _line(axes, line, 1.8, label=task, **styles[task])
    late = np.concatenate([values[len(values) // 4 :] for _, values in lines.values()])
    reach = 1.25 * max(0.08, np.abs(late - 1).max())
    axes.set_ylim(max(0, 1 - reach), 1 + reach)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    _legend_below(figure, axes, theme)
    return figure


def evaluation_figure(
    metrics: Metrics,
    key: str,
    title: str,
    unit: str,
    theme: Theme = LIGHT,
    color: str | None = None,
) -> Figure:
    """One metric at every evaluation, the last value as a number.

    Args:
        metrics: of the run.
        key: "eval/<task>/<metric>".
        title: what was evaluated.
        unit: the metric for readers, below the title.
        theme: colours.
        color: of the line; None takes the theme's first.

    Raises:
        ValueError: the key has no finite value.
    """
    scalars = Scalars.of(metrics)
    steps, values = thin(series(scalars, key))
    if not len(steps):
        raise ValueError(f"The metrics hold no {key}.")
    figure, axes = _small_chart(scalars, title, theme, note=unit)
    marker = "o" if len(steps) <= 60 else ""
    axes.plot(steps, values, lw=1.8, marker=marker, ms=4, color=color or theme.palette[0])
    axes.annotate(
        f"{values[-1]:.3g}", (steps[-1], values[-1]), (0, 6), textcoords="offset points",
        ha="right", va="bottom", color=theme.ink, fontsize=8.5, fontweight="bold",
    )  # fmt: skip
    axes.margins(y=0.18)
    axes.update_datalim([(0, 0.9 * values.max())], updatex=False)  # a small change looks small
    axes.autoscale_view()
    return figure


def weight_figure(metrics: Metrics, theme: Theme = LIGHT) -> Figure:
    """Weights of the labels' losses over the iterations, as far as they are learned.

    Raises:
        ValueError: no "weight/<task>/<label>" is in the metrics.
    """
    scalars = Scalars.of(metrics)
    lines = {label: series(scalars, f"weight/{label}") for label in sorted(scalars.below("weight"))}
    return _lines_figure(scalars, lines, "Learned weights of the labels", theme)


def replaced_figure(metrics: Metrics, tasks: Sequence[str], theme: Theme = LIGHT) -> Figure:
    """Unreadable samples that were replaced so far, a line per task that had some.

    Args:
        metrics: of the run.
        tasks: all tasks of the run, which gives them their colours.
        theme: colours.

    Raises:
        ValueError: none was replaced.
    """
    scalars = Scalars.of(metrics)
    lines = replaced_samples(scalars)
    styles = task_styles(list(dict.fromkeys([*tasks, *lines])), theme)
    return _lines_figure(scalars, lines, "Unreadable samples replaced", theme, styles)


def scalar_figure(
    metrics: Metrics,
    key: str,
    title: str,
    theme: Theme = LIGHT,
    *,
    smoothed: bool = False,
    log: bool = False,
) -> Figure:
    """One scalar of the metrics over the iterations.

    Args:
        metrics: of the run.
        key: of the scalar.
        title: its name for readers.
        theme: colours.
        smoothed: draw a bold smoothed line before the faint raw one.
        log: a logarithmic axis, where all values are positive.

    Raises:
        ValueError: the key has no finite value.
    """
    scalars = Scalars.of(metrics)
    line = series(scalars, key)
    if not len(line[0]):
        raise ValueError(f"The metrics hold no {key}.")
    figure, axes = _small_chart(scalars, title, theme)
    if smoothed:
        _raw_and_smooth(axes, line, theme.palette[0], title)
    else:
        _line(axes, line, 2, color=theme.palette[0])
    if log and (line[1] > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif line[1].min() >= 0:
        _from_zero(axes)
    return figure


def _lines_figure(
    scalars: Scalars,
    lines: Mapping[str, Line],
    title: str,
    theme: Theme,
    styles: Mapping[str, Mapping[str, str]] | None = None,
) -> Figure:
    lines = {name: line for name, line in lines.items() if len(line[0])}
    if not lines:
        raise ValueError(f"The metrics hold nothing of: {title.lower()}.")
    figure, axes = _small_chart(scalars, title, theme)
    styles = styles or task_styles(list(lines), theme)
    for name, line in lines.items():
        _line(axes, line, 2, label=name, **styles[name])
    _from_zero(axes)
    _legend_below(figure, axes, theme)
    return figure


def _small_chart(scalars: Scalars, title: str, theme: Theme, note: str = "") -> tuple[Figure, Axes]:
    """A chart whose x axis spans the run, ``note`` in small letters below its title."""
    figure = new_figure(*SIZE, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title=f"{title}\n" if note else title, xlabel="iteration")
    axes.text(0, 1.02, note, color=theme.muted, fontsize=7.5, va="bottom", transform=axes.transAxes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if scalars.last > scalars.first:
        room = 0.02 * (scalars.last - scalars.first)
        axes.set_xlim(scalars.first - room, scalars.last + room)
    return figure, axes


def _thousands(value: float, _: object) -> str:
    if abs(value) >= 1_000_000:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 10_000 else f"{value:,.0f}"


def _legend_below(figure: Figure, axes: Axes, theme: Theme) -> None:
    """A legend under the axes; one of more than two rows makes the figure taller."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(len(label) for label in labels)
    columns = max(1, min(3, int(SIZE[0] / (0.35 + 0.06 * longest)), len(labels)))
    rows = -(-len(labels) // columns)
    figure.set_figheight(SIZE[1] + LEGEND_ROW * max(0, rows - 2))
    figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, fontsize=7.5, frameon=False,
        labelcolor=theme.ink, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def _from_zero(axes: Axes) -> None:
    """Let the y axis begin at 0, with room above the highest line."""
    axes.update_datalim([(0, 0)], updatex=False)
    axes.autoscale_view(scalex=False)
    axes.set_ylim(bottom=0)


def _line(axes: Axes, line: Line, width: float, **style: str) -> None:
    steps, values = thin(line)
    axes.plot(steps, values, lw=width, marker="o" if len(steps) == 1 else "", ms=4, **style)


def _raw_and_smooth(axes: Axes, line: Line, color: str, label: str) -> None:
    steps, values = thin(line)
    if len(steps) == 1:
        axes.plot(steps, values, "o", ms=4, color=color, label=label)
        return
    axes.plot(steps, values, lw=0.8, color=color, alpha=0.3, label="_raw")
    axes.plot(steps, smooth(values), lw=2, color=color, label=label)
