"""GMU Kitchens (Georgakis et al., 3DV 2016): videos of nine kitchens, 11 products in UODB.

    gmu_kitchens/gmu_scene_00N/Images/rgb_*.png           1920 x 1080
    gmu_kitchens/gmu_scene_00N/Annotations/rgb_*.xml      in the layout of Pascal VOC

UODB's lists are no longer public; the paper counts 5k frames to train on. Here no kitchen is in
both splits: 2, 4 and 5 test, the other six train, which is one of the folds in use for this
dataset. Frames without an object stay, objects that are none of UODB's eleven are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing import need, spread

from .boxes_json import BoxesJson, output, present, read_voc_xml

FOLDER = "gmu_kitchens"
CLASSES = (
    "coca_cola_glass_bottle", "coffee_mate_french_vanilla", "honey_bunches_of_oats_honey_roasted",
    "hunts_sauce", "mahatma_rice", "nature_valley_soft_baked_oatmeal_squares_cinnamon_brown_sugar",
    "nature_valley_sweet_and_salty_nut_almond", "palmolive_orange", "pop_secret_light_butter",
    "pringles_bbq", "red_bull",
)  # fmt: skip
SCENES = {"train": (1, 3, 6, 7, 8, 9), "test": (2, 4, 5)}
SOURCE = (
    "download the nine scenes of GMU Kitchens (https://cs.gmu.edu/~robot/gmu-kitchens.html) and "
    "unpack them there, see datasets/README.md"
)


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    home = need(chosen.root / FOLDER, SOURCE)
    for split, numbers in SCENES.items():
        names = []
        for number in numbers:
            annotations = home / f"gmu_scene_{number:03d}" / "Annotations"
            if not chosen.partial:
                need(annotations, SOURCE)
            frames = sorted(path.stem for path in annotations.glob("*.xml"))
            names += [f"gmu_scene_{number:03d}/Images/{frame}.png" for frame in frames]
        content = BoxesJson(CLASSES)
        _add_frames(content, home, present(home, names, chosen.partial), chosen.workers)
        content.write(output(chosen.root, "kitchen", split))


def _add_frames(content: BoxesJson, home: Path, names: list[str], workers: int) -> None:
    places = [home / name for name in names]
    paths = [place.parents[1] / "Annotations" / f"{place.stem}.xml" for place in places]
    found = spread(read_voc_xml, paths, workers, "frames")
    for name, (width, height, boxes) in zip(names, found, strict=True):
        image_id = content.add_image(f"{FOLDER}/{name}", width, height)
        for label, *box, difficult in boxes:
            if label in CLASSES:
                content.add_box(image_id, CLASSES.index(label), *box, difficult)
            else:
                content.counts["objects of other classes left out"] += 1
