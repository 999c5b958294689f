"""COCO 2017 as gppf_d2 and Detectron2 read it: the official archives, unpacked and verified.

    python datasets/prepare_coco.py [--root datasets] [--partial]

The download is what is read. Archives in ``coco/`` (train2017.zip, val2017.zip,
annotations_trainval2017.zip) are unpacked where their content is missing, and every image that an
annotation file names is looked for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from downloads import allow_partial, found_images, unzip
from json_stream import elements
from preparing import command, need, options

SOURCE = (
    "download train2017.zip, val2017.zip and annotations_trainval2017.zip from "
    "http://cocodataset.org/#download into it"
)


def prepare(chosen: argparse.Namespace) -> None:
    """Unpack what is missing and look for every image."""
    folder = need(chosen.root / "coco", SOURCE)
    for split in ("train", "val"):
        images, annotations = folder / f"{split}2017", folder / "annotations"
        if not images.is_dir():
            unzip(folder / f"{split}2017.zip", images, f"{split}2017", SOURCE)
        if not annotations.is_dir():
            unzip(folder / "annotations_trainval2017.zip", annotations, "annotations", SOURCE)
        verify(annotations / f"instances_{split}2017.json", images, chosen.partial)


def verify(annotations: Path, images: Path, partial: bool) -> None:
    """Look for the images of one annotation file."""
    names = (entry["file_name"] for _, entry in elements(need(annotations, SOURCE), "images"))
    count = found_images(names, images, partial)
    print(f"'{annotations}': {count:,} images in '{images}'; read as it is")


if __name__ == "__main__":
    sys.exit(command(prepare, allow_partial(options(__doc__))))
