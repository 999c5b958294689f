"""COCO 2017 as unpacked: ``coco/{train,val}2017`` and ``coco/annotations/instances_*2017.json``.

The 80 categories have COCO's own ids (1 to 90, with gaps), of which eight are used. Image ids have
gaps too. Heaps are crowds (RLE), everything else has polygons; one training image has no object.
LVIS and COCO-Stuff stand on the same images: ``pictures`` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import formats
from ..scene import CLASSES
from .world import Picture, World

# class of the miniature world -> category of COCO
MEANING = {
    "ball": "sports ball",
    "cone": "vase",
    "crate": "suitcase",
    "drum": "bowl",
    "gem": "clock",
    "house": "refrigerator",
    "mushroom": "broccoli",
    "ring": "donut",
}
FIRST_ID, ID_STEP = {"train": 9, "val": 139}, {"train": 331, "val": 957}
LICENSE = {
    "id": 1,
    "name": "Attribution License",
    "url": "http://creativecommons.org/licenses/by/2.0/",
}


def pictures(world: World, split: str) -> Iterator[tuple[int, Picture]]:
    """(image id, picture) of a split; the file is ``{split}2017/{id:012d}.jpg``."""
    for index, picture in enumerate(world.scenes("coco", split)):
        yield FIRST_ID[split] + ID_STEP[split] * index, picture


def categories() -> list[dict]:
    """COCO's categories as its JSON lists them."""
    lines = (Path(__file__).parent / "classes" / "coco.txt").read_text().splitlines()
    entries = (line.split("\t") for line in lines)
    return [{"supercategory": above, "id": int(key), "name": name} for key, above, name in entries]


def image_entry(image_id: int, split: str, picture: Picture) -> dict:
    """What COCO's and LVIS's JSON both say about an image."""
    height, width = picture.pixels.shape[:2]
    return {
        "license": LICENSE["id"],
        "coco_url": f"http://images.cocodataset.org/{split}2017/{image_id:012d}.jpg",
        "height": height,
        "width": width,
        "date_captured": "2000-01-01 00:00:00",
        "flickr_url": "",
        "id": image_id,
    }


def write(root: Path, world: World) -> None:
    """Write the download below ``root``."""
    folder = formats.Folder(root / "coco")
    listed = categories()
    ids = {entry["name"]: entry["id"] for entry in listed}
    for split in ("train", "val"):
        images, annotations = [], []
        for image_id, picture in pictures(world, split):
            name = f"{image_id:012d}.jpg"
            folder.jpeg(f"{split}2017/{name}", picture.pixels)
            images.append({"file_name": name, **image_entry(image_id, split, picture)})
            for seen in picture.objects:
                x0, y0, x1, y1 = seen.box
                outline = formats.run_lengths if seen.crowd else formats.polygons
                annotations.append(
                    {
                        "segmentation": outline(seen.mask),
                        "area": float(np.count_nonzero(seen.mask)),
                        "iscrowd": int(seen.crowd),
                        "image_id": image_id,
                        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                        "category_id": ids[MEANING[CLASSES[seen.category]]],
                        "id": 1000 * image_id + len(annotations),
                    }
                )
        content = {
            "info": {"description": "miniature in the layout of COCO 2017", "version": "1.0"},
            "licenses": [LICENSE],
            "images": images,
            "annotations": annotations,
            "categories": listed,
        }
        folder.write(f"annotations/instances_{split}2017.json", json.dumps(content).encode())
