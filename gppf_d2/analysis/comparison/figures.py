"""How a run looks wherever several runs are compared, and their curves in one chart.

A run's colour and line style depend on its place alone, so they are the same in every chart and
table of a page. The first runs differ in both: lines stay apart without colour too.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gppf_d2.analysis.figures import LIGHT, LINE_STYLES, Theme, new_figure, style_axes
from gppf_d2.analysis.page import escape
from gppf_d2.analysis.training.curves import SIZE, STEPS
from gppf_d2.analysis.training.scalars import Line, smooth, thin

MOST_IN_LEGEND = 6  # runs; of more the key at the top of the page tells the names
LONGEST_NAME = 26  # characters in a legend
LEGEND_ROW = 0.16  # inches
# the four styles of figures.LINE_STYLES, in pixels of a mark
DASHES = ("", "7 3", "2 3", "7 3 2 3")


def run_styles(names: Sequence[str], theme: Theme) -> dict[str, dict[str, str]]:
    """Colour and line style of every run."""
    return {
        name: {
            "color": theme.palette[place % len(theme.palette)],
            "linestyle": LINE_STYLES[place % len(LINE_STYLES)],
        }
        for place, name in enumerate(names)
    }


def mark(place: int) -> str:
    """The line of the run at ``place``, for tables and lists; decoration, hidden from readers.

    Its colours stand in ``report.css`` as ``run-0``, ``run-1`` ...: those of the themes' palettes.
    """
    dash = DASHES[place % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<svg class="mark run-{place % len(LIGHT.palette)}" width="26" height="10" '
        f'viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5H25"{dashes}/></svg>'
    )


def heads(names: Sequence[str], shown: Container[str] | None = None) -> list[str]:
    """Headings of a table's columns, HTML: every run with its mark.

    Args:
        names: of all runs of the page.
        shown: those that have a column; None means all.
    """
    return [
        f"{mark(place)}<br>{escape(name)}"
        for place, name in enumerate(names)
        if shown is None or name in shown
    ]


def overlay(lines: Mapping[str, Line], title: str, theme: Theme = LIGHT) -> Figure:
    """The same curve of several runs: smoothed, before the faint raw values.

    Args:
        lines: by run, in the order of the page; a run without points keeps its place and colour.
        title: what is drawn.
        theme: colours.

    Raises:
        ValueError: no run has a point.
    """
    if not any(len(steps) for steps, _ in lines.values()):
        raise ValueError(f"No run has values of: {title}.")
    figure = new_figure(*SIZE, theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title=title, xlabel="iteration")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    drawn = {}
    for name, style in run_styles(list(lines), theme).items():
        steps, values = thin(lines[name])
        if len(steps):
            axes.plot(steps, values, lw=0.7, alpha=0.22, color=style["color"])
            marker = "o" if len(steps) == 1 else None
            drawn[name] = axes.plot(steps, smooth(values), lw=1.9, marker=marker, ms=4, **style)[0]
    if axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    if len(drawn) <= MOST_IN_LEGEND:
        _add_key(figure, drawn, theme)
    return figure


def _add_key(figure: Figure, drawn: Mapping[str, Line2D], theme: Theme) -> None:
    """The runs' names below the axes, in as many rows as they take."""
    labels = [_short(name) for name in drawn]
    columns = max(1, int(SIZE[0] / (0.5 + 0.065 * max(map(len, labels)))))
    rows = -(-len(labels) // columns)
    figure.set_figheight(SIZE[1] + LEGEND_ROW * rows)
    figure.legend(
        list(drawn.values()), labels, loc="outside lower left", ncols=columns, fontsize=7.5,
        frameon=False, labelcolor=theme.ink, handlelength=2.6, columnspacing=1.2,
    )  # fmt: skip


def _short(name: str) -> str:
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def mean_before(line: Line, step: int) -> float | None:
    """The mean of a curve over the tenth of the iterations that ends at ``step``; where no point
    lies there, the last one before; None where there is none.
    """
    steps, values = line
    until = steps <= step
    if not until.any():
        return None
    near = until & (steps > 0.9 * step)
    return float(np.mean(values[near] if near.any() else values[until][-1:]))


def last_common_step(lines: Mapping[str, Line]) -> int | None:
    """The last iteration that all runs with points have reached; None where no run has one."""
    return min((int(steps[-1]) for steps, _ in lines.values() if len(steps)), default=None)
