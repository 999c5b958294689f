"""LVIS v1: instance segmentation of 1,203 classes in the images of COCO 2017.

Layout, as Detectron2's: ``lvis/lvis_v1_{train,val}.json``. The images lie in
``coco/{train,val}2017``; which of the two, says the URL of each (three in four of LVIS's validation
images are in COCO's training folder). Records say "neg_category_ids" (verified to be absent) and
"not_exhaustive_category_ids" (present, but not every object has a mask), as contiguous ids, where
Detectron2's own loader leaves them as they are in the file. ``class_image_count`` of the metadata
is what losses for rare classes need.
"""

from __future__ import annotations

import os

from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

from gppf_d2.data.registration import register_coco_json


def register(root: str) -> None:
    """Register ``lvis_v1_{train,val}``; ``root`` is the folder that holds ``lvis`` and ``coco``."""
    for split in ("train", "val"):
        register_coco_json(
            f"lvis_v1_{split}",
            root,
            os.path.join(root, "lvis", f"lvis_v1_{split}.json"),
            os.path.join(root, "coco", ""),  # as Detectron2 has it: its loader appends to it
            {category["id"]: category["synonyms"][0] for category in LVIS_CATEGORIES},
            hint=f"run `python datasets/prepare_lvis.py --root {root}` on the official download",
            category_lists=("neg_category_ids", "not_exhaustive_category_ids"),
            file_name_key="coco_url",
            class_image_count=LVIS_CATEGORY_IMAGE_COUNT,
            evaluator_type="lvis",
        )
