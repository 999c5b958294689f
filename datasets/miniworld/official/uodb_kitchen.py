"""GMU Kitchens as unpacked: nine scenes of PNG frames with XML files in the layout of Pascal VOC.

Frames are numbered with gaps. One of the products that are annotated is none of UODB's eleven.
Heaps and what is hardly visible are difficult. Depth images are left out.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from ..scene import CLASSES
from .world import World

# class of the miniature world -> product
MEANING = {
    "ball": "red_bull",
    "cone": "coca_cola_glass_bottle",
    "crate": "mahatma_rice",
    "drum": "pringles_bbq",
    "gem": "coffee_mate_french_vanilla",
    "house": "palmolive_orange",
    "mushroom": "hunts_sauce",
    "ring": "softsoap_clear",
}
SCENES = {"train": (1, 3, 6, 7, 8, 9), "val": (2, 4, 5)}


def write(root: Path, world: World) -> None:
    """``gmu_kitchens``."""
    folder = formats.Folder(root / "gmu_kitchens")
    for split, scenes in SCENES.items():
        for index, picture in enumerate(world.scenes("kitchen", split)):
            scene = f"gmu_scene_{scenes[index % len(scenes)]:03d}"
            frame = f"rgb_{1 + 9 * index}"
            folder.png(f"{scene}/Images/{frame}.png", picture.pixels)
            objects = [(MEANING[CLASSES[seen.category]], seen) for seen in picture.objects]
            lines = formats.voc_xml(scene, f"{frame}.png", picture.pixels.shape, objects)
            folder.text(f"{scene}/Annotations/{frame}.xml", lines)
