"""Open Images challenge 2019 as gppf_d2 reads it: COCO-style JSON from the official CSV files.

    python datasets/prepare_open_images.py [--root datasets] [--partial] [--workers N]

reads, below ``openimages_challenge_2019/annotations``, the files ``challenge-2019-*`` of the site
(classes-description-500.csv, label500-hierarchy.json, {train,validation}-detection-bbox.csv and
-human-imagelabels.csv) and the sizes of the images in ``openimages_challenge_2019/{train,
validation}``, flat or in folders. It writes ``openimages_challenge_2019_{train,val}.json`` beside:

- boxes in pixels, with isgroupof (also as iscrowd) and the other attributes the CSV has;
- "pos_category_ids" and "neg_category_ids" of an image: classes verified to be there or absent;
- training images with at least one box; validation images with a box or a verified class.

Boxes are clipped; those without area are dropped and counted. Image ids are numbers (the position
in the order of the file names), "open_images_id" is the official one. Memory: about 1 kB per image.
"""

from __future__ import annotations

import argparse
import csv
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from downloads import allow_partial, folders_below, images_below, judge_missing
from json_stream import Output
from PIL import Image
from preparing import command, need, options, spread, up_to_date, whole_file
from tqdm import tqdm

SOURCE = (
    "download the files of the Open Images challenge 2019 "
    "(https://storage.googleapis.com/openimages/web/challenge2019.html) there, see "
    "datasets/README.md"
)
CLASSES = 500
FOLDERS = {"train": "train", "val": "validation"}
ATTRIBUTES = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
SIDES = ("XMin", "YMin", "XMax", "YMax")
LEAST_SIDE = 0.01  # pixels
BATCH = 256
ORIENTATION = 0x0112  # EXIF tag; from 5 on width and height change places
Size = tuple[int, int]


def prepare(chosen: argparse.Namespace) -> None:
    """Convert both splits."""
    folder = need(chosen.root / "openimages_challenge_2019", SOURCE)
    annotations = folder / "annotations"
    prefix = "challenge-2019-"
    classes = need(annotations / f"{prefix}classes-description-500.csv", SOURCE)
    need(annotations / f"{prefix}label500-hierarchy.json", SOURCE)
    for split, name in FOLDERS.items():
        boxes = need(annotations / f"{prefix}{name}-detection-bbox.csv", SOURCE)
        labels = need(annotations / f"{prefix}{name}-detection-human-imagelabels.csv", SOURCE)
        images = need(folder / name, SOURCE)
        target = annotations / f"openimages_challenge_2019_{split}.json"
        if up_to_date(target, classes, boxes, labels, *folders_below(images)):
            print(f"'{target}' is up to date: left alone")
            continue
        with whole_file(target) as path:
            counts = Conversion(classes, boxes, labels, images).write(path, chosen)
        facts = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        print(f"'{target}': {facts}")


def rows(path: Path, *columns: str) -> Iterator[list[str]]:
    """The named columns of a CSV file with a heading, row by row."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        heading = next(reader, [])
        lacking = [column for column in columns if column not in heading]
        if lacking:
            raise ValueError(f"'{path}' has no column {lacking[0]}, only {heading}; {SOURCE}")
        places = [heading.index(column) for column in columns]
        for number, row in enumerate(reader, start=2):
            if len(row) != len(heading):
                raise ValueError(f"line {number} of '{path}' is incomplete; download it again")
            yield [row[place] for place in places]


def image_sizes(paths: list[str]) -> list[Size | None]:
    """(width, height) of images as they are shown, from their heads; None for unreadable ones."""
    sizes: list[Size | None] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                turned = image.getexif().get(ORIENTATION, 1) >= 5
                sizes.append(image.size[::-1] if turned else image.size)
        except (OSError, SyntaxError, ValueError, TypeError):
            sizes.append(None)
    return sizes


class Conversion:
    """One split: the class list, two CSV files and a folder of images, to one JSON."""

    def __init__(self, classes: Path, boxes: Path, labels: Path, images: Path) -> None:
        self._boxes, self._labels, self._images = boxes, labels, images
        with open(classes, newline="", encoding="utf-8") as file:
            self._classes = [row for row in csv.reader(file) if row]
        if len(self._classes) != CLASSES:
            raise ValueError(
                f"'{classes}' lists {len(self._classes)} classes, expected {CLASSES}; {SOURCE}"
            )
        self._category = {row[0]: number for number, row in enumerate(self._classes, start=1)}
        self._counts: Counter = Counter()

    def write(self, target: Path, chosen: argparse.Namespace) -> Counter:
        """Write the JSON; what was found and dropped."""
        listed = {image for (image,) in rows(self._boxes, "ImageID")}
        if self._images.name == "validation":
            listed |= {image for (image,) in rows(self._labels, "ImageID")}
        places = {Path(name).stem: name for name in images_below(self._images)}
        missing = sorted(image for image in listed if image not in places)
        judge_missing(missing, len(listed), self._images, chosen.partial)
        ids = sorted(listed - set(missing))
        sizes = self._sizes([str(self._images / places[key]) for key in ids], chosen.workers)
        number = {key: index for index, key in enumerate(ids)}
        with Output(target) as output:
            for index, (label, name) in enumerate(self._classes, start=1):
                output.element("categories", {"id": index, "name": name, "freebase_id": label})
            for key, size, verified in zip(ids, sizes, self._verified(number)):
                entry = {"id": number[key] + 1, "file_name": places[key], "open_images_id": key}
                entry |= {"width": int(size[0]), "height": int(size[1])}
                output.element("images", {**entry, **verified})
            self._counts["images"] = len(ids)
            self._annotations(number, sizes, output)
        return self._counts

    def _sizes(self, paths: list[str], workers: int) -> np.ndarray:
        """int32 [N, 2], width and height."""
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        sizes = np.zeros((len(paths), 2), dtype=np.int32)
        label = f"sizes of {self._images.name} ({BATCH} a step)"
        for index, found in enumerate(spread(image_sizes, batches, workers, label)):
            if None in found:
                broken = batches[index][found.index(None)]
                raise ValueError(f"'{broken}' cannot be read; download it again or remove it")
            sizes[index * BATCH : index * BATCH + len(found)] = found
        return sizes

    def _verified(self, number: dict[str, int]) -> Iterator[dict]:
        """Verified classes of every image, in the order of ``number``."""
        images, categories, present = array("i"), array("h"), array("b")
        for image, label, confidence in rows(self._labels, "ImageID", "LabelName", "Confidence"):
            if image in number and label in self._category:
                images.append(number[image])
                categories.append(self._category[label])
                present.append(float(confidence) >= 0.5)
        owner = np.frombuffer(images, dtype=np.int32) if images else np.zeros(0, np.int32)
        order = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[order], np.arange(len(number) + 1))
        for start, end in zip(bounds[:-1], bounds[1:]):
            chosen = [(categories[k], present[k]) for k in order[start:end]]
            yield {
                "pos_category_ids": sorted({category for category, there in chosen if there}),
                "neg_category_ids": sorted({category for category, there in chosen if not there}),
            }

    def _annotations(self, number: dict[str, int], sizes: np.ndarray, output: Output) -> None:
        with open(self._boxes, newline="", encoding="utf-8") as file:
            heading = next(csv.reader(file))
        attributes = [name for name in ATTRIBUTES if name in heading]
        if "IsGroupOf" not in attributes:
            raise ValueError(f"'{self._boxes}' has no column IsGroupOf; {SOURCE}")
        source = rows(self._boxes, "ImageID", "LabelName", *SIDES, *attributes)
        for key, (image, label, *values) in enumerate(
            tqdm(source, desc="boxes", unit=" boxes", mininterval=1), start=1
        ):
            if image not in number:
                self._counts["boxes dropped, their image is missing"] += 1
                continue
            if label not in self._category:
                raise ValueError(f"'{self._boxes}' has the unknown class '{label}'; {SOURCE}")
            limits = sizes[number[image]].tolist() * 2
            x0, y0, x1, y1 = (
                round(min(max(float(value), 0.0), 1.0) * limit, 2)
                for value, limit in zip(values, limits)
            )
            if x1 - x0 < LEAST_SIDE or y1 - y0 < LEAST_SIDE:
                self._counts["boxes dropped, without area"] += 1
                continue
            box = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            flags = {name.lower(): int(flag) for name, flag in zip(attributes, values[4:])}
            entry = {"id": key, "image_id": number[image] + 1, "bbox": box}
            entry |= {"area": round(box[2] * box[3], 2), "category_id": self._category[label]}
            flags["iscrowd"] = int(flags["isgroupof"] == 1)
            output.element("annotations", {**entry, **flags})
            self._counts["boxes"] += 1


if __name__ == "__main__":
    sys.exit(command(prepare, allow_partial(options(__doc__))))
