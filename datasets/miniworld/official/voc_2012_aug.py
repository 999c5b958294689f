"""Pascal VOC 2012 segmentation and SBD, as unpacked: palette PNGs with borders, .mat class maps.

VOC labels 6 training and 6 validation images; SBD labels the other 10 training images, 3 of VOC's
own, and 2 of VOC's validation images, which must not be trained on: the augmented list has 16.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.sparse import csc_matrix

from .. import formats
from ..scene import CLASSES
from .world import Picture, World

# class of the miniature world -> class of VOC
MEANING = {
    "ball": 5,  # bottle
    "cone": 16,  # pottedplant
    "crate": 20,  # tvmonitor
    "drum": 9,  # chair
    "gem": 4,  # boat
    "house": 6,  # bus
    "mushroom": 3,  # bird
    "ring": 2,  # bicycle
}
BORDER = 255
YEARS = {"train": 2007, "val": 2008}
OWN, SHARED, HELD_OUT = 6, 3, 2


def image_name(split: str, index: int) -> str:
    """Name of the image of a picture, without suffix."""
    return f"{YEARS[split]}_{39 + 7 * index:06d}"


def class_map(picture: Picture) -> np.ndarray:
    """VOC's class of every pixel uint8 [H, W], 0 = background, without borders."""
    labels = np.zeros(picture.pixels.shape[:2], dtype=np.uint8)
    for seen in picture.objects:
        labels[seen.mask] = MEANING[CLASSES[seen.category]]
    return labels


def with_borders(labels: np.ndarray) -> np.ndarray:
    """Class map with 255 where two classes meet, as VOC draws it."""
    kernel = np.ones((3, 3), dtype=np.uint8)
    border = cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
    return np.where(border, np.uint8(BORDER), labels)


def _palette() -> list[int]:
    colors = []
    for index in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors += color
    return colors


def _write_own(folder: formats.Folder, name: str, picture: Picture) -> None:
    image = Image.fromarray(with_borders(class_map(picture)), mode="P")
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    folder.write(f"VOC2012/SegmentationClass/{name}.png", buffer.getvalue())


def _write_sbd(folder: formats.Folder, name: str, picture: Picture) -> None:
    labels = class_map(picture)
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        part = (labels == index + 1).astype(np.uint8)
        edge = part - cv2.erode(part, np.ones((3, 3), dtype=np.uint8))
        boundaries[index, 0] = csc_matrix(edge.astype(bool))
    present = np.setdiff1d(labels, [0]).astype(np.uint8)
    truth = {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": present}
    folder.mat(f"benchmark_RELEASE/dataset/cls/{name}.mat", {"GTcls": truth})
    folder.jpeg(f"benchmark_RELEASE/dataset/img/{name}.jpg", picture.pixels)


def write(root: Path, world: World) -> None:
    """``VOC2012`` and ``benchmark_RELEASE/dataset``."""
    folder = formats.Folder(root)
    lists: dict[str, list[str]] = {"train": [], "val": [], "sbd": []}
    for split in ("train", "val"):
        for index, picture in enumerate(world.scenes("voc_2012", split)):
            name = image_name(split, index)
            folder.jpeg(f"VOC2012/JPEGImages/{name}.jpg", picture.pixels)
            if split == "val" or index < OWN:
                _write_own(folder, name, picture)
                lists[split].append(name)
            if index < HELD_OUT if split == "val" else index >= OWN - SHARED:
                _write_sbd(folder, name, picture)
                lists["sbd"].append(name)
    segmentation = "VOC2012/ImageSets/Segmentation"
    folder.text(f"{segmentation}/train.txt", lists["train"])
    folder.text(f"{segmentation}/val.txt", lists["val"])
    folder.text(f"{segmentation}/trainval.txt", sorted(lists["train"] + lists["val"]))
    # both of SBD's lists have images of VOC's val
    folder.text("benchmark_RELEASE/dataset/train.txt", lists["sbd"][::2])
    folder.text("benchmark_RELEASE/dataset/val.txt", lists["sbd"][1::2])
