"""KITTI's object detection benchmark of 2012: pedestrian, cyclist and car in the left images.

7,481 images have public labels. ``ImageSets/{train,val}.txt`` (an image number per line) say which
of them train and which test, where they are there; UODB's own lists come with UODB's own download
only. Without them every tenth image tests, the numbers that end in 9: 6,733 train (the paper's 7k)
and 748 test. KITTI numbers its images at random, so both have frames of the same drives.

Regions marked DontCare are difficult for every class. As in KITTI's own evaluation a van is neither
a car nor a false alarm, and so is a sitting person among pedestrians: they are difficult too. The
other types (Truck, Tram, Misc) are background. KITTI's levels of difficulty are not applied.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from downloads import judge_missing
from preparing import need, read_text

from .boxes_json import BoxesJson, image_sizes, output

FOLDER = "kitti_object"
CLASSES = ("pedestrian", "cyclist", "car")
SOURCE = (
    "unpack data_object_image_2.zip and data_object_label_2.zip of KITTI "
    "(https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=2d) there"
)
IGNORED = {"DontCare": CLASSES, "Van": ("car",), "Person_sitting": ("pedestrian",)}
TYPES = ("Pedestrian", "Cyclist", "Car", "Truck", "Tram", "Misc", *IGNORED)
LISTS = {"train": "train", "test": "val"}
FIELDS = 15


def splits(home: Path, names: list[str]) -> dict[str, list[str]]:
    """split -> numbers of its images, by the lists or by the last digit."""
    lists = {split: home / "ImageSets" / f"{name}.txt" for split, name in LISTS.items()}
    if any(path.is_file() for path in lists.values()):
        advice = "give both lists, or none"
        found = {split: read_text(need(path, advice)).split() for split, path in lists.items()}
        unknown = sorted({*found["train"], *found["test"]} - set(names))
        if unknown:
            raise ValueError(
                f"'{home / 'ImageSets'}' lists image '{unknown[0]}', which has no file in "
                f"'{home / 'training' / 'label_2'}'; restore the lists or remove them"
            )
        print(f"kitti: the split is that of '{home / 'ImageSets'}'")
        return found
    print(
        "kitti: there are no public labels of KITTI's test images and no lists in "
        f"'{home / 'ImageSets'}'; of the labelled images those whose number ends in 9 test"
    )
    return {
        "train": [name for name in names if not name.endswith("9")],
        "test": [name for name in names if name.endswith("9")],
    }


def read_labels(path: Path) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Type and box of every line: edges in pixels, from 0, as KITTI has them.

    Raises:
        ValueError: a line is not one of KITTI's labels.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        entries = line.split()
        try:
            if len(entries) != FIELDS or entries[0] not in TYPES:
                raise ValueError
            found.append((entries[0], tuple(float(value) for value in entries[4:8])))
        except ValueError:
            raise ValueError(
                f"line {number} of '{path}' is {line!r}, expected a type ({', '.join(TYPES)}) and "
                f"{FIELDS - 1} numbers; {SOURCE}"
            ) from None
    return found


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    home = need(chosen.root / FOLDER, SOURCE)
    labels = need(home / "training" / "label_2", SOURCE)
    names = sorted(path.stem for path in labels.glob("*.txt"))
    images = home / "training" / "image_2"
    unlabelled = sorted({path.stem for path in images.glob("*.png")} - set(names))
    missing = [f"{name}.txt" for name in unlabelled]
    judge_missing(missing, len(names) + len(missing), labels, chosen.partial)
    for split, numbers in splits(home, names).items():
        content = BoxesJson(CLASSES)
        files = [f"{number}.png" for number in numbers]
        for file, size in image_sizes(images, files, chosen.workers, chosen.partial).items():
            image_id = content.add_image(f"{FOLDER}/training/image_2/{file}", *size)
            for kind, box in read_labels(labels / f"{Path(file).stem}.txt"):
                for name in IGNORED.get(kind, (kind.lower(),)):
                    if name in CLASSES:
                        index = CLASSES.index(name)
                        content.add_box(image_id, index, *box, difficult=kind in IGNORED)
        content.write(output(chosen.root, "kitti", split))
