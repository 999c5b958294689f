"""One draw of large-scale jitter, and what it does to an image, polygons, bit masks and boxes.

Detectron2's three augmentations (``ResizeScale``, ``FixedSizeCrop``, ``RandomFlip``) are one map
from the file's pixels to a square canvas: scale, cut a window out, mirror. Once it is drawn, only
what lands on the canvas is worth computing, straight to where it belongs.

Shapes: H W of the file, S of the canvas's side, N boxes. Coordinates are (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image
from torch import Tensor

from gppf_d2.data.window_masks import Window, tight

# what Detectron2's FixedSizeCrop fills an image up with
PADDING = 128
NOTHING = Window(0, 0, np.zeros((0, 0), np.bool_))


@dataclass(frozen=True)
class Jitter:
    """Scale, window and flip for one image.

    Args:
        source: (H, W) of the file.
        resized: (height, width) of the whole image after scaling.
        corner: (y, x) in the scaled image that comes to lie in the canvas's upper left.
        flip: whether the canvas, padding included, is mirrored at the end.
        size: side S of the canvas.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    flip: bool
    size: int

    @classmethod
    def draw(
        cls, source: tuple[int, int], size: int, scale: tuple[float, float], flip: float
    ) -> Jitter:
        """Draw from numpy's global generator what Detectron2's augmentations draw, in their order.

        Args:
            source: (H, W) of the file.
            size: side S of the canvas.
            scale: range of the factor between the canvas and the box that the image is fitted into.
            flip: probability of a horizontal flip.
        """
        fitted = size * np.random.uniform(*scale)
        factor = min(fitted / source[0], fitted / source[1])
        resized = np.maximum(np.round(np.multiply(source, factor)), 1).astype(int)
        # one number for both axes: the window moves along the diagonal
        excess = np.maximum(resized - size, 0)
        corner = np.round(excess * np.random.uniform(0.0, 1.0)).astype(int)
        flipped = np.random.uniform(0.0, 1.0) < flip
        return cls(source, tuple(resized.tolist()), tuple(corner.tolist()), bool(flipped), size)

    @property
    def visible(self) -> tuple[int, int]:
        """(height, width) of the canvas that the image covers."""
        return tuple(min(r - c, self.size) for r, c in zip(self.resized, self.corner))

    def image(self, image: Image.Image, resize: str, reverse_channels: bool = False) -> Tensor:
        """The canvas of an image.

        Args:
            image: of the size H W and mode "RGB".
            resize: "pil" or "cv2", see ``LargeScaleJitterMapper``.
            reverse_channels: hand out the three channels in the opposite order.

        Returns:
            uint8 [3, S, S], ``PADDING`` where there is no image.
        """
        height, width = self.visible
        left = self.size - width if self.flip else 0
        canvas = torch.empty((3, self.size, self.size), dtype=torch.uint8)
        planes = list(canvas.numpy()[:, :height, left : left + width])
        cv2.split(self._resize(image, resize), planes[::-1] if reverse_channels else planes)
        if self.flip:
            for plane in planes:
                cv2.flip(plane, 1, plane)
        canvas[:, height:] = PADDING
        canvas[:, :height, :left] = PADDING
        canvas[:, :height, left + width :] = PADDING
        return canvas

    def _resize(self, image: Image.Image, resize: str) -> np.ndarray:
        """The visible part of the scaled image, [height, width, 3]."""
        (h, w), (y, x) = self.visible, self.corner
        scaled_h, scaled_w = self.resized
        enlarged = scaled_h >= self.source[0] and scaled_w >= self.source[1]
        # cv2's whole image is faster than any way to a part of it, up to a few canvases
        if resize == "cv2" and enlarged and scaled_h * scaled_w <= 4 * self.size**2:
            whole = cv2.resize(
                np.asarray(image), (scaled_w, scaled_h), interpolation=cv2.INTER_LINEAR
            )
            return whole[y : y + h, x : x + w]
        step_y, step_x = self.source[0] / scaled_h, self.source[1] / scaled_w
        right = min((x + w) * step_x, self.source[1])
        lower = min((y + h) * step_y, self.source[0])
        box = (x * step_x, y * step_y, right, lower)
        return np.asarray(image.resize((w, h), Image.Resampling.BILINEAR, box=box))

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes on the canvas, cut off at its edges.

        Args:
            boxes: float [N, 4], x0 y0 x1 y1 in the file.

        Returns:
            float [N, 4]; those that are outside have no area.
        """
        corners = self._points(boxes.reshape(-1, 2))
        if self.flip:
            corners[:, 0] = self.size - corners[:, 0]
        corners = corners.reshape(-1, 2, 2)
        corners = np.concatenate([corners.min(1), corners.max(1)], axis=1)
        return corners.clip(0, self.size)

    def polygons(self, polygons: Sequence[Sequence[float]]) -> Window:
        """The union of polygons on the canvas, rasterised in the window that they occupy.

        COCO's rasteriser works on a grid of fifths of a pixel, so that moving the origin by whole
        pixels changes nothing.

        Args:
            polygons: each x0 y0 x1 y1 ... in the file.
        """
        shapes = []
        for polygon in polygons:
            points = self._points(np.asarray(polygon, dtype=np.float64).reshape(-1, 2))
            points = clip_polygon(points, self.size)
            if len(points) < 3:
                continue
            if self.flip:
                points[:, 0] = self.size - points[:, 0]
            shapes.append(points)
        if not shapes:
            return NOTHING
        every = np.concatenate(shapes)
        x0, y0 = np.floor(every.min(0)).astype(int).tolist()
        x1, y1 = np.ceil(every.max(0)).astype(int).tolist()
        flat = [(points - (x0, y0)).ravel() for points in shapes]
        rles = mask_util.frPyObjects(flat, y1 - y0, x1 - x0)
        rle = rles[0] if len(rles) == 1 else mask_util.merge(rles)
        return Window(x0, y0, mask_util.decode(rle))

    def bitmask(self, mask: np.ndarray) -> Window:
        """A mask of the file on the canvas, each pixel the nearest one of the file.

        Args:
            mask: bool or 0/1 uint8 [H, W].
        """
        x, y, small = tight(Window(0, 0, mask))
        first_y, rows = self._nearest(0, y, small.shape[0])
        first_x, columns = self._nearest(1, x, small.shape[1])
        if not (len(rows) and len(columns)):
            return NOTHING
        small = small.take(rows, axis=0).take(columns, axis=1)
        if self.flip:
            return Window(self.size - first_x - len(columns), first_y, small[:, ::-1])
        return Window(first_x, first_y, small)

    def _nearest(self, axis: int, first: int, count: int) -> tuple[int, np.ndarray]:
        """Where ``count`` lines of the file from ``first`` on land: first line, source of each."""
        # PIL itself says which line of the file it takes: at ties that is a matter of its rounding
        lines = Image.fromarray(np.arange(self.source[axis], dtype=np.int32)[None])
        lines = lines.resize((self.resized[axis], 1), Image.Resampling.NEAREST)
        begin = self.corner[axis]
        source = np.asarray(lines)[0, begin : begin + self.visible[axis]] - first
        inside = np.flatnonzero((source >= 0) & (source < count))
        return (int(inside[0]) if len(inside) else 0), source[inside]

    def _points(self, points: np.ndarray) -> np.ndarray:
        """Points (x, y) of the file on the canvas before the flip, [N, 2]."""
        scale = (self.resized[1] / self.source[1], self.resized[0] / self.source[0])
        return points * scale - self.corner[::-1]


def clip_polygon(points: np.ndarray, size: int) -> np.ndarray:
    """The part of a polygon inside a square, by Sutherland and Hodgman.

    Args:
        points: float [N, 2].
        size: side of the square, whose upper left corner is the origin.

    Returns:
        float [M, 2], M = 0 where nothing is inside; parts that were cut asunder stay joined by
        edges along the square's side, which enclose no pixel.
    """
    for axis in (0, 1):
        for limit, sign in ((0.0, 1.0), (float(size), -1.0)):
            depth = sign * (points[:, axis] - limit)
            inside = depth >= 0
            if inside.all():
                continue
            if not inside.any():
                return points[:0]
            following, next_depth = np.roll(points, -1, axis=0), np.roll(depth, -1)
            crossing = inside != (next_depth >= 0)
            share = np.divide(depth, depth - next_depth, out=np.zeros_like(depth), where=crossing)
            cut = points + (following - points) * share[:, None]
            cut[:, axis] = limit
            keep = np.stack([inside, crossing], axis=1)
            points = np.stack([points, cut], axis=1)[keep]
    return points
