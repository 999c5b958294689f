"""ADE20K-150 (SceneParsing challenge 2016): semantic segmentation, 20,210 and 2,000 images.

Layout and names are Detectron2's: ``ADEChallengeData2016/images/{training,validation}`` and
``annotations_detectron2`` beside it, which ``datasets/prepare_ade20k.py`` makes from
``annotations``: classes from 0, 255 for "other". Class names are Detectron2's.
"""

from __future__ import annotations

import functools
import os

from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES

from gppf_d2.data.registration import register_dataset


def load_pairs(image_root: str, label_root: str) -> list[dict]:
    """Records of the images of a folder with the label map of the same name, by name.

    Args:
        image_root: folder of JPEGs.
        label_root: folder of PNGs.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: an image has no label map.
    """
    images = sum(name.endswith(".jpg") for name in os.listdir(image_root))
    labels = sum(name.endswith(".png") for name in os.listdir(label_root))
    # Detectron2's reader asserts that there is something
    records = load_sem_seg(label_root, image_root) if images and labels else []
    if len(records) != images:
        raise ValueError(
            f"'{label_root}' has label maps for {len(records)} of the {images} images of "
            f"'{image_root}'; let the prepare script finish"
        )
    return [{**record, "image_id": index} for index, record in enumerate(records)]


def register(root: str) -> None:
    """Register ``ade20k_sem_seg_{train,val}``; ``root`` holds ``ADEChallengeData2016``."""
    folder = os.path.join(root, "ADEChallengeData2016")
    for split, name in (("train", "training"), ("val", "validation")):
        image_root = os.path.join(folder, "images", name)
        label_root = os.path.join(folder, "annotations_detectron2", name)
        register_dataset(
            f"ade20k_sem_seg_{split}",
            root,
            functools.partial(load_pairs, image_root, label_root),
            hint=f"run `python datasets/prepare_ade20k.py --root {root}` on the official download",
            image_root=image_root,
            sem_seg_root=label_root,
            stuff_classes=list(ADE20K_SEM_SEG_CATEGORIES),
            ignore_label=255,
            evaluator_type="sem_seg",
        )
