"""Contact sheets: a row per image with the image, what a head says of it, the truth, the errors.

Pictures come drawn (``drawing``, ``error_maps``), as RGB uint8 [H, W, 3]; a sheet arranges them,
names them, and tells once what their colours mean. Of a classifier, images lie beside their bars,
several in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import Metadata
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure
from gppf_d2.analysis.predictions.class_bars import bars_on
from gppf_d2.analysis.predictions.keys import Item, strip
from gppf_d2.analysis.predictions.pictures import fit, is_wide

PARTS = ("image", "prediction", "truth", "errors")
KEY_DPI = 200  # pixels an inch of the keys
EDGE, GAP = 0.1, 0.06  # inches around a sheet, and between its pictures
HEAD = 0.22  # inches of the names of the columns
ACROSS = 3  # classified images in a row
LONGEST, LONGEST_WIDE = 38, 60  # letters of a caption
LONGEST_ALONE = 44  # letters of the caption of a classified image on a line of its own
SHORTEST = 12  # letters of a file's name after those of its folders
BOLD = 0.66  # width of a bold letter over its size


class SheetRow(NamedTuple):
    """One row of a contact sheet; drawings are uint8 [H, W, 3], None where there is none. The
    caption stands below the image, the remark below the prediction."""

    image: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None
    caption: str = ""
    errors: np.ndarray | None = None
    remark: str = ""


class ClassCell(NamedTuple):
    """One image of a sheet of classes: uint8 [H, W, 3], probabilities [K], the true class where it
    is known, and what is written below."""

    image: np.ndarray
    scores: np.ndarray
    true_label: int | None = None
    caption: str = ""
    remark: str = ""


class _Page:
    """A sheet under its heading; its parts are placed in inches from the left and from below the
    heading.

    Args:
        width: of the sheet in inches.
        height: below the heading, in inches.
        title: the heading.
        subtitle: one line under it.
        keys: what colours mean, below both.
        theme: colours.
    """

    def __init__(
        self, width: float, height: float, title: str, subtitle: str, keys: Sequence[Item],
        theme: Theme,
    ) -> None:  # fmt: skip
        band = strip(
            round((width - 2 * EDGE) * KEY_DPI), keys, size=round(0.12 * KEY_DPI), theme=theme
        )
        self.head = (0.66 if subtitle else 0.42) + len(band) / KEY_DPI
        self.width, self.height = width, self.head + height
        self.theme = theme
        self.figure = new_figure(self.width, self.height, theme, layout=None)
        size = min(13, 72 * (width - 2 * EDGE) / (BOLD * max(len(title), 1)))
        self.write(EDGE, 0.12 - self.head, title, size, theme.ink, fontweight="bold")
        self.write(EDGE, 0.38 - self.head, subtitle, 8.5, theme.muted)
        if len(band):
            below = 0.58 - self.head
            self.picture(EDGE, below, width - 2 * EDGE, len(band) / KEY_DPI, band, "auto")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without ticks and frame."""
        bottom = self.height - self.head - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place, facecolor="none")
        axes.axis("off")
        return axes

    def picture(
        self, left: float, top: float, width: float, height: float, picture: np.ndarray,
        aspect: str = "equal",
    ) -> None:  # fmt: skip
        """A picture in the upper left corner of its place."""
        axes = self.axes(left, top, width, height)
        axes.set_anchor("NW")
        axes.imshow(picture, aspect=aspect, interpolation="antialiased")

    def write(
        self, left: float, top: float, text: str, size: float, color: str, **style: Any
    ) -> None:
        """Text whose first line is below ``top``."""
        down = 1 - (self.head + top) / self.height
        self.figure.text(
            left / self.width, down, text, va="top", fontsize=size, color=color, linespacing=1.3,
            **style,
        )  # fmt: skip


def contact_sheet(
    task: str,
    rows: Sequence[SheetRow | tuple],
    subtitle: str = "",
    theme: Theme = LIGHT,
    keys: Sequence[Item] = (),
) -> Figure:
    """A sheet with a row per image: image, prediction, truth, errors; of wide images these are
    below one another, two images side by side.

    Args:
        task: heading of the sheet.
        rows: what to show; at least one.
        subtitle: one line under the heading.
        theme: colours.
        keys: what the colours of the pictures mean (``keys.strip``).

    Raises:
        ValueError: no row.
    """
    if not rows:
        raise ValueError(f"A contact sheet of task {task!r} needs at least one row.")
    rows = [SheetRow(*row) for row in rows]
    parts = [part for part in PARTS if any(getattr(row, part) is not None for row in rows)]
    wide = all(is_wide(row.image) for row in rows)
    cell = 4.65 if wide else 2.7 if len(parts) > 3 else 3.1  # inches
    across, stacked = (min(len(rows), 2), len(parts)) if wide else (1, 1)
    # square and upright images get as much height as a photograph
    highs = [cell * min(row.image.shape[0] / row.image.shape[1], 0.8) for row in rows]
    texts = [_texts(row, wide) for row in rows]
    blocks = [
        (high + GAP) * stacked + 0.14 * max(len(text.splitlines()) for text in two) + 0.1
        for high, two in zip(highs, texts)
    ]
    lines = [max(blocks[at : at + across]) for at in range(0, len(rows), across)]
    width = (cell + GAP) * (across if wide else len(parts)) - GAP + 2 * EDGE
    page = _Page(width, HEAD + sum(lines), task, subtitle, keys, theme)
    titles = [", ".join(parts)] if wide else parts
    for place, title in enumerate(titles):
        page.write(EDGE + place * (cell + GAP), 0.02, title, 9, theme.muted)
    for number, (row, high, two) in enumerate(zip(rows, highs, texts)):
        left = EDGE + number % across * (cell + GAP)
        top = HEAD + sum(lines[: number // across])
        pictures = [getattr(row, part) for part in parts]
        _place_row(page, pictures, two, (left, top), (cell, high), wide)
    return page.figure


def _place_row(
    page: _Page,
    pictures: Sequence[np.ndarray | None],
    texts: Sequence[str],
    corner: tuple[float, float],
    size: tuple[float, float],
    wide: bool,
) -> None:
    """The pictures of one image, of ``size`` inches each, and what is written below them."""
    (left, top), (width, height) = corner, size
    across, down = (0.0, height + GAP) if wide else (width + GAP, 0.0)
    for place, picture in enumerate(pictures):
        if picture is not None:
            page.picture(left + place * across, top + place * down, width, height, fit(picture))
    below = top + (height + GAP) * (len(pictures) if wide else 1)
    for place, text in enumerate(texts):
        page.write(left + place * across, below, text, 7.5, page.theme.muted)


def _texts(row: SheetRow, wide: bool) -> tuple[str, ...]:
    """What is written below the image and below the prediction, or below a wide image."""
    if wide:
        caption = _abbreviated(row.caption, LONGEST_WIDE)
        return (" · ".join(word for word in (caption, *row.remark.splitlines()) if word),)
    folder, slash, name = row.caption.rpartition("/")
    lines = [_short_folder(folder, LONGEST) + slash] * bool(slash) + [_abbreviated(name, LONGEST)]
    return "\n".join(lines), row.remark


def _abbreviated(name: str, most: int) -> str:
    """A file name of at most ``most`` letters: its beginning and its end. Of one in folders the
    first folder stays, which tells it from others."""
    if "/" in name and len(name) > most:
        folder, _, name = name.rpartition("/")
        folder = _short_folder(folder, most - SHORTEST)
        return f"{folder}/{_abbreviated(name, max(SHORTEST, most - len(folder) - 1))}"
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def _short_folder(folder: str, most: int) -> str:
    """A path of at most about ``most`` letters: its first folder."""
    first, slash, _ = folder.partition("/")
    return folder if len(folder) <= most else first + "/…" * bool(slash)


def class_sheet(
    task: str,
    cells: Sequence[ClassCell],
    metadata: Metadata,
    subtitle: str = "",
    theme: Theme = LIGHT,
) -> Figure:
    """A sheet of a classifier: every image beside the bars of its most probable classes.

    Args:
        task: heading of the sheet.
        cells: what to show; at least one.
        metadata: names of the classes.
        subtitle: one line under the heading.
        theme: colours.

    Raises:
        ValueError: no cell.
    """
    if not cells:
        raise ValueError(f"A contact sheet of task {task!r} needs at least one image.")
    across = min(ACROSS, len(cells))
    wide, high, picture = 3.65, 1.9, 1.55  # inches of a cell, and of the square for its image
    in_folders = any("/" in cell.caption for cell in cells)  # such captions get their own line
    high += 0.14 * in_folders
    down = -(-len(cells) // across)
    page = _Page(wide * across + EDGE, high * down, task, subtitle, (), theme)
    for number, cell in enumerate(cells):
        left, top = EDGE + number % across * wide, number // across * high + 0.05
        page.picture(left, top, picture, picture, fit(cell.image))
        bars = page.axes(left + picture + 0.12, top, wide - picture - 0.3, picture)
        bars_on(bars, cell.scores, metadata, cell.true_label, theme, size=7)
        caption = _abbreviated(cell.caption, LONGEST_ALONE if in_folders else 28)
        words = ("\n" if in_folders else " · ").join(one for one in (caption, cell.remark) if one)
        page.write(left, top + picture + 0.05, words, 7, theme.muted)
    return page.figure
