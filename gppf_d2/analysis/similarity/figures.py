"""Heat maps of the similarity of layers, like GPPF's Figures 4 to 9.

A map has the layers of one network from left to right and those of another from bottom to top, the
input in the lower left corner; thin lines part the stages. All maps share one scale from 0 to 1 and
a perceptual colour map. In the map of a network with itself the block of layers that stands out
most is outlined, where its score is ``OUTLINED`` or more.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure
from gppf_d2.analysis.similarity.similarity import Similarity

OUTLINED = 0.1
COLOR_MAP = "magma"
PER_ROW = 5
SIDE = 1.75  # inches of a map
GAP = (0.5, 0.62)  # inches between maps, beside the names of layers: axis labels and titles
MARGIN = (0.38, 0.4, 0.62, 0.36)  # left, top, right (with the colour bar), bottom, in inches
LETTER = 0.062  # inches of a letter of a tick label
NEEDED = 0.13  # inches between two labels below one another


def similarity_figure(similarity: Similarity, theme: Theme = LIGHT) -> Figure:
    """The maps of all networks: each with itself, then every two of them.

    Args:
        similarity: what was measured.
        theme: colours.
    """
    selves = [(name, name) for name in similarity.names]
    pairs = similarity.pairs
    together = len(selves) + len(pairs) <= PER_ROW
    groups = [selves + pairs] if together else [selves, pairs]
    rows = [
        group[start : start + PER_ROW]
        for group in groups
        for start in range(0, len(group), PER_ROW)
    ]
    return _grid(similarity, rows, theme)


def pair_figure(similarity: Similarity, first: str, second: str, theme: Theme = LIGHT) -> Figure:
    """One map.

    Args:
        similarity: what was measured.
        first: the network from bottom to top.
        second: the network from left to right; the same as ``first`` for a network with itself.
        theme: colours.
    """
    return _grid(similarity, [[(first, second)]], theme)


def stages_of(layers: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of layers of one stage: (name, first, last); "res2.0" and "res2.1" are of "res2"."""
    found: list[tuple[str, int, int]] = []
    for index, layer in enumerate(layers):
        stage = (layer.rpartition(".")[0] or layer).removesuffix(".blocks")
        if found and found[-1][0] == stage:
            found[-1] = (stage, found[-1][1], index)
        else:
            found.append((stage, index, index))
    return found


def _grid(similarity: Similarity, rows: list[list[tuple[str, str]]], theme: Theme) -> Figure:
    left, top, right, bottom = MARGIN
    names = {network.layers for network in similarity.networks}
    letters = max(len(stage) for layers in names for stage, _, _ in stages_of(layers))
    below = LETTER * letters if any(map(_upright, names)) else NEEDED
    left, across = left + LETTER * letters, GAP[0] + LETTER * letters
    bottom, down = bottom + below, GAP[1] + below
    columns = max(map(len, rows))
    width = left + columns * SIDE + (columns - 1) * across + right
    height = top + len(rows) * SIDE + (len(rows) - 1) * down + bottom
    figure = new_figure(width, height, theme, layout=None)
    for row, maps in enumerate(rows):
        for column, (first, second) in enumerate(maps):
            x = (left + column * (SIDE + across)) / width
            y = 1 - (top + SIDE + row * (SIDE + down)) / height
            axes = figure.add_axes((x, y, SIDE / width, SIDE / height))
            _draw_map(axes, similarity, first, second, theme)
    bar = figure.add_axes(
        (1 - (right - 0.14) / width, 1 - (top + SIDE) / height, 0.11 / width, SIDE / height)
    )
    _draw_color_bar(bar, theme)
    return figure


def _color_map(theme: Theme) -> Colormap:
    """What has no value has the colour of the grid, which the map does not have."""
    return matplotlib.colormaps[COLOR_MAP].with_extremes(bad=theme.grid)


def _draw_map(axes: Axes, similarity: Similarity, first: str, second: str, theme: Theme) -> None:
    table = similarity.between(first, second)
    axes.imshow(
        np.ma.masked_invalid(table), origin="lower", aspect="auto", interpolation="nearest",
        cmap=_color_map(theme), vmin=0, vmax=1,
    )  # fmt: skip
    _label_stages(axes, similarity.layers_of(second), "x", theme)
    _label_stages(axes, similarity.layers_of(first), "y", theme)
    axes.tick_params(colors=theme.muted, labelsize=7.5, length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if first == second:
        block = similarity.blocks[first]
        if block.score >= OUTLINED:
            _outline(axes, block.first, block.last)
        head, below = first, f"block structure {block.score:.2f}"
    else:
        axes.set_xlabel(second, color=theme.ink, fontsize=8.5, labelpad=3)
        axes.set_ylabel(first, color=theme.ink, fontsize=8.5, labelpad=4)
        same = similarity.same_layers(first, second)
        head, below = "", "" if np.isnan(same) else f"same layer {same:.2f} on average"
    options = {"transform": axes.transAxes, "va": "bottom"}
    axes.text(0, 1.105, head, fontsize=9, fontweight="bold", color=theme.ink, **options)
    axes.text(0, 1.025, below, fontsize=7.5, color=theme.muted, **options)


def _label_stages(axes: Axes, layers: Sequence[str], side: str, theme: Theme) -> None:
    """Lines between stages; their names where there is room for them."""
    line = axes.axvline if side == "x" else axes.axhline
    for _, first, _ in stages_of(layers)[1:]:
        line(first - 0.5, color=theme.background, linewidth=0.9)
    ticks = _ticks(layers)
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_ticks([place for place, _ in ticks], [name for _, name in ticks])
    if side == "x" and _upright(layers):
        axes.tick_params(axis="x", rotation=90)


def _ticks(layers: Sequence[str]) -> list[tuple[float, str]]:
    """The middle of every stage and its name, but for those too near to the one before."""
    ticks: list[tuple[float, str]] = []
    for name, first, last in stages_of(layers):
        middle = (first + last) / 2
        if not ticks or (middle - ticks[-1][0]) * SIDE / len(layers) >= NEEDED:
            ticks.append((middle, name))
    return ticks


def _upright(layers: Sequence[str]) -> bool:
    """Whether the names of the stages are too long to stand side by side."""
    ticks = _ticks(layers)
    return any(
        (right - left) * SIDE / len(layers) < LETTER * (len(one) + len(other) + 1) / 2
        for (left, one), (right, other) in zip(ticks, ticks[1:])
    )


def _outline(axes: Axes, first: int, last: int) -> None:
    """A light frame on a dark one, seen on all colours of the map."""
    for color, width in (("black", 3.2), ("white", 1.5)):
        corner, side = (first - 0.5, first - 0.5), last - first + 1
        axes.add_patch(
            Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=width, zorder=3)
        )


def _draw_color_bar(axes: Axes, theme: Theme) -> None:
    ramp = np.linspace(0, 1, 256)[:, None]
    axes.imshow(ramp, origin="lower", aspect="auto", cmap=_color_map(theme), extent=(0, 1, 0, 1))
    axes.set_xticks([])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.yaxis.tick_right()
    axes.tick_params(colors=theme.muted, labelsize=7.5, length=0)
    axes.set_title("CKA", fontsize=7.5, color=theme.muted, pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
