"""Contact sheets: a row per image with the image, what a head says of it, and the truth.

Pictures come drawn (``drawing``), as RGB uint8 [H, W, 3]; a sheet arranges them and names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure
from gppf_d2.analysis.pictures import fit, is_wide


class SheetRow(NamedTuple):
    """One row of a contact sheet; drawings are uint8 [H, W, 3], None where there is none."""

    image: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None
    caption: str = ""


def _write_heading(figure: Figure, title: str, subtitle: str, theme: Theme) -> None:
    inch = 1 / figure.get_figheight()
    heading = {"va": "top", "fontsize": 13, "fontweight": "bold", "color": theme.ink}
    figure.text(0.012, 1 - 0.12 * inch, title, **heading)
    figure.text(0.012, 1 - 0.38 * inch, subtitle, va="top", fontsize=8.5, color=theme.muted)


def contact_sheet(
    task: str, rows: Sequence[SheetRow | tuple], subtitle: str = "", theme: Theme = LIGHT
) -> Figure:
    """A sheet with a row per image: image, prediction, truth; of wide images these three are below
    one another, two images side by side.

    Args:
        task: heading of the sheet.
        rows: what to show; at least one.
        subtitle: one line under the heading.
        theme: colours.

    Raises:
        ValueError: no row.
    """
    if not rows:
        raise ValueError(f"A contact sheet of task {task!r} needs at least one row.")
    rows = [SheetRow(*row) for row in rows]
    parts = ["image", "prediction", *["truth"] * any(row.truth is not None for row in rows)]
    aspect = max(row.image.shape[0] / row.image.shape[1] for row in rows)
    aspect = min(aspect, 0.8)  # square and upright images get as much height as a photograph
    wide = all(is_wide(row.image) for row in rows)
    across = min(len(rows), 2) if wide else len(parts)
    down = -(-len(rows) // across) * len(parts) if wide else len(rows)
    cell = 4.65 if wide else 3.1
    head = 0.62 if subtitle else 0.42
    height = head + 0.28 + down * (cell * aspect + (0.15 if wide else 0.3))
    figure = new_figure(cell * across + 0.2, height, theme)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / height), w_pad=0.03, h_pad=0.03)
    _write_heading(figure, task, subtitle, theme)
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
        axes.set_anchor("NW")
    if wide:  # [lines x parts, across] to [images, parts]
        panels = panels.reshape(-1, len(parts), across).swapaxes(1, 2).reshape(-1, len(parts))
    for number, (row, axes_row) in enumerate(zip(rows, panels)):
        for axes, name, drawn in zip(axes_row, parts, row):
            if number == 0:
                axes.set_title(name, loc="left", fontsize=9, color=theme.muted, pad=4)
            if drawn is not None:
                axes.imshow(fit(drawn), interpolation="antialiased")
        axes = axes_row[-1 if wide else 0]
        axes.text(
            0, -0.02, row.caption, transform=axes.transAxes, va="top", fontsize=7.5,
            color=theme.muted,
        )  # fmt: skip
    return figure
