"""COCO-Stuff: semantic segmentation of things and stuff, 171 classes, on the images of COCO.

164k: ``coco/{train2017,val2017}`` with ``coco/stuffthingmaps_detectron2`` beside them, 118,287 and
5,000 images. 10k (v1.1): ``coco_stuff10k/{images,annotations_detectron2,imageLists}``, 9,000 and
1,000. ``datasets/prepare_coco_stuff.py`` makes both folders of labels from the official ones:
classes from 0 in the order of the 182 category ids, of which 11 things are never used; 255 is
unlabeled. The first 80 classes are COCO's things.
"""

from __future__ import annotations

import functools
import os

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from gppf_d2.data.catalog.ade20k import load_pairs
from gppf_d2.data.catalog.voc_2012_aug import load_list
from gppf_d2.data.registration import register_dataset

# category ids 92 to 182
STUFF = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage",
    "cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds",
    "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence",
    "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog",
    "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill",
    "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud",
    "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform",
    "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad",
    "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone",
    "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable",
    "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
    "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
CLASSES = (*(category["name"] for category in COCO_CATEGORIES if category["isthing"]), *STUFF)


def register(root: str) -> None:
    """Register ``coco_stuff_{164k,10k}_sem_seg_*``; ``root`` holds ``coco``, ``coco_stuff10k``."""
    coco, ten = os.path.join(root, "coco"), os.path.join(root, "coco_stuff10k")
    metadata = {
        "hint": f"run `python datasets/prepare_coco_stuff.py --root {root}` on the official "
        "download",
        "stuff_classes": list(CLASSES),
        "ignore_label": 255,
        "evaluator_type": "sem_seg",
    }
    for split in ("train", "val"):
        folders = {
            "image_root": os.path.join(coco, f"{split}2017"),
            "sem_seg_root": os.path.join(coco, "stuffthingmaps_detectron2", f"{split}2017"),
        }
        load = functools.partial(load_pairs, *folders.values())
        register_dataset(f"coco_stuff_164k_sem_seg_{split}", root, load, **metadata, **folders)
    folders = {
        "image_root": os.path.join(ten, "images"),
        "sem_seg_root": os.path.join(ten, "annotations_detectron2"),
    }
    for split in ("train", "test"):
        list_file = os.path.join(ten, "imageLists", f"{split}.txt")
        load = functools.partial(load_list, list_file, *folders.values())
        register_dataset(f"coco_stuff_10k_sem_seg_{split}", root, load, **metadata, **folders)
