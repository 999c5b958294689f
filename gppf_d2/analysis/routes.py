"""Pictures of routes: which unit every task selects in every layer (GPPF Figures 3, 10 and 11).

Input is what a run writes: ``routes.json`` = {"iteration", "temperature", "num_units", "layers": [L
names], "tasks": {task: {"probabilities": [L][N], "route": [L]}}}, and ``routes.jsonl`` with one
such object a line. L layers, N units, T tasks. An argmax of undecided probabilities is arbitrary,
so every picture shows the largest probability beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gppf_d2.analysis.figures import (
    LIGHT,
    Theme,
    new_figure,
    readable_on,
    style_axes,
    task_styles,
)

DECIDED = (
    0.9  # from this probability on, a layer's choice is called decided and its number not printed
)
STAGE_GAP = 0.3  # between the stages of the backbone, in widths of a cell
TASK_GAP = 0.55  # between tasks, in heights of a cell
WIDEST = 15.0  # inches of a heat map, however many layers


def probabilities_of(routes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Selection probabilities by task, float [L, N]; tasks whose shape does not fit are left
    out."""
    layers = len(routes.get("layers", ()))
    found = {}
    for task, entry in routes.get("tasks", {}).items():
        array = np.asarray(entry.get("probabilities", ()), dtype=float)
        if array.ndim == 2 and len(array) == layers and array.shape[1]:
            found[task] = array
    return found


def route_agreement(routes: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """How much of the backbone two tasks share.

    Returns:
        Names of the T tasks, and [T, T] the share of layers in which both select the same unit.
    """
    chosen = {task: p.argmax(1) for task, p in probabilities_of(routes).items()}
    names = list(chosen)
    matrix = np.array([[np.mean(chosen[a] == chosen[b]) for b in names] for a in names])
    return names, matrix.reshape(len(names), len(names))


def undecided_layers(routes: Mapping[str, Any]) -> dict[str, int]:
    """By task, the number of layers whose largest probability is below ``DECIDED``."""
    return {task: int((p.max(1) < DECIDED).sum()) for task, p in probabilities_of(routes).items()}


def route_heatmap(routes: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """Heat map of selection probabilities: a band of N rows per task, a column per layer.

    The most probable unit is outlined and joined to that of the next layer, so that a route reads
    from left to right; its probability is printed while it is below ``DECIDED``. After GPPF Figures
    3 and 10.

    Args:
        routes: the content of ``routes.json``.
        theme: colours.

    Raises:
        ValueError: no task has probabilities for the layers.
    """
    tables = probabilities_of(routes)
    if not tables:
        raise ValueError("The routes hold no task with probabilities for every layer.")
    layers = list(routes["layers"])
    lefts = _column_positions(layers)
    num_units = max(p.shape[1] for p in tables.values())
    across, down = lefts[-1] + 1, len(tables) * (num_units + TASK_GAP)
    margin = 0.6 + 0.085 * max(len(task) for task in tables)
    cell_width = min(0.5, (WIDEST - margin) / across)
    cell_height = 0.27 if cell_width >= 0.36 else 0.36
    figure = new_figure(margin + cell_width * across, 1.05 + cell_height * down, theme)
    axes = figure.add_subplot()
    axes.set_facecolor(theme.background)
    for index, (task, table) in enumerate(tables.items()):
        top = index * (num_units + TASK_GAP)
        _draw_band(axes, table, lefts, top, theme, rotate=cell_width < 0.36)
        axes.text(
            -0.75, top + table.shape[1] / 2, task, ha="right", va="center",
            color=theme.ink, fontsize=9.5,
        )  # fmt: skip
    _label_layers(axes, layers, lefts, down - TASK_GAP, theme)
    axes.set(xlim=(-0.7, across), ylim=(down - TASK_GAP + 0.1, -0.25), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_title(routes), loc="left", color=theme.ink, fontsize=10.5, fontweight="bold")
    _add_color_bar(figure, axes, theme)
    return figure


def _draw_band(
    axes: Axes, table: np.ndarray, lefts: Sequence[float], top: float, theme: Theme, rotate: bool
) -> None:
    colormap = theme.colormap
    for row in range(table.shape[1]):
        axes.text(
            -0.18, top + row + 0.5, str(row), ha="right", va="center", color=theme.muted, fontsize=7
        )
    chosen = table.argmax(1)
    for left, probabilities in zip(lefts, table):
        for row, p in enumerate(probabilities):
            box = Rectangle((left + 0.04, top + row + 0.05), 0.92, 0.9, color=colormap(p), lw=0)
            axes.add_patch(box)
    middles = [left + 0.5 for left in lefts]
    heights = [top + row + 0.5 for row in chosen]
    axes.plot(middles, heights, color=theme.accent, linewidth=1.1, alpha=0.55, zorder=1.5)
    for left, row, probabilities in zip(lefts, chosen, table):
        p = probabilities[row]
        box = Rectangle(
            (left + 0.04, top + row + 0.05), 0.92, 0.9,
            facecolor=colormap(p), edgecolor=theme.accent, linewidth=1.4, zorder=2,
        )  # fmt: skip
        axes.add_patch(box)
        if p < DECIDED:
            axes.text(
                left + 0.5, top + row + 0.52, f"{p:.2f}".lstrip("0"), ha="center", va="center",
                fontsize=7, color=readable_on(colormap(p)), rotation=90 if rotate else 0, zorder=3,
            )  # fmt: skip


def _column_positions(layers: Sequence[str]) -> list[float]:
    lefts, left = [], 0.0
    for index, layer in enumerate(layers):
        if index:
            left += 1 + (STAGE_GAP if _stage(layer) != _stage(layers[index - 1]) else 0)
        lefts.append(left)
    return lefts


def _stage(layer: str) -> str:
    return layer.rpartition(".")[0] or layer


def _label_layers(
    axes: Axes, layers: Sequence[str], lefts: Sequence[float], bottom: float, theme: Theme
) -> None:
    """Block numbers under the columns, the name of the stage under its first block."""
    previous = None
    for layer, left in zip(layers, lefts):
        stage, _, block = layer.rpartition(".")
        options = {"ha": "center", "va": "top", "xycoords": ("data", "data")}
        options |= {"textcoords": "offset points", "annotation_clip": False}
        if stage:
            axes.annotate(
                block, (left + 0.5, bottom), (0, -4), color=theme.muted, fontsize=7.5, **options
            )
        if _stage(layer) != previous:
            axes.annotate(
                stage or layer, (left + 0.04, bottom), (0, -16 if stage else -4),
                color=theme.ink, fontsize=8.5, **{**options, "ha": "left"},
            )  # fmt: skip
        previous = _stage(layer)


def _title(routes: Mapping[str, Any]) -> str:
    parts = ["Selection probability of every unit"]
    if isinstance(routes.get("iteration"), int):
        parts.append(f"iteration {routes['iteration']:,}")
    if isinstance(routes.get("temperature"), (int, float)):
        parts.append(f"temperature {routes['temperature']:.3g}")
    return " · ".join(parts)


def _add_color_bar(figure: Figure, axes: Axes, theme: Theme) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), theme.colormap),
        ax=axes, location="bottom", shrink=0.22, aspect=22, pad=0.01, anchor=(1.0, 0.0),
        ticks=[0, 0.5, 1],
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelsize=7.5, length=0)


def route_curves(history: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Figure:
    """Largest selection probability of every layer over the iterations, a panel per layer, a line
    per task.

    A line that stays at 1/N has not decided; one at 1 has. After GPPF Figure 11.

    Args:
        history: the objects of ``routes.jsonl`` in order.
        theme: colours.

    Raises:
        ValueError: no entry has probabilities.
    """
    usable = [entry for entry in history if probabilities_of(entry)]
    if not usable:
        raise ValueError("The history of routes holds no entry with probabilities.")
    layers = list(usable[-1]["layers"])
    tasks = list(probabilities_of(usable[-1]))
    styles = task_styles(tasks, theme)
    curves = {task: _curve(usable, task, len(layers)) for task in tasks}
    columns = min(6, len(layers))
    rows = -(-len(layers) // columns)
    width, height = max(4.0, 1.75 * columns), 0.75 + 1.25 * rows
    # a fixed grid: the automatic layout of so many panels takes seconds
    figure = new_figure(width, height, theme, layout=None)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.42 / width, right=1 - 0.15 / width, bottom=0.3 / height, top=1 - 0.62 / height,
        wspace=0.16, hspace=0.36,
    )  # fmt: skip
    floor = min(1 / max(p.shape[1] for p in probabilities_of(usable[-1]).values()), 0.5)
    for index, axes in enumerate(panels.flat):
        if index >= len(layers):
            axes.set_visible(False)
            continue
        style_axes(axes, theme)
        axes.set_title(layers[index], loc="left", color=theme.muted, fontsize=8, pad=3)
        for task in tasks:
            steps, values = curves[task]
            marker = "o" if len(steps) == 1 else None
            axes.plot(steps, values[:, index], lw=1.5, marker=marker, ms=3, **styles[task])
        axes.set_ylim(floor - 0.04, 1.04)
        axes.locator_params(axis="x", nbins=3)
    handles = [panels.flat[0].lines[index] for index in range(len(tasks))]
    figure.legend(
        handles, tasks, loc="upper left", ncols=max(1, min(len(tasks), 6)), borderaxespad=0.3,
        frameon=False, fontsize=8.5, labelcolor=theme.ink, handlelength=1.6,
    )  # fmt: skip
    return figure


def _curve(
    history: Sequence[Mapping[str, Any]], task: str, num_layers: int
) -> tuple[list[int], np.ndarray]:
    steps, values = [], []
    for entry in history:
        table = probabilities_of(entry).get(task)
        if table is not None and len(table) == num_layers:
            steps.append(entry["iteration"])
            values.append(table.max(1))
    return steps, np.asarray(values)


def agreement_figure(routes: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """Matrix of the share of layers in which two tasks select the same unit.

    Raises:
        ValueError: no task has probabilities for the layers.
    """
    names, matrix = route_agreement(routes)
    if not names:
        raise ValueError("The routes hold no task with probabilities for every layer.")
    side = 0.62 * len(names)
    longest = 0.085 * max(len(name) for name in names)
    figure = new_figure(side + longest + 0.6, side + longest + 0.4, theme)
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap=theme.colormap, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(matrix):
        color = readable_on(theme.colormap(share))
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=8.5, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90 if longest > 0.55 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color=theme.background, linewidth=2)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
