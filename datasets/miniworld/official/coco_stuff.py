"""COCO-Stuff as unpacked: 164k on the images of ``coco`` (PNGs), 10k with its own (.mat, lists).

164k: ``coco/stuffthingmaps/{train,val}2017/*.png``, category id minus 1, 255 = unlabeled. 10k:
``coco_stuff10k/{images,annotations,imageLists}``, category ids in ``S``, 0 = unlabeled. Far hills
are unlabeled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import formats
from ..scene import STUFF
from . import coco
from .world import Picture, World

STUFF_IDS = {"ground": 126, "sky": 157, "wall": 173}  # ground-other, sky-other, wall-other


def category_ids(picture: Picture) -> np.ndarray:
    """COCO-Stuff's category id of every pixel uint8 [H, W], 0 = unlabeled."""
    things = {category["name"]: category["id"] for category in coco.categories()}
    table = np.zeros(256, dtype=np.uint8)
    table[: len(STUFF)] = [
        STUFF_IDS[name] if name in STUFF_IDS else things[coco.MEANING[name]] for name in STUFF
    ]
    return table[picture.semantic]


def _write_10k(folder: formats.Folder, name: str, picture: Picture) -> None:
    folder.jpeg(f"coco_stuff10k/images/{name}.jpg", picture.pixels)
    ids = category_ids(picture)
    # the annotators' superpixels: here one per category
    regions = np.unique(ids, return_inverse=True)
    content = {
        "S": ids,
        "captions": np.array([["a toy world"]], dtype=object),
        "regionMapStuff": regions[1].reshape(ids.shape).astype(np.uint16) + 1,
        "regionLabelsStuff": regions[0].astype(np.uint16)[:, None],
    }
    folder.mat(f"coco_stuff10k/annotations/{name}.mat", content)


def write(root: Path, world: World) -> None:
    """Label maps for both splits of ``coco``, and the whole of 10k."""
    folder = formats.Folder(root)
    for split in ("train", "val"):
        for image_id, picture in coco.pictures(world, split):
            labels = category_ids(picture) - np.uint8(1)  # 0 becomes 255
            folder.png(f"coco/stuffthingmaps/{split}2017/{image_id:012d}.png", labels)
    names: list[str] = []
    for split, listed in (("train", "train"), ("val", "test")):
        own = []
        for index, picture in enumerate(world.scenes("coco_stuff10k", split)):
            own.append(f"COCO_train2014_{(81 if split == 'train' else 500_077) + 13 * index:012d}")
            _write_10k(folder, own[-1], picture)
        folder.text(f"coco_stuff10k/imageLists/{listed}.txt", own)
        names += own
    folder.text("coco_stuff10k/imageLists/all.txt", names)
