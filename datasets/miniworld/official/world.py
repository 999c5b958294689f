"""The pictures that all official miniatures share: few scenes, rendered once, seen in many ways.

Rendering is what costs time, so there are 16 + 6 base scenes, and every dataset gets its own views
of them: mirrored, cropped and resized to sides of 64 to 160 pixels, masks and labels alike. A view
is a function of (seed, dataset, split, index): a module may ask for another dataset's pictures
(LVIS asks for COCO's) and gets the same ones. Of the training scenes one has no object; in both
splits one has a heap, which is a crowd.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from ..build import Settings, generator
from ..scene import CLASSES
from ..shot import Seen, Shot, shoot

COUNTS = {"train": 16, "val": 6}
SIZE = (160, 120)  # width and height of a base scene
STYLES = (("street", "photo"), ("street", "poster"), ("aerial", "photo"), ("street", "drawing"))
PILE_AT, EMPTY_AT = 2, 5
SIDES = (64, 160)
LEAST_PIXELS = 12


@dataclasses.dataclass
class Picture:
    """A picture uint8 [H, W, 3] (RGB) with its objects and its class map.

    ``objects`` are ``miniworld.shot.Seen`` (``category`` in the order of
    ``miniworld.scene.CLASSES``, ``mask`` bool [H, W], ``box`` x0 y0 x1 y1, ``crowd``); ``semantic``
    uint8 [H, W] holds indices into ``miniworld.scene.STUFF``, 255 for what has none; ``depth``
    [H, W] is in metres along the optical axis, 0 for the sky, ``focal`` in pixels; ``normal``
    [H, W, 3] has unit length, x right, y up, z to the viewer, 0 for the sky.
    """

    pixels: np.ndarray
    objects: list[Seen]
    semantic: np.ndarray
    depth: np.ndarray
    focal: float
    normal: np.ndarray


class World:
    """Pictures for the official miniatures; ``seed`` makes another world."""

    def __init__(self, seed: int = 0) -> None:
        self.settings = Settings(seed=seed)
        self._shots: dict[tuple[str, int], Shot] = {}

    def generator(self, *key: str | int) -> np.random.Generator:
        """Random generator of one purpose, for whatever else a module draws."""
        return generator(self.settings, "official", *key)

    def _base(self, split: str, index: int) -> Shot:
        if (split, index) in self._shots:
            return self._shots[split, index]
        rng = self.generator("base", split, index)
        view, style = STYLES[index % len(STYLES)]
        count = int(rng.integers(2, 6))
        shapes = [str(name) for name in rng.permutation(CLASSES)[:count]]
        empty = split == "train" and index == EMPTY_AT
        shot = shoot(rng, view, style, SIZE, [] if empty else shapes, index == PILE_AT)
        self._shots[split, index] = shot
        return shot

    def scenes(self, dataset: str, split: str) -> Iterator[Picture]:
        """The pictures of a dataset's split: 16 for "train", 6 for "val".

        Args:
            dataset: any name; the same name gives the same pictures.
            split: "train" or "val".
        """
        for index in range(COUNTS[split]):
            yield _view(self._base(split, index), self.generator(dataset, split, index))

    def crops(self, dataset: str, split: str, side: int = 64) -> Iterator[tuple[int, np.ndarray]]:
        """(class in the order of ``miniworld.scene.CLASSES``, uint8 [side, side, 3]) of every
        object of a dataset's split, with some of its surroundings; heaps are left out."""
        for picture in self.scenes(dataset, split):
            height, width = picture.pixels.shape[:2]
            for seen in picture.objects:
                if seen.crowd:
                    continue
                x0, y0, x1, y1 = seen.box
                reach = max(x1 - x0, y1 - y0) * 0.65
                x, y = (x0 + x1) / 2, (y0 + y1) / 2
                left, right = max(int(x - reach), 0), min(int(x + reach) + 1, width)
                top, low = max(int(y - reach), 0), min(int(y + reach) + 1, height)
                cut = picture.pixels[top:low, left:right]
                yield seen.category, cv2.resize(cut, (side, side), interpolation=cv2.INTER_LINEAR)


def _view(shot: Shot, rng: np.random.Generator) -> Picture:
    height, width = shot.picture.shape[:2]
    flip = bool(rng.integers(2))
    wide, tall = (int(round(rng.uniform(0.75, 1) * side)) for side in (width, height))
    x, y = int(rng.integers(width - wide + 1)), int(rng.integers(height - tall + 1))
    least = SIDES[0] / min(wide, tall)
    scale = rng.uniform(least, max(SIDES[1] / max(wide, tall), least))
    size = tuple(min(max(round(side * scale), SIDES[0]), SIDES[1]) for side in (wide, tall))

    def cut(values: np.ndarray, interpolation: int) -> np.ndarray:
        values = values[y : y + tall, x : x + wide]
        values = values[:, ::-1] if flip else values
        return cv2.resize(np.ascontiguousarray(values), size, interpolation=interpolation)

    objects = []
    for seen in shot.objects:
        mask = cut(seen.mask.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)
        if np.count_nonzero(mask) < LEAST_PIXELS:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        objects.append(dataclasses.replace(seen, mask=mask, box=box))
    return Picture(
        cut(shot.picture, cv2.INTER_AREA),
        objects,
        cut(shot.semantic, cv2.INTER_NEAREST),
        cut(shot.truth.depth, cv2.INTER_NEAREST),
        shot.focal * size[0] / wide,
        cut(shot.truth.normal, cv2.INTER_NEAREST) * np.array([-1 if flip else 1, 1, 1]),
    )
