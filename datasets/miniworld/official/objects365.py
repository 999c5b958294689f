"""Objects365 v2 as unpacked: the official JSON files and the patches, with their known faults.

Training patches unpack to ``train/patchN/*.jpg``, validation patches to
``val/images/v{1,2}/patchN/*.jpg``; the JSON calls both ``images/v{1,2}/patchN/*.jpg``. One image of
the training JSON is in no patch, a few boxes leave their image and one has no area, as in the
original. Heaps are crowds; there are no masks.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .. import formats
from ..scene import CLASSES
from .world import World

# class of the miniature world -> category of Objects365
MEANING = {
    "ball": "Other Balls",
    "cone": "Traffic cone",
    "crate": "Storage box",
    "drum": "Barrel/bucket",
    "gem": "Necklace",
    "house": "Tent",
    "mushroom": "Mushroon",
    "ring": "Donut",
}
MISSING = {"height": 90, "width": 120, "id": 320532, "license": 5, "url": ""}
FIRST_V2_PATCH = 16


def write(root: Path, world: World) -> None:
    """Write the download below ``root``."""
    folder = formats.Folder(root / "objects365_v2")
    names = (Path(__file__).parent / "classes" / "objects365_v2.txt").read_text().splitlines()
    ids = {name: number for number, name in enumerate(names, start=1)}
    for split in ("train", "val"):
        rng = world.generator("objects365", split)
        images, annotations = [], []
        for index, picture in enumerate(world.scenes("objects365", split)):
            patch = int(rng.integers(0, 2 * FIRST_V2_PATCH))
            version = 1 if patch < FIRST_V2_PATCH else 2
            image_id = 400_001 + 7 * index + (900_000 if version == 2 else 0)
            name = f"patch{patch}/objects365_v{version}_{image_id:08d}.jpg"
            official = f"images/v{version}/{name}"
            folder.jpeg(f"{split}/{name if split == 'train' else official}", picture.pixels)
            height, width = picture.pixels.shape[:2]
            images.append(
                {"height": height, "width": width, "id": image_id, "license": 5}
                | {"file_name": official, "url": ""}
            )
            for seen in picture.objects:
                x0, y0, x1, y1 = (float(value) for value in seen.box)
                if x1 == width:
                    x1 += 1.5
                box = [x0 + 0.25, y0 + 0.25, x1 - x0 - 0.5, y1 - y0 - 0.5]
                category = ids[MEANING[CLASSES[seen.category]]]
                annotations.append(_annotation(image_id, category, box, int(seen.crowd)))
        if split == "train":
            file_name = "images/v1/patch6/objects365_v1_00320532.jpg"
            images.append({**MISSING, "file_name": file_name})
            annotations.append(_annotation(MISSING["id"], ids["Hat"], [5.0, 5.0, 20.0, 30.0]))
            annotations.append(_annotation(images[0]["id"], ids["Hat"], [8.0, 9.0, 12.0, 0.0]))
        # not grouped by image, as in the original
        annotations = [annotations[k] for k in rng.permutation(len(annotations))]
        for number, entry in enumerate(annotations, start=100):
            entry["id"] = number
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"name": name, "id": number} for name, number in ids.items()],
            "licenses": [{"name": "CC BY 4.0", "id": 5, "url": ""}],
        }
        file_name = f"annotations/zhiyuan_objv2_{split}.json"
        folder.write(file_name, json.dumps(content).encode())


def _annotation(image_id: int, category: int, box: list[float], crowd: int = 0) -> dict:
    return {
        "id": 0,
        "iscrowd": crowd,
        "isfake": 0,
        "area": float(np.prod(box[2:])),
        "isreflected": 0,
        "bbox": box,
        "image_id": image_id,
        "category_id": category,
    }
