"""Swimming pools: detection in aerial photographs, 512 x 512, COCO JSON, 1 class.

Layout: ``swimming_pools_aerial/dataset/{train,val}/*.jpg`` with ``_annotations.coco.json`` beside
the images. Boxes only; all ids start at 0 (see ``facemask``); 25 training and 12 validation images
hold no pool and stay as negatives.
"""

from __future__ import annotations

import os

from gppf_d2.data.registration import register_coco_json

CLASSES = {0: "piscinas"}


def register(root: str) -> None:
    """Register ``pools_{train,val}``; ``root`` is the folder that holds
    ``swimming_pools_aerial``."""
    for split in ("train", "val"):
        image_root = os.path.join(root, "swimming_pools_aerial", "dataset", split)
        json_file = os.path.join(image_root, "_annotations.coco.json")
        register_coco_json(f"pools_{split}", root, json_file, image_root, CLASSES)
