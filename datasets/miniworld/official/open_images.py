"""Open Images challenge 2019 as downloaded: CSV files of boxes and of image labels, the class tree.

All 500 classes are listed; the tree has four levels, and as in the original a class may hang in two
places and a class may name parts. Training images lie in ``train/train_<first digit>`` (as the
archives unpack), validation images in ``validation``. A heap is one box with IsGroupOf. Of the
objects of one class in an image all have boxes or, where the class is not verified, none; image
labels also verify some classes as absent. One validation image has labels but no box.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

from .. import formats
from ..scene import CLASSES
from .world import Picture, World

# class of the miniature world -> class of Open Images, one for every other picture
MEANING = {
    "ball": ("Football", "Ball"),
    "cone": ("Lighthouse", "Tower"),
    "crate": ("Box", "Filing cabinet"),
    "drum": ("Drum", "Barrel"),
    "gem": ("Crown", "Lamp"),
    "house": ("House", "Building"),
    "mushroom": ("Mushroom", "Umbrella"),
    "ring": ("Doughnut", "Bagel"),
}
ROOT_LABEL = "/m/0bl9f"
# a part of the official tree; classes that are not here hang at its root
TREE = {
    "Person": {"Man": {}, "Woman": {}, "Boy": {}, "Girl": {}},
    "Animal": {
        "Carnivore": {
            "Bear": {"Brown bear": {}, "Polar bear": {}},
            "Cat": {},
            "Dog": {},
            "Fox": {},
        },
        "Bird": {"Owl": {}, "Eagle": {}, "Duck": {}, "Swan": {}, "Penguin": {}},
        "Reptile": {"Turtle": {"Sea turtle": {}, "Tortoise": {}}, "Snake": {}, "Lizard": {}},
        "Invertebrate": {"Insect": {"Ant": {}, "Bee": {}, "Beetle": {"Ladybug": {}}}, "Snail": {}},
        "Fish": {"Goldfish": {}, "Shark": {}},
    },
    "Vehicle": {
        "Land vehicle": {
            "Car": {"Limousine": {}, "Taxi": {}, "Van": {}},
            "Bus": {},
            "Truck": {},
            "Train": {},
            "Tank": {},
        },
        "Watercraft": {"Boat": {"Canoe": {}, "Gondola": {}}, "Barge": {}},
        "Aircraft": {"Airplane": {}, "Helicopter": {}, "Rocket": {}},
    },
    "Building": {"House": {}, "Tower": {"Lighthouse": {}}, "Castle": {}, "Skyscraper": {}},
    "Ball": {"Football": {}, "Tennis ball": {}, "Golf ball": {}, "Volleyball": {}},
    "Musical instrument": {"Drum": {}, "Guitar": {}, "Violin": {}, "Flute": {}, "Piano": {}},
    "Dessert": {"Cake": {}, "Doughnut": {}, "Cookie": {}, "Ice cream": {}},
    "Furniture": {"Bed": {}, "Chair": {}, "Cabinetry": {"Filing cabinet": {}, "Cupboard": {}}},
    "Fruit": {"Apple": {}, "Banana": {}, "Tomato": {}},
    "Vegetable": {"Mushroom": {}, "Carrot": {}, "Tomato": {}},
}
PARTS = {"Person": ("Human face", "Human hand", "Human leg"), "Vehicle": ("Wheel", "Tire")}
BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf")
LABEL_COLUMNS = ("ImageID", "LabelName", "Confidence")
PREFIX = "annotations/challenge-2019-"
WITHOUT_BOX = 4  # number of a validation picture


def hierarchy(labels: dict[str, str], listed: list[str]) -> dict:
    """The official nesting of {"LabelName", "Subcategory", "Part"}.

    Args:
        labels: name -> label, of the classes of ``TREE`` and ``PARTS``.
        listed: the labels of all classes.
    """
    placed = set()

    def node(name: str, below: dict) -> dict:
        placed.add(labels[name])
        result: dict = {"LabelName": labels[name]}
        if below:
            result["Subcategory"] = [node(*entry) for entry in below.items()]
        if name in PARTS:
            result["Part"] = [{"LabelName": labels[part]} for part in PARTS[name]]
        return result

    top = [node(*entry) for entry in TREE.items()]
    top += [{"LabelName": label} for label in listed if label not in placed]
    return {"LabelName": ROOT_LABEL, "Subcategory": top}


def _csv(columns: tuple[str, ...], rows: list[tuple]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    return text.getvalue().encode()


def _boxes(image: str, index: int, picture: Picture, labels: dict[str, str]) -> list[tuple]:
    height, width = picture.pixels.shape[:2]
    rows = []
    for seen in picture.objects:
        x0, y0, x1, y1 = seen.box
        sides = (f"{value:.6f}" for value in (x0 / width, x1 / width, y0 / height, y1 / height))
        label = labels[MEANING[CLASSES[seen.category]][index % 2]]
        rows.append((image, label, *sides, int(seen.crowd)))
    return rows


def write(root: Path, world: World) -> None:
    """Write the download below ``root``."""
    folder = formats.Folder(root / "openimages_challenge_2019")
    listed = (Path(__file__).parent / "classes" / "open_images_2019.txt").read_text()
    pairs = [line.split("\t") for line in listed.splitlines()]
    # Two names stand for two classes each ("Bench"): the first one is meant here.
    labels = {name: label for label, name in reversed(pairs)}
    folder.write(
        f"{PREFIX}classes-description-500.csv",
        "".join(f"{label},{name}\n" for label, name in pairs).encode(),
    )
    tree = json.dumps(hierarchy(labels, [label for label, _ in pairs])).encode()
    folder.write(f"{PREFIX}label500-hierarchy.json", tree)
    for split, home in (("train", "train"), ("validation", "val")):
        rng = world.generator("open_images", split)
        boxes, verified = [], []
        for index, picture in enumerate(world.scenes("open_images", home)):
            image = rng.bytes(8).hex()
            shard = f"train_{image[0]}/" if split == "train" else ""
            folder.jpeg(f"{split}/{shard}{image}.jpg", picture.pixels)
            rows = _boxes(image, index, picture, labels)
            present = {row[1] for row in rows}
            if split == "validation" and index == WITHOUT_BOX:
                rows = []
            boxes += rows
            verified += [(image, label, 1) for label in sorted({row[1] for row in rows})]
            absent = {pairs[k][0] for k in rng.choice(len(pairs), 5, replace=False)}
            absent |= {labels[MEANING[name][index % 2]] for name in rng.choice(CLASSES, 3)}
            verified += [(image, label, 0) for label in sorted(absent - present)]
        # not grouped by image, as in the original
        order = rng.permutation(np.arange(len(verified)))
        folder.write(f"{PREFIX}{split}-detection-bbox.csv", _csv(BOX_COLUMNS, boxes))
        folder.write(
            f"{PREFIX}{split}-detection-human-imagelabels.csv",
            _csv(LABEL_COLUMNS, [verified[k] for k in order]),
        )
