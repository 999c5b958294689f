"""DOTA v1.0 as unpacked: PNG images and lines of quadrilaterals below two lines on the image.

The first image of each split is enlarged to more than a patch and has an object that is only a
line; the second has one channel, as those of some satellites; of the fourth the resolution is not
known and the lines have no flag. Heaps are difficult, and some quadrilaterals leave their image or
cross themselves.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .. import formats
from ..scene import CLASSES
from ..shot import Seen
from .world import World

# class of the miniature world -> class of DOTA
MEANING = {
    "ball": "storage-tank",
    "cone": "helicopter",
    "crate": "large-vehicle",
    "drum": "roundabout",
    "gem": "plane",
    "house": "swimming-pool",
    "mushroom": "small-vehicle",
    "ring": "ground-track-field",
}
LARGE = 1300  # pixels, the longer side of the enlarged image at least
LARGE_AT, GREY_AT, BARE_AT = 0, 1, 3


def _line(seen: Seen, scale: int, order: tuple[int, ...]) -> str:
    """An object as DOTA's line; ``order`` of the corners of the smallest rectangle around it."""
    points = np.argwhere(seen.mask)[:, ::-1].astype(np.float32) + 0.5
    corners = cv2.boxPoints(cv2.minAreaRect(points))[list(order)] * scale
    numbers = " ".join(f"{value:.1f}" for value in corners.reshape(-1))
    return f"{numbers} {MEANING[CLASSES[seen.category]]} {int(seen.crowd)}"


def write(root: Path, world: World) -> None:
    """``dota``."""
    folder = formats.Folder(root / "dota")
    for split in ("train", "val"):
        for index, picture in enumerate(world.scenes("dota", split)):
            name = f"P{2 * index + (split == 'val'):04d}"
            pixels, scale = picture.pixels, 1
            if index == LARGE_AT:
                scale = -(-LARGE // max(pixels.shape))
                pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
            if index == GREY_AT:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
            folder.png(f"{split}/images/{name}.png", pixels)
            lines = ["imagesource:GoogleEarth", f"gsd:{0.1 + 0.01 * index:.12f}"]
            for place, seen in enumerate(picture.objects):
                crossed = place == 1
                lines.append(_line(seen, scale, (0, 2, 1, 3) if crossed else (0, 1, 2, 3)))
            if index == BARE_AT:
                lines = ["imagesource:GF", "gsd:null", *(x.rsplit(" ", 1)[0] for x in lines[2:])]
            if index == LARGE_AT:
                lines.append("5.0 5.0 25.0 5.0 25.0 5.0 5.0 5.0 bridge 0")
            folder.text(f"{split}/labelTxt/{name}.txt", lines)
