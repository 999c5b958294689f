"""Where the pixels of a transformed label map come from, so that no map has to be resized.

Crops, resizes, flips and paddings treat rows and columns apart: two vectors of indices say of every
row and column of the result which one of the file it was, whatever the number of maps. They hold
what Detectron2's ``apply_segmentation`` does, nearest pixels as PIL samples them, at a fraction of
the time; padding has no source. Rotations and the like have no such vectors.

Shapes: H W of the file, H' W' of the result.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

from gppf_d2.data.window_masks import Window, tight

NONE = -1  # no source: padding
# change the image alone, or nothing
_IN_PLACE = (T.NoOpTransform, T.ColorTransform, T.PILColorTransform, T.BlendTransform)


@dataclass(frozen=True)
class PixelSources:
    """Sources of rows [H'] and columns [W'], ``NONE`` for padding."""

    rows: np.ndarray
    columns: np.ndarray

    def take(self, values: np.ndarray, fill: float) -> np.ndarray:
        """A map after the transforms.

        Args:
            values: [H, W].
            fill: value of padding.

        Returns:
            [H', W'], of the same dtype.
        """
        taken = values.take(self.rows, 0, mode="clip").take(self.columns, 1, mode="clip")
        taken[self.rows == NONE] = fill
        taken[:, self.columns == NONE] = fill
        return taken

    def window(self, window: Window) -> Window:
        """A mask after the transforms, from its own pixels alone.

        Args:
            window: on a canvas [H, W].
        """
        x, y, mask = tight(window)
        height, width = mask.shape
        # of one piece each: sources rise or fall from edge to edge, and padding lies outside
        rows = np.flatnonzero((self.rows >= y) & (self.rows < y + height))
        columns = np.flatnonzero((self.columns >= x) & (self.columns < x + width))
        if not (len(rows) and len(columns)):
            return Window(0, 0, np.zeros((0, 0), bool))
        moved = mask.take(self.rows[rows] - y, 0).take(self.columns[columns] - x, 1)
        return Window(int(columns[0]), int(rows[0]), moved)


def pixel_sources(transforms: T.Transform, size: tuple[int, int]) -> PixelSources | None:
    """The sources of the pixels that transforms make of a map.

    Args:
        transforms: what was done to an image.
        size: H, W of the map.

    Returns:
        None where a transform does not treat rows and columns apart, or is not known to.
    """
    rows, columns = np.arange(size[0]), np.arange(size[1])
    for one in _flat(transforms):
        if type(one) is T.ResizeTransform:
            assert (one.h, one.w) == (len(rows), len(columns)), "a resize of another size"
            rows, columns = rows[_nearest(one.h, one.new_h)], columns[_nearest(one.w, one.new_w)]
        elif type(one) is T.CropTransform:
            rows = rows[one.y0 : one.y0 + one.h]
            columns = columns[one.x0 : one.x0 + one.w]
        elif type(one) is T.HFlipTransform:
            columns = columns[::-1]
        elif type(one) is T.VFlipTransform:
            rows = rows[::-1]
        elif isinstance(one, T.PadTransform):
            rows = np.pad(rows, (one.y0, one.y1), constant_values=NONE)
            columns = np.pad(columns, (one.x0, one.x1), constant_values=NONE)
        elif not isinstance(one, _IN_PLACE):
            return None
    return PixelSources(rows, columns)


def _flat(transforms: T.Transform) -> Iterator[T.Transform]:
    """The transforms of a list, and of lists in it."""
    if isinstance(transforms, T.TransformList):
        for one in transforms.transforms:
            yield from _flat(one)
    else:
        yield transforms


@functools.lru_cache(maxsize=1024)
def _nearest(size: int, new_size: int) -> np.ndarray:
    """The source of each of ``new_size`` pixels, int [new_size]: PIL's own answer for one line."""
    line = Image.fromarray(np.arange(size, dtype=np.int32)[None])
    return np.asarray(line.resize((new_size, 1), Image.NEAREST))[0]
