"""Heat map of routes: which unit every task selects in every layer (GPPF Figures 3 and 10).

L layers, N units, T tasks. An argmax of undecided probabilities is arbitrary, so the map tells how
sure the choice is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure, readable_on
from gppf_d2.analysis.routes.tables import SURE, probabilities_of

STAGE_GAP = 0.3  # between the stages of the backbone, in widths of a cell
TASK_GAP = 0.55  # between tasks, in heights of a cell
WIDEST = 15.0  # inches of a heat map, however many layers
TITLE = {"fontsize": 10.5, "fontweight": "bold"}


def route_heatmap(routes: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """Heat map of selection probabilities: a band of N rows per task, a column per layer.

    The most probable unit is outlined and joined to that of the next layer, so that a route reads
    from left to right; its probability is printed while it is below ``SURE``. After GPPF Figures
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
    title = title_of(routes, "Selection probability of every unit")
    shown = max(across, title_inches(title) / cell_width)  # columns that the title is as wide as
    figure = new_figure(margin + cell_width * shown, 1.05 + cell_height * down, theme)
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
    axes.set(xlim=(-0.7, shown), ylim=(down - TASK_GAP + 0.1, -0.25), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, loc="left", color=theme.ink, **TITLE)
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
        if p < SURE:
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


def title_of(routes: Mapping[str, Any], what: str) -> str:
    """What a picture shows, and of which iteration and temperature, where they are known."""
    parts = [what]
    if isinstance(routes.get("iteration"), int):
        parts.append(f"iteration {routes['iteration']:,}")
    if isinstance(routes.get("temperature"), (int, float)):
        parts.append(f"temperature {routes['temperature']:.3g}")
    return " · ".join(parts)


def title_inches(title: str) -> float:
    """How wide a title of the pictures of routes is, with room behind it (letters that are fitted
    to pixels are a little wider)."""
    style = FontProperties(size=TITLE["fontsize"], weight=TITLE["fontweight"])
    return TextPath((0, 0), title, prop=style).get_extents().width / 72 * 1.03 + 0.2


def _add_color_bar(figure: Figure, axes: Axes, theme: Theme) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), theme.colormap),
        ax=axes, location="bottom", shrink=0.22, aspect=22, pad=0.01, anchor=(1.0, 0.0),
        ticks=[0, 0.5, 1],
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelsize=7.5, length=0)
