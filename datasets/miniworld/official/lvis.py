"""LVIS v1 as unpacked: ``lvis/lvis_v1_{train,val}.json``, over the images of COCO.

All 1,203 categories are listed, eight are used. The first 13 of COCO's training images are LVIS's
training images; the other three and COCO's validation images are its validation images, so that
both folders serve the validation split, as in the original. There are no crowds in LVIS: where
COCO has a heap, its category is "not exhaustive". Some categories are verified to be absent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import formats
from ..scene import CLASSES
from . import coco
from .world import Picture, World

# class of the miniature world -> category of LVIS
MEANING = {
    "drum": "drum_(musical_instrument)",
    "gem": "gemstone",
    "house": "dollhouse",
} | {name: name for name in ("ball", "cone", "crate", "mushroom", "ring")}
TRAINING_IMAGES = 13
NEGATIVES = 6


def categories() -> list[dict]:
    """LVIS's categories: id, frequency, synset and names."""
    lines = (Path(__file__).parent / "classes" / "lvis_v1.txt").read_text().splitlines()
    result = []
    for number, line in enumerate(lines, start=1):
        frequency, synset, name, *others = line.split("\t")
        synonyms = others[0].split(",") if others else [name]
        entry = {"name": name, "def": "", "synonyms": synonyms, "synset": synset}
        result.append({**entry, "frequency": frequency, "id": number})
    return result


def _pictures(world: World, split: str) -> Iterator[tuple[str, int, Picture]]:
    train = [("train", *entry) for entry in coco.pictures(world, "train")]
    if split == "train":
        yield from train[:TRAINING_IMAGES]
    else:
        yield from train[TRAINING_IMAGES:]
        yield from (("val", *entry) for entry in coco.pictures(world, "val"))


def write(root: Path, world: World) -> None:
    """Write the download below ``root``."""
    folder = formats.Folder(root / "lvis")
    for split in ("train", "val"):
        listed = categories()
        ids = {entry["name"]: entry["id"] for entry in listed}
        used = [ids[name] for name in sorted(MEANING.values())]
        rng = world.generator("lvis", split)
        images, annotations = [], []
        seen_in = defaultdict(list)
        for home, image_id, picture in _pictures(world, split):
            vague = set()
            for seen in picture.objects:
                category = ids[MEANING[CLASSES[seen.category]]]
                seen_in[category].append(image_id)
                if seen.crowd:
                    vague.add(category)
                    continue
                annotations.append(_annotation(len(annotations) + 1, image_id, category, seen))
            present = {category for category, found in seen_in.items() if image_id in found}
            absent = [int(c) for c in rng.choice(len(listed), NEGATIVES, replace=False) + 1]
            absent = sorted({*absent, *rng.choice(used, 3).tolist()} - present)
            entry = coco.image_entry(image_id, home, picture)
            entry |= {"neg_category_ids": absent, "not_exhaustive_category_ids": sorted(vague)}
            images.append(entry)
        for entry in listed:
            found = seen_in[entry["id"]]
            entry |= {"image_count": len(set(found)), "instance_count": len(found)}
        content = {
            "info": {"description": "miniature in the layout of LVIS v1", "version": "1.0"},
            "licenses": [coco.LICENSE],
            "images": images,
            "annotations": annotations,
            "categories": listed,
        }
        folder.write(f"lvis_v1_{split}.json", json.dumps(content).encode())


def _annotation(number: int, image_id: int, category: int, seen: formats.Seen) -> dict:
    x0, y0, x1, y1 = seen.box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
        "area": float(np.count_nonzero(seen.mask)),
        "segmentation": formats.polygons(seen.mask),
    }
