"""Pascal VOC: trainval of 2007 and 2012 to train (16,551 images), test of 2007 (4,952).

    {VOC2007,VOC2012}/{JPEGImages/*.jpg,Annotations/*.xml,ImageSets/Main/*.txt}

The folders are those of Detectron2. Objects that VOC marks as difficult are neither trained on nor
counted, as in VOC's own evaluation.
"""

from __future__ import annotations

import argparse

from .boxes_json import BoxesJson, output
from .voc_folder import add_voc_folder

FOLDER = "VOC2007"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
LISTS = {
    "train": (("VOC2007", "trainval"), ("VOC2012", "trainval")),
    "test": (("VOC2007", "test"),),
}
SOURCE = (
    "unpack VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar and VOCtrainval_11-May-2012.tar "
    "(http://host.robots.ox.ac.uk/pascal/VOC/) and move VOC2007 and VOC2012 of their VOCdevkit "
    "into the folder of the datasets"
)


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    for split, lists in LISTS.items():
        content = BoxesJson(CLASSES)
        for folder, name in lists:
            add_voc_folder(content, chosen, folder, name, SOURCE)
        content.write(output(chosen.root, "pascal_voc", split))
