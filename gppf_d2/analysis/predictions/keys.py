"""Keys to pictures: what colours mean, written small, above or below what they explain.

A ``Scale`` says which colours the values of a map get. ``strip`` writes scales, swatches and words
as a band of pixels that has as many lines as it needs, so that nothing of a picture is covered.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageFont

from gppf_d2.analysis.figures import LIGHT, Theme

UNKNOWN = (185, 190, 199)  # RGB of what is not known


class Scale(NamedTuple):
    """Colours of values: those at and beyond the two ends, words for the ends, a colour map of
    matplotlib."""

    low: float
    high: float
    words: tuple[str, str]
    colors: str

    def paint(self, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Values [...] as RGB uint8 [..., 3], ``UNKNOWN`` where ``known`` [...] is false."""
        shares = (np.where(known, values, self.low) - self.low) / (self.high - self.low)
        colors = matplotlib.colormaps[self.colors](shares.clip(0, 1), bytes=True)[..., :3]
        return np.where(known[..., None], colors, np.uint8(UNKNOWN))


class Swatch(NamedTuple):
    """A colour and what it stands for; "fill", or the "solid" or "dashed" line of a box."""

    text: str
    color: str | tuple[float, float, float]
    style: str = "fill"


# words, a scale, a swatch, a small picture RGBA uint8 [H, W, 4], or several of them close together
Item = str | Scale | Swatch | np.ndarray | tuple


@functools.lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own sans serif, ``size`` pixels high."""
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def pixels_of(color: str | tuple[float, float, float]) -> tuple[int, int, int]:
    """A colour of matplotlib as RGB in 0 to 255."""
    red, green, blue = (round(255 * channel) for channel in to_rgb(color))
    return red, green, blue


def line_height(size: int) -> int:
    """Pixels of one line of a strip whose letters are ``size`` pixels high."""
    return round(1.86 * size)


def strip(width: int, items: Sequence[Item], size: int = 14, theme: Theme = LIGHT) -> np.ndarray:
    """A band of keys, in as many lines as they need.

    Args:
        width: pixels of the band.
        items: from left to right; words that are too long are broken, what else is too wide is cut.
        size: of the letters in pixels.
        theme: colours of words and background.

    Returns:
        RGB uint8 [H, width, 3]; H = 0 without items.
    """
    lines: list[list[np.ndarray]] = []
    room = 0
    for item in items:
        for piece in (_piece(part, size, theme) for part in _broken(item, width, size)):
            if piece.shape[1] > room or not lines:
                lines.append([])
                room = width
            lines[-1].append(piece)
            room -= piece.shape[1] + size
    return np.concatenate(
        [np.empty((0, width, 3), np.uint8), *(_line(line, width, size, theme) for line in lines)]
    )


def _broken(item: Item, width: int, size: int) -> list[Item]:
    """Words that are too long for one line as several."""
    if not isinstance(item, str) or font(size).getlength(item) + 4 <= width:
        return [item]
    lines = [""]
    for word in item.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(size).getlength(longer) + 4 > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _line(pieces: Sequence[np.ndarray], width: int, gap: int, theme: Theme) -> np.ndarray:
    joined = _row(pieces, gap, theme)[:, :width]
    band = np.full((len(joined), width, 3), pixels_of(theme.background), np.uint8)
    band[:, : joined.shape[1]] = joined
    return band


def _row(pieces: Sequence[np.ndarray], gap: int, theme: Theme) -> np.ndarray:
    """Pieces in one row, each in the middle of its height."""
    height = max(len(piece) for piece in pieces)
    width = sum(piece.shape[1] for piece in pieces) + gap * (len(pieces) - 1)
    row = np.full((height, width, 3), pixels_of(theme.background), np.uint8)
    left = 0
    for piece in pieces:
        top = (height - len(piece)) // 2
        row[top : top + len(piece), left : left + piece.shape[1]] = piece
        left += piece.shape[1] + gap
    return row


def _piece(item: Item, size: int, theme: Theme) -> np.ndarray:
    if isinstance(item, tuple) and not isinstance(item, (Scale, Swatch)):
        return _row([_piece(part, size, theme) for part in item], size // 2, theme)
    if isinstance(item, np.ndarray):
        opaque = item[..., 3:] > 127
        return np.where(opaque, item[..., :3], np.uint8(pixels_of(theme.background)))
    if isinstance(item, Scale):
        colors = item.paint(np.linspace(item.low, item.high, 8 * size), np.ones(8 * size, bool))
        bar = np.repeat(colors[None], round(0.7 * size), axis=0)
        parts = [_words(item.words[0], size, theme), bar, _words(item.words[1], size, theme)]
        return _row(parts, size // 3, theme)
    if isinstance(item, Swatch):
        return _row([_swatch(item, size, theme), _words(item.text, size, theme)], size // 3, theme)
    return _words(item, size, theme)


def _words(text: str, size: int, theme: Theme) -> np.ndarray:
    canvas = Image.new(
        "RGB", (int(font(size).getlength(text)) + 4, line_height(size)), theme.background
    )
    pen = ImageDraw.Draw(canvas)
    pen.text((2, canvas.height / 2), text, font=font(size), fill=theme.ink, anchor="lm")
    return np.asarray(canvas)


def _swatch(swatch: Swatch, size: int, theme: Theme) -> np.ndarray:
    canvas = Image.new("RGB", (round(1.6 * size), size), theme.background)
    pen = ImageDraw.Draw(canvas)
    color, thick = pixels_of(swatch.color), max(2, size // 6)
    if swatch.style == "fill":
        pen.rectangle((0, 0, *canvas.size), fill=color)
        return np.asarray(canvas)
    pen.rectangle((0, 0, canvas.width - 1, canvas.height - 1), outline=color, width=thick)
    if swatch.style == "dashed":
        gap = canvas.width / 5
        for start in (gap, 3 * gap):
            pen.rectangle((start, 0, start + gap, canvas.height), fill=theme.background)
    return np.asarray(canvas)
