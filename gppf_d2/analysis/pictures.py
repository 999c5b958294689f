"""Pictures as arrays: sizes in which labels can be read, rows, and grids with a title over each.

A picture is RGB uint8 [H, W, 3].
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gppf_d2.analysis.figures import LIGHT

SHORT_SIDE, LONG_SIDE = 300, 560  # pixels of a drawing: at least, at most
WIDE, WIDE_SIDE = 0.45, 1120  # height over width of pictures that are put below one another
ACROSS = 3  # titled pictures in a row
TITLE = 26  # pixels of the strip over a picture


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


def beside(*pictures: np.ndarray, gap: int = 12) -> np.ndarray:
    """Pictures in one row on white, brought to the height of the first; wide ones in one column, as
    in the paper's figure 12, brought to its width."""
    if is_wide(pictures[0]):
        turned = [np.swapaxes(picture, 0, 1) for picture in pictures]
        return np.ascontiguousarray(np.swapaxes(_in_a_row(turned, gap), 0, 1))
    return _in_a_row(pictures, gap)


def _in_a_row(pictures: Sequence[np.ndarray], gap: int) -> np.ndarray:
    height = pictures[0].shape[0]
    parts: list[np.ndarray] = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        if picture.shape[0] != height:
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        parts += [np.full((height, gap, 3), 255, np.uint8)] * bool(parts) + [picture]
    return np.concatenate(parts, axis=1)


def panels(pictures: Mapping[str, np.ndarray], gap: int = 12) -> np.ndarray:
    """Pictures on white, each under its title: up to ``ACROSS`` in a row, wide ones in one column.

    Args:
        pictures: title -> picture, the first decides on the height of all (wide ones: the width).
        gap: pixels between two pictures.
    """
    first = next(iter(pictures.values()))
    titled = [_under_title(_like(picture, first), title) for title, picture in pictures.items()]
    across = 1 if is_wide(first) else 2 if len(pictures) == 4 else ACROSS
    rows = [_in_a_row(titled[at : at + across], gap) for at in range(0, len(titled), across)]
    width = max(row.shape[1] for row in rows)
    rows = [_widen(row, width) for row in rows]
    height = sum(row.shape[0] for row in rows) + gap * (len(rows) - 1)
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        sheet[top : top + row.shape[0]] = row
        top += row.shape[0] + gap
    return sheet


def _like(picture: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A picture with the height of the first, or the width of a wide first."""
    side = 1 if is_wide(first) else 0
    factor = first.shape[side] / picture.shape[side]
    if factor == 1:
        return picture
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _widen(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def _under_title(picture: np.ndarray, title: str) -> np.ndarray:
    strip = Image.new("RGB", (picture.shape[1], TITLE), "white")
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(path, 14)
    ImageDraw.Draw(strip).text((2, TITLE - 7), title, font=font, fill=LIGHT.ink, anchor="ls")
    return np.concatenate([np.asarray(strip), picture])
