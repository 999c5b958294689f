"""How routes were learned: a panel per layer, a line per task (GPPF Figure 11).

With two units a line is the probability of unit 1, so that tasks which part go to different sides.
With more it is the largest probability, and under the panel stands the unit that every task has at
the end; a dot marks where it last changed. The temperature, whose decay forces the choice, has the
last panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure, style_axes, task_styles
from gppf_d2.analysis.routes.tables import LearningCurves, learning_curves

COLUMNS = 6
STRIP = 0.17  # height of the final units under a panel, in units of probability


def route_curves(
    history: Sequence[Mapping[str, Any]] | LearningCurves,
    theme: Theme = LIGHT,
    tasks: Sequence[str] | None = None,
) -> Figure:
    """Selection probability of every layer over the iterations.

    Args:
        history: the objects of ``routes.jsonl`` in order, thinned out where they are many; or
            what `learning_curves` made of them.
        theme: colours.
        tasks: all tasks of the run, whose order gives their colours; None takes those of the
            history.

    Raises:
        ValueError: no entry has probabilities.
    """
    curves = history if isinstance(history, LearningCurves) else learning_curves(history)
    order = list(dict.fromkeys([*(tasks or ()), *curves.tasks]))
    styles = task_styles(order, theme)
    tasks = [task for task in order if task in curves.tasks]
    width = 1.5 if len(tasks) <= 8 else 1.1
    units = curves.num_units
    told = len(curves.temperature[0]) > 0
    figure, panels = _panels(len(curves.layers) + told, tasks, theme)
    for index, (layer, axes) in enumerate(zip(curves.layers, panels)):
        axes.set_title(layer, loc="left", color=theme.muted, fontsize=8, pad=3)
        for position, task in enumerate(tasks):
            steps, values = curves.tasks[task]
            layer_values = values[:, index]
            if units == 2:
                _line(axes, steps, layer_values[:, -1], width, styles[task])
            else:
                _line(axes, steps, layer_values.max(1), width, styles[task])
                _mark_unit(axes, steps, layer_values, styles[task]["color"], position, len(tasks))
        _scale(axes, units, theme, first=index % COLUMNS == 0)
    if told:
        _draw_temperature(panels[len(curves.layers)], curves, theme)
    _limit_iterations(panels, curves)
    handles = panels[0].lines[: len(tasks)] if units == 2 else panels[0].lines[: 2 * len(tasks) : 2]
    figure.legend(
        handles, tasks, loc="upper left", ncols=_legend_columns(tasks, figure.get_figwidth()),
        borderaxespad=0.3, frameon=False, fontsize=8.5, labelcolor=theme.ink, handlelength=1.6,
    )  # fmt: skip
    return figure


def _panels(count: int, tasks: Sequence[str], theme: Theme) -> tuple[Figure, list[Axes]]:
    """A figure with this many panels, and room for the legend above them."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    width = max(4.0, 0.5 + 1.75 * columns)
    top = 0.32 + 0.2 * -(-len(tasks) // _legend_columns(tasks, width))
    height = top + 0.3 + 1.25 * rows
    # a fixed grid: the automatic layout of so many panels takes seconds
    figure = new_figure(width, height, theme, layout=None)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 0.42 / width, bottom=0.3 / height, top=1 - top / height,
        wspace=0.16, hspace=0.36,
    )  # fmt: skip
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    panels = list(grid.flat[:count])
    for index, axes in enumerate(panels):
        style_axes(axes, theme)
        axes.tick_params(labelbottom=index + columns >= count)
    return figure, panels


def _legend_columns(tasks: Sequence[str], width: float) -> int:
    entry = 0.5 + 0.085 * max(len(task) for task in tasks)  # inches
    return max(1, min(len(tasks), int(width / entry)))


def _line(
    axes: Axes, steps: np.ndarray, values: np.ndarray, width: float, style: Mapping[str, str]
) -> None:
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, lw=width, marker=marker, ms=3, **style)


def _mark_unit(
    axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, position: int, count: int
) -> None:
    """A dot where the most probable unit [P, N] last changed, and the final one in the strip."""
    chosen = values.argmax(1)
    changes = np.flatnonzero(np.diff(chosen)) + 1
    last = changes[-1:]
    axes.plot(steps[last], values.max(1)[last], ".", ms=6, color=color)
    axes.text(
        (position + 0.5) / count, 0.03, str(chosen[-1]), ha="center", va="bottom", fontsize=7.5,
        color=color, transform=axes.transAxes,
    )  # fmt: skip


def _scale(axes: Axes, units: int, theme: Theme, first: bool) -> None:
    """Limits and ticks of the probabilities; only the first panel of a row names them."""
    if units == 2:
        axes.set_ylim(-0.05, 1.05)
        axes.set_yticks([0, 0.5, 1], ["unit 0", "½", "unit 1"] if first else ["", "", ""])
        return
    floor = 1 / units if units > 1 else 0.5
    axes.set_ylim(floor - 0.04 - STRIP * (1 - floor) * 1.5, 1.04)
    names = [f"1/{units}" if units > 1 else "½", "1"] if first else ["", ""]
    axes.set_yticks([floor, 1], names)
    axes.axhline(floor - 0.04, color=theme.grid, lw=0.8)


def _draw_temperature(axes: Axes, curves: LearningCurves, theme: Theme) -> None:
    steps, values = curves.temperature
    axes.set_title("temperature", loc="left", color=theme.ink, fontsize=8, pad=3)
    _line(axes, steps, values, 1.5, {"color": theme.ink})
    axes.yaxis.tick_right()
    if (values > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _limit_iterations(panels: Sequence[Axes], curves: LearningCurves) -> None:
    """The same iterations in all panels, few numbers under them."""
    first, last = curves.iterations
    margin = 0.03 * (last - first) or 1
    for axes in panels:
        axes.set_xlim(first - margin, last + margin)
        if first == last:
            axes.set_xticks([first])
        else:
            axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
