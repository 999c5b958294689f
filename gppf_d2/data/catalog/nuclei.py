"""Nuclei: instance segmentation of cell nuclei (Data Science Bowl 2018), 256 x 256, 1 class.

Layout: ``dsb2018_nuclei/stage1_train/<id>/images/<id>.png`` (RGBA) and ``<id>/masks/*.png``, one
nucleus each; ``suggested_split.json`` names the images of ``nuclei_{train,val}``. Masks become RLE,
boxes are the tight boxes of the masks; some masks overlap and stay as they are. Train with
``instance_mask_format="bitmask"``.
"""

from __future__ import annotations

import functools
import json
import os

import numpy as np
from PIL import Image

from gppf_d2.data.registration import mask_annotation, register_dataset

CLASSES = ("nucleus",)


def load(root: str, split: str) -> list[dict]:
    """Records of one split ("train" or "val"); reads every mask file.

    Raises:
        ValueError: a mask has another size than its image.
    """
    folder = os.path.join(root, "dsb2018_nuclei")
    with open(os.path.join(folder, "suggested_split.json")) as file:
        names = json.load(file)[split]
    return [_record(os.path.join(folder, "stage1_train", name), name) for name in names]


def _record(folder: str, name: str) -> dict:
    file_name = os.path.join(folder, "images", f"{name}.png")
    with Image.open(file_name) as image:
        width, height = image.size
    annotations = []
    for mask_name in sorted(os.listdir(os.path.join(folder, "masks"))):
        path = os.path.join(folder, "masks", mask_name)
        mask = np.asarray(Image.open(path).convert("L")) > 0
        if mask.shape != (height, width):
            raise ValueError(
                f"mask '{path}' is {mask.shape[1]} x {mask.shape[0]}, its image {width} x "
                f"{height}; restore the original files"
            )
        if mask.any():
            annotations.append(mask_annotation(mask, category_id=0))
    return {
        "file_name": file_name,
        "height": height,
        "width": width,
        "image_id": name,
        "annotations": annotations,
    }


def register(root: str) -> None:
    """Register ``nuclei_{train,val}``; ``root`` is the folder that holds ``dsb2018_nuclei``."""
    for split in ("train", "val"):
        register_dataset(
            f"nuclei_{split}",
            root,
            functools.partial(load, root, split),
            thing_classes=list(CLASSES),
            evaluator_type="coco",
        )
