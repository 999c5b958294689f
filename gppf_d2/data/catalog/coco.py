"""COCO 2017: detection and instance segmentation of 80 things, boxes, masks and crowds.

Layout, as Detectron2's: ``coco/annotations/instances_{train,val}2017.json`` and
``coco/{train,val}2017/*.jpg``. The registrations that Detectron2 makes when it is imported are
replaced, with the same metadata, so that they follow the folder of the datasets.
"""

from __future__ import annotations

import os

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from gppf_d2.data.registration import register_coco_json

THINGS = [category for category in COCO_CATEGORIES if category["isthing"]]


def register(root: str) -> None:
    """Register ``coco_2017_{train,val}``; ``root`` is the folder that holds ``coco``."""
    folder = os.path.join(root, "coco")
    for split in ("train", "val"):
        register_coco_json(
            f"coco_2017_{split}",
            root,
            os.path.join(folder, "annotations", f"instances_{split}2017.json"),
            os.path.join(folder, f"{split}2017"),
            {category["id"]: category["name"] for category in THINGS},
            hint=f"run `python datasets/prepare_coco.py --root {root}` on the official download",
            thing_colors=[category["color"] for category in THINGS],
        )
