"""LVIS v1 as gppf_d2 and Detectron2 read it: the official files over the images of COCO 2017.

    python datasets/prepare_lvis.py [--root datasets] [--partial]

The download is what is read. ``lvis/lvis_v1_{train,val}.json.zip`` are unpacked where the JSON is
missing, and every image is looked for in ``coco/{train,val}2017``: prepare COCO first.
"""

from __future__ import annotations

import argparse
import sys

from downloads import allow_partial, found_images, unzip
from json_stream import elements
from preparing import command, need, options

SOURCE = (
    "download lvis_v1_train.json.zip and lvis_v1_val.json.zip from "
    "https://www.lvisdataset.org/dataset into it"
)
IMAGES = "LVIS uses the images of COCO 2017, see datasets/prepare_coco.py"


def prepare(chosen: argparse.Namespace) -> None:
    """Unpack what is missing and look for every image."""
    folder = need(chosen.root / "lvis", SOURCE)
    images = need(chosen.root / "coco", IMAGES)
    for split in ("train", "val"):
        target = folder / f"lvis_v1_{split}.json"
        if not target.is_file():
            unzip(folder / f"{target.name}.zip", target, target.name, SOURCE)
        # the last two parts of the URL: "train2017/000000391895.jpg"
        names = (
            "/".join(entry["coco_url"].split("/")[-2:]) for _, entry in elements(target, "images")
        )
        count = found_images(names, images, chosen.partial)
        print(f"'{target}': {count:,} images in '{images}'; read as it is")


if __name__ == "__main__":
    sys.exit(command(prepare, allow_partial(options(__doc__))))
