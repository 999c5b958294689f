"""Face masks: detection of faces with, without and with a wrongly worn mask, COCO JSON, 3 classes.

Layout: ``facemask_detection/{train2017,val2017}`` and ``annotations/custom_{train,val}.json``.
Boxes only; category, image and annotation ids start at 0. pycocotools takes annotation 0 for "no
match", so evaluate with ``gppf_d2.evaluation.DetectionEvaluator``, which renumbers them.
"""

from __future__ import annotations

import os

from gppf_d2.data.registration import register_coco_json

CLASSES = {0: "mask_weared_incorrect", 1: "with_mask", 2: "without_mask"}


def register(root: str) -> None:
    """Register ``facemask_{train,val}``; ``root`` is the folder that holds
    ``facemask_detection``."""
    folder = os.path.join(root, "facemask_detection")
    for split in ("train", "val"):
        register_coco_json(
            f"facemask_{split}",
            root,
            os.path.join(folder, "annotations", f"custom_{split}.json"),
            os.path.join(folder, f"{split}2017"),
            CLASSES,
        )
