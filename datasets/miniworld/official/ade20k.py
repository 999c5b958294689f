"""ADE20K-150 as ADEChallengeData2016.zip has it: images and label maps, 0 = other, classes from 1.

The twelve things of the miniature world stand for some of the 150 classes; far hills are "other".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import formats
from ..scene import STUFF
from .world import World

# value in the official maps of every entry of STUFF
VALUES = {
    "ground": 14,  # earth
    "sky": 3,
    "wall": 1,
    "ball": 120,
    "cone": 37,  # lamp
    "crate": 42,  # box
    "drum": 112,  # barrel
    "gem": 150,  # flag
    "house": 26,
    "mushroom": 18,  # plant
    "ring": 121,  # food
}


def write(root: Path, world: World) -> None:
    """``ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_*``."""
    folder = formats.Folder(root)
    table = np.zeros(256, dtype=np.uint8)
    table[: len(STUFF)] = [VALUES[name] for name in STUFF]
    for split, long in (("train", "training"), ("val", "validation")):
        for number, picture in enumerate(world.scenes("ade20k", split), start=1):
            name = f"{long}/ADE_{split}_{number:08d}"
            folder.jpeg(f"ADEChallengeData2016/images/{name}.jpg", picture.pixels)
            labels = table[picture.semantic]
            folder.png(f"ADEChallengeData2016/annotations/{name}.png", labels)
