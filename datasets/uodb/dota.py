"""DOTA v1.0: aerial images, 15 classes, cut into patches; the official val set is the test set.

    dota/{train,val}/images/*.png         1,411 and 458 images, from 800 pixels up to many thousand
    dota/{train,val}/labelTxt/*.txt       or labelTxt-v1.0, or labelTxt-v1.0/labelTxt
    uodb/dota/{train,val}/*.jpg           made: the patches, those without objects too

UODB's patches are no longer public, and nothing says how they were cut; the paper counts 14k to
train on. Here it is as DOTA's development kit cuts by default: 1024 x 1024 pixels that overlap by
100, the last of a row or column moved back into the image; smaller images stay as they are.

An object is a quadrilateral; its box is the upright one around the part of it that is in the patch.
An object with 70 % or less of its area (of what is inside the image) in a patch is difficult there,
as are those that DOTA calls difficult. Parts thinner than a pixel are left out, and so are objects
with an area of less than one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from downloads import judge_missing
from preparing import need, read_text, spread, up_to_date

from .boxes_json import BoxesJson, image_size, output
from .pictures import read_pixels, write_picture

FOLDER = "dota"
CLASSES = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle",
    "ship", "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout",
    "harbor", "swimming-pool", "helicopter",
)  # fmt: skip
SOURCE = (
    "download train and val of DOTA v1.0 (https://captain-whu.github.io/DOTA/dataset.html) and "
    "unpack their images and labels there, see datasets/README.md"
)
LABELS = ("labelTxt", "labelTxt-v1.0/labelTxt", "labelTxt-v1.0")
SIDE, OVERLAP = 1024, 100
LEAST_SHARE = 0.7
LEAST = 1.0  # pixels, of a side of a part and of the area of an object

Window = tuple[int, int, int, int]


class Quad(NamedTuple):
    """An object: class index, corners float [4, 2] (x, y) in pixels in cyclic order, difficult."""

    category: int
    corners: np.ndarray
    difficult: bool


class Patch(NamedTuple):
    """A patch: name of its file, width, height, (class index, box x0 y0 x1 y1, difficult)."""

    name: str
    width: int
    height: int
    boxes: list[tuple[int, tuple[float, float, float, float], bool]]


def prepare(chosen: argparse.Namespace) -> None:
    """Cut the images of both splits and write both JSON files."""
    folder = need(chosen.root / FOLDER, SOURCE)
    for split, name in (("train", "train"), ("val", "test")):
        images, labels = need(folder / split / "images", SOURCE), label_folder(folder / split)
        pictured = {path.stem for path in images.glob("*.png")}
        labelled = {path.stem for path in labels.glob("*.txt")}
        for lacking, where, ending in (
            (labelled - pictured, images, "png"),
            (pictured - labelled, labels, "txt"),
        ):
            missing = sorted(f"{stem}.{ending}" for stem in lacking)
            judge_missing(missing, len(pictured | labelled), where, chosen.partial)
        target = chosen.root / "uodb" / "dota" / split
        jobs = [
            (images / f"{stem}.png", labels / f"{stem}.txt", target)
            for stem in sorted(pictured & labelled)
        ]
        content = BoxesJson(CLASSES)
        for patches in spread(cut, jobs, chosen.workers, f"patches of {split}"):
            for patch in patches:
                path = f"uodb/dota/{split}/{patch.name}"
                number = content.add_image(path, patch.width, patch.height)
                for category, box, difficult in patch.boxes:
                    content.add_box(number, category, *box, difficult)
        content.write(output(chosen.root, "dota", name))


def label_folder(split: Path) -> Path:
    """The folder of a split's annotations, which archives unpack to different places."""
    found = [split / name for name in LABELS if any((split / name).glob("*.txt"))]
    return found[0] if found else need(split / LABELS[0], SOURCE)


def read_labels(path: Path) -> list[Quad]:
    """The objects of an annotation file; those smaller than a pixel are left out.

    A line has eight coordinates, the class and the flag "difficult" (which may be missing). Lines
    on the source of the image and its resolution come first.

    Raises:
        ValueError: a line is something else, or the class is none of DOTA v1.0.
    """
    objects = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith(("imagesource:", "gsd:")):
            continue
        try:
            corners = np.array(words[:8], dtype=float).reshape(4, 2)
            name, difficult = words[8], int(words[9]) if len(words) > 9 else 0
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"line {number} of '{path}' is no object of DOTA ({error}); restore the original"
            ) from error
        if name not in CLASSES:
            raise ValueError(
                f"'{path}' has the class '{name}', DOTA v1.0 has {', '.join(CLASSES)}; take the "
                "annotations of version 1.0"
            )
        # Some quadrilaterals cross themselves: around the centre they do not.
        x, y = (corners - corners.mean(0)).T
        corners = corners[np.argsort(np.arctan2(y, x))]
        if area(corners) >= LEAST:
            objects.append(Quad(CLASSES.index(name), corners, bool(difficult)))
    return objects


def starts(length: int) -> list[int]:
    """Where patches begin along a side of ``length`` pixels."""
    if length <= SIDE:
        return [0]
    return [*range(0, length - SIDE, SIDE - OVERLAP), length - SIDE]


def windows(width: int, height: int) -> list[Window]:
    """(left, top, right, low) of the patches of an image, in pixels."""
    return [
        (left, top, min(left + SIDE, width), min(top + SIDE, height))
        for top in starts(height)
        for left in starts(width)
    ]


def area(corners: np.ndarray) -> float:
    """Area of a polygon float [N, 2] without crossings."""
    if len(corners) < 3:
        return 0.0
    x, y = corners.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def inside(corners: np.ndarray, window: Window) -> np.ndarray:
    """The part of a polygon float [N, 2] that is in a window, float [M, 2]: M is 0 where none is.

    One border after the other cuts off what is beyond it (Sutherland and Hodgman).
    """
    for axis, limit, sign in zip((0, 1, 0, 1), window, (1, 1, -1, -1)):
        if not len(corners):
            break
        reach = sign * (corners[:, axis] - limit)  # >= 0 inside
        kept = []
        for index, (point, here) in enumerate(zip(corners, reach)):
            before, there = corners[index - 1], reach[index - 1]
            if (here >= 0) != (there >= 0):
                kept.append(before + (point - before) * (there / (there - here)))
            if here >= 0:
                kept.append(point)
        corners = np.array(kept).reshape(-1, 2)
    return corners


def boxes_in(objects: list[Quad], window: Window, width: int, height: int) -> list:
    """``Patch.boxes`` of the objects of an image of width x height in one of its patches."""
    boxes = []
    left, top, right, low = window
    for category, corners, difficult in objects:
        x0, y0 = corners.min(0)
        x1, y1 = corners.max(0)
        if x0 >= right or y0 >= low or x1 <= left or y1 <= top:
            continue
        part = inside(corners, window)
        if not len(part) or (part.max(0) - part.min(0)).min() < LEAST:
            continue
        share = area(part) / area(inside(corners, (0, 0, width, height)))
        box = (*(part.min(0) - (left, top)).tolist(), *(part.max(0) - (left, top)).tolist())
        boxes.append((category, box, difficult or share <= LEAST_SHARE))
    return boxes


def cut(job: tuple[Path, Path, Path]) -> list[Patch]:
    """Write the patches of an image (its path, its labels, the folder) that are not up to date."""
    source, labels, folder = job
    width, height = image_size(source)
    objects = read_labels(labels)
    pixels = None
    patches = []
    for window in windows(width, height):
        left, top, right, low = window
        name = f"{source.stem}__{left}_{top}.jpg"
        if not up_to_date(folder / name, source):
            pixels = read_pixels(source, "RGB") if pixels is None else pixels
            picture = pixels[top:low, left:right]
            write_picture(folder / name, picture, quality=95, subsampling=0)
        boxes = boxes_in(objects, window, width, height)
        patches.append(Patch(name, right - left, low - top, boxes))
    return patches
