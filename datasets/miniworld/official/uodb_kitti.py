"""KITTI's object detection benchmark as unpacked: PNG images, and a label file for each.

The 16 + 6 pictures have numbers whose last digit puts them into the right split. Heaps are regions
marked DontCare. There are vans, sitting persons and types that nobody detects, and one image of the
test set, which has no labels.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from ..scene import CLASSES
from ..shot import Seen
from .world import World

# class of the miniature world -> type of KITTI
MEANING = {
    "ball": "Cyclist",
    "cone": "Person_sitting",
    "crate": "Car",
    "drum": "Car",
    "gem": "Misc",
    "house": "Van",
    "mushroom": "Pedestrian",
    "ring": "Cyclist",
}


def _label(seen: Seen) -> str:
    x0, y0, x1, y1 = seen.box
    if seen.crowd:
        box = f"{x0:.2f} {y0:.2f} {x1:.2f} {y1:.2f}"
        return f"DontCare -1 -1 -10 {box} -1 -1 -1 -1000 -1000 -1000 -10"
    state = f"{0.3 * seen.truncated:.2f} {int(seen.visible < 0.95)} -1.57"
    box = f"{x0 + 0.25:.2f} {y0 + 0.25:.2f} {x1 - 0.25:.2f} {y1 - 0.25:.2f}"
    return f"{MEANING[CLASSES[seen.category]]} {state} {box} 1.50 1.60 3.90 1.80 1.50 9.40 -1.56"


def write(root: Path, world: World) -> None:
    """``kitti_object``."""
    folder = formats.Folder(root / "kitti_object")
    for split in ("train", "val"):
        for index, picture in enumerate(world.scenes("kitti_object", split)):
            number = 10 * index + 9 if split == "val" else 10 * (index // 9) + index % 9
            folder.png(f"training/image_2/{number:06d}.png", picture.pixels)
            lines = [_label(seen) for seen in picture.objects]
            folder.text(f"training/label_2/{number:06d}.txt", lines)
            if split == "val" and index == 0:
                folder.png("testing/image_2/000000.png", picture.pixels)
