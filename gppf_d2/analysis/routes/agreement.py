"""Which tasks go together: how much of the backbone two tasks share, and a tree of all tasks.

The tree joins the most similar tasks first, by average linkage on 1 - agreement, and orders the
matrix, so that groups like those of GPPF Figure 3 (detection, segmentation, classification) stand
together. T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure, readable_on
from gppf_d2.analysis.routes.costs import BackboneCosts
from gppf_d2.analysis.routes.heatmap import TITLE, title_inches
from gppf_d2.analysis.routes.tables import chosen_units, route_agreement


def agreement_figure(
    routes: Mapping[str, Any],
    theme: Theme = LIGHT,
    costs: BackboneCosts | None = None,
    title: str = "",
) -> Figure:
    """Matrix of the share of layers in which two tasks select the same unit, with the tree.

    Args:
        routes: the content of ``routes.json``.
        theme: colours.
        costs: of the backbone; then the matrix shows, on and below the diagonal, the parameters
            that both routes use, coloured by their share of the smaller route.
        title: a line above it, for where no caption tells what it shows.

    Raises:
        ValueError: no task has probabilities for the layers.
    """
    names, agreement = route_agreement(routes)
    if not names:
        raise ValueError("The routes hold no task with probabilities for every layer.")
    order, branches = task_tree(agreement)
    names, agreement = [names[index] for index in order], agreement[np.ix_(order, order)]
    shares, texts = _cells(names, agreement, routes, costs)

    side = (0.62 if len(names) <= 10 else 0.52) * len(names)
    margin = 0.15 + 0.09 * max(len(name) for name in names)
    upright = margin > 0.75
    below = max(margin, 0.5) if upright else 0.5
    tree = min(2.5, 1.2 + 0.08 * len(names)) if branches else 0.0  # inches
    above = 0.3 if title else 0.0
    width, height = margin + side + tree + 0.3, side + below + 0.25 + above
    if title:
        width = max(width, 0.1 + title_inches(title))
    figure = new_figure(width, height, theme, layout=None)
    if title:
        place = 0.1 / width, 1 - 0.12 / height
        figure.text(*place, title, va="top", color=theme.ink, **TITLE)
    axes = figure.add_axes((margin / width, below / height, side / width, side / height))
    axes.imshow(shares, cmap=theme.colormap, vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        color = readable_on(theme.colormap(share))
        text = texts[row][column]
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    axes.set_xticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color=theme.background, linewidth=2)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if branches:
        beside = ((margin + side + 0.08) / width, below / height, (tree - 0.1) / width)
        _draw_tree(figure, (*beside, side / height), branches, len(names), theme)
    return figure


def task_tree(
    agreement: np.ndarray,
) -> tuple[list[int], list[tuple[list[float], list[float]]]]:
    """The tree of tasks by average linkage on 1 - agreement.

    Args:
        agreement: [T, T], symmetric, 1 on the diagonal.

    Returns:
        The order of the tasks from top to bottom, and the lines of the tree: agreements of 4
        points and their rows, where row 0 is the first task of the order. One task has no tree.
    """
    if len(agreement) < 2:
        return list(range(len(agreement))), []
    merges = linkage(squareform(1 - agreement, checks=False), "average", optimal_ordering=True)
    tree = dendrogram(merges, no_plot=True)
    branches = [
        ([1 - distance for distance in distances], [(row - 5) / 10 for row in rows])
        for distances, rows in zip(tree["dcoord"], tree["icoord"])
    ]
    return [int(leaf) for leaf in tree["leaves"]], branches


def _cells(
    names: Sequence[str],
    agreement: np.ndarray,
    routes: Mapping[str, Any],
    costs: BackboneCosts | None,
) -> tuple[np.ndarray, list[list[str]]]:
    """Colour [T, T] and text of every cell."""
    shares = agreement.copy()
    texts = [[f"{share:.0%}" for share in row] for row in agreement]
    if costs is not None:
        chosen = chosen_units(routes)
        sizes = [costs.common_parameters(chosen[name]) for name in names]
        for row, column in zip(*np.tril_indices(len(names))):
            common = costs.common_parameters(chosen[names[row]], chosen[names[column]])
            shares[row, column] = common / max(min(sizes[row], sizes[column]), 1)
            texts[row][column] = readable_count(common)
    return shares, texts


def readable_count(count: int) -> str:
    """A number of parameters in words of this size: "0", "9.4 k", "0.35 M", "11.2 M"."""
    if count < 100_000:
        return f"{count / 1e3:.1f} k" if count else "0"
    value = count / 1e6
    digits = 0 if value >= 99.95 else 1 if value >= 0.995 else 2
    return f"{value:.{digits}f} M"


def _draw_tree(
    figure: Figure,
    place: tuple[float, float, float, float],
    branches: Sequence[tuple[list[float], list[float]]],
    count: int,
    theme: Theme,
) -> None:
    axes = figure.add_axes(place)
    for agreements, rows in branches:
        axes.plot(agreements, rows, color=theme.accent, lw=1.4, solid_joinstyle="miter")
    lowest = min(0.9, *(min(agreements) for agreements, _ in branches))
    axes.set_xlim(1.0, lowest - 0.04 * (1 - lowest))
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("layers in common", color=theme.muted, fontsize=7.5)
    axes.tick_params(colors=theme.muted, labelsize=7.5, length=0)
    axes.set_facecolor(theme.background)
    axes.grid(True, axis="x", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
