"""CamVid: semantic segmentation of road scenes, 480 x 360, 11 classes and void.

Layout: ``camvid/CamVid/{train,val,test}`` and ``{train,val,test}annot`` with class indices as grey
values; ``{train,val,test}.txt`` pair them line by line under the prefix ``/SegNet/`` of the SegNet
tutorial. Value 11 is void and becomes 255 in the mapper (``sem_seg_ignore`` of the record).
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.registration import register_dataset

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
VOID = 11
PREFIX = "/SegNet/"


def load(root: str, split: str) -> list[dict]:
    """Records of one split ("train", "val" or "test") in the order of its list.

    Raises:
        ValueError: a line of the list is not a pair of paths.
    """
    folder = os.path.join(root, "camvid")
    list_file = os.path.join(folder, "CamVid", f"{split}.txt")
    with open(list_file) as file:
        lines = [line.split() for line in file if line.strip()]
    records = []
    for index, line in enumerate(lines):
        if len(line) != 2:
            raise ValueError(
                f"entry {index + 1} of '{list_file}' is {line}, expected the paths of an image "
                "and of its labels; restore the original list"
            )
        image, labels = (os.path.join(folder, path.removeprefix(PREFIX)) for path in line)
        records.append(
            {
                "file_name": image,
                "height": 360,
                "width": 480,
                "image_id": index,
                "sem_seg_file_name": labels,
                "sem_seg_ignore": [VOID],
            }
        )
    return records


def register(root: str) -> None:
    """Register ``camvid_{train,val,test}``; ``root`` is the folder that holds ``camvid``."""
    for split in ("train", "val", "test"):
        register_dataset(
            f"camvid_{split}",
            root,
            functools.partial(load, root, split),
            stuff_classes=list(CLASSES),
            ignore_label=255,
            evaluator_type="sem_seg",
        )
