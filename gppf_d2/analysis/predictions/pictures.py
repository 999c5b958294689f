"""Pictures as arrays: sizes in which labels can be read, and grids with a title over each.

A picture is RGB uint8 [H, W, 3]. What its colours mean stands in a strip above or below it
(``keys``), never on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from gppf_d2.analysis.predictions.keys import Item, line_height, strip

SHORT_SIDE, LONG_SIDE = 300, 560  # pixels of a drawing: at least, at most
WIDE, WIDE_SIDE = 0.45, 1120  # height over width of pictures that are put below one another
ACROSS = 3  # titled pictures in a row
LETTERS = 14  # pixels of the letters of titles
TITLE = line_height(LETTERS)  # pixels of a title of one line


class Drawn(NamedTuple):
    """A picture, the key to its colours where they need one, and what it cannot show itself."""

    picture: np.ndarray
    key: Item | None = None
    note: str = ""

    @property
    def items(self) -> list[Item]:
        """Key and note, what there is of them."""
        return [item for item in (self.key, self.note or None) if item is not None]


def fit(image: np.ndarray) -> np.ndarray:
    """Scale an image so that its sides lie between ``SHORT_SIDE`` and ``LONG_SIDE`` where
    possible."""
    height, width = image.shape[:2]
    factor = max(1.0, SHORT_SIDE / min(height, width))
    longest = WIDE_SIDE if is_wide(image) else LONG_SIDE
    factor = min(factor, longest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return image
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC if factor < 4 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=method)


def is_wide(image: np.ndarray) -> bool:
    """Whether an image [H, W, ...] is so wide that others belong below it, not beside it."""
    return image.shape[0] < WIDE * image.shape[1]


def with_key(drawn: Drawn) -> np.ndarray:
    """A picture that stands alone: key and note are below it."""
    return np.concatenate([drawn.picture, strip(drawn.picture.shape[1], drawn.items, LETTERS)])


def panels(pictures: Mapping[str, Drawn], gap: int = 12) -> np.ndarray:
    """Pictures on white, each under its title, key and note: up to ``ACROSS`` in a row, wide ones
    in one column.

    Args:
        pictures: title -> picture, the first decides on the height of all (wide ones: the width).
        gap: pixels between two pictures.
    """
    first = next(iter(pictures.values())).picture
    across = 1 if is_wide(first) else 2 if len(pictures) == 4 else ACROSS
    titled = list(pictures.items())
    rows = [
        _titled_row(titled[at : at + across], first, gap) for at in range(0, len(titled), across)
    ]
    width = max(row.shape[1] for row in rows)
    between = np.full((gap, width, 3), 255, np.uint8)
    parts = [part for row in rows for part in (between, _padded(row, len(row), width))]
    return np.concatenate(parts[1:])


def _titled_row(titled: Sequence[tuple[str, Drawn]], first: np.ndarray, gap: int) -> np.ndarray:
    """Pictures like the first in a row, each under its title, key and note."""
    pictures = [_like(drawn.picture, first) for _, drawn in titled]
    strips = [
        strip(picture.shape[1], [title, *drawn.items], LETTERS)
        for picture, (title, drawn) in zip(pictures, titled)
    ]
    highest = max(len(one) for one in strips)
    between = np.full((highest + len(pictures[0]), gap, 3), 255, np.uint8)
    parts = []
    for above, picture in zip(strips, pictures):
        whole = np.concatenate([_padded(above, highest, above.shape[1]), picture])
        parts += [between, whole]
    return np.concatenate(parts[1:], axis=1)


def _like(picture: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A picture with the height of the first, or the width of a wide first."""
    side = 1 if is_wide(first) else 0
    factor = first.shape[side] / picture.shape[side]
    if factor == 1:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture with white below and to the right."""
    more = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, more, constant_values=255)
