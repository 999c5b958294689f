"""The ten classification sets of the paper's Table 7, in their official formats and splits.

Datasets ``<name>_{train,val,trainval,test}``; trainval is always train followed by val. Folders are
those of torchvision, which reads the same files; ``datasets/prepare_classification.py`` unpacks the
downloads there. Labels follow the official lists, also where only some classes are there.

Aircraft, DTD and Flowers come with a validation set. Of the others, as in SimCLR (appendix B.8) and
BYOL, a part of the official training images is held out, here by a fixed rule: of every class the
images whose names have the lowest SHA-256, as many as ``held_out`` says. Caltech-101 has no
official split: 30 images of each class, also of the background class, are for training (102 x 30,
6,084 remain); here those of the lowest SHA-256. DTD and SUN397 use the first of their splits.
"""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gppf_d2.data.class_folders import list_class_folders
from gppf_d2.data.registration import register_dataset

SPLITS = ("train", "val", "trainval", "test")
CALTECH_TRAINING = 30  # images per class
Samples = list[tuple[str, int]]  # path below the set's folder, with "/", and label
Read = Callable[[str, str], Iterable[tuple[str, str | int]]]


def _lines(*path: str) -> list[str]:
    with open(os.path.join(*path), encoding="utf-8-sig") as file:
        return [line.strip() for line in file if line.strip()]


def _mat(*path: str) -> dict[str, Any]:
    """The variables of a MATLAB file."""
    from scipy.io import loadmat  # at every start otherwise, and most runs need none
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(os.path.join(*path), squeeze_me=True)
    except FileNotFoundError:
        raise
    except (MatReadError, TypeError, OSError, zlib.error) as error:
        raise ValueError(f"'{os.path.join(*path)}' is no MATLAB file: {error}") from error


@functools.cache
def _all_classes() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for line in _lines(os.path.dirname(__file__), "classification_classes.txt"):
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), [])
        elif not line.startswith("#"):
            current.append(line)
    return {name: tuple(classes) for name, classes in found.items()}


def classes_of(name: str) -> tuple[str, ...]:
    """The classes of a set in the order of their labels.

    Args:
        name: "food101", "cifar10", ...: a key of ``SETS``.
    """
    return _all_classes()[name]


# One reader per format: (folder of the set, official part) -> (path, class or label) of each image.


def _food101(folder: str, part: str) -> Iterator[tuple[str, str]]:
    for name in _lines(folder, "meta", f"{part}.txt"):
        yield f"images/{name}.jpg", name.split("/")[0]


def _sun397(folder: str, part: str) -> Iterator[tuple[str, str]]:
    listed = {"train": "Training_01.txt", "test": "Testing_01.txt"}[part]
    for name in _lines(folder, listed):  # /a/abbey/sun_aaalbzqrimafwbiv.jpg
        yield name[1:], name[3:].rpartition("/")[0]


def _cars(folder: str, part: str) -> Iterator[tuple[str, int]]:
    # the devkit's own list of the test images has no classes
    listed = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for entry in np.atleast_1d(_mat(folder, listed[part])["annotations"]):
        yield f"cars_{part}/{entry['fname']}", int(entry["class"]) - 1


def _aircraft(folder: str, part: str) -> Iterator[tuple[str, str]]:
    for line in _lines(folder, "data", f"images_variant_{part}.txt"):
        number, variant = line.strip().split(" ", 1)
        yield f"data/images/{number}.jpg", variant


def _dtd(folder: str, part: str) -> Iterator[tuple[str, str]]:
    for name in _lines(folder, "labels", f"{part}1.txt"):
        yield f"images/{name}", name.split("/")[0]


def _pets(folder: str, part: str) -> Iterator[tuple[str, int]]:
    listed = {"train": "trainval.txt", "test": "test.txt"}[part]
    for line in _lines(folder, "annotations", listed):
        name, number, _species, _breed = line.split()
        yield f"images/{name}.jpg", int(number) - 1


def _flowers(folder: str, part: str) -> Iterator[tuple[str, int]]:
    listed = {"train": "trnid", "val": "valid", "test": "tstid"}[part]
    labels = np.atleast_1d(_mat(folder, "imagelabels.mat")["labels"])
    for number in np.atleast_1d(_mat(folder, "setid.mat")[listed]).tolist():
        yield f"jpg/image_{number:05d}.jpg", int(labels[number - 1]) - 1


def _cifar(name: str, folder: str, part: str) -> Samples:
    return _below(folder, f"images/{part}", classes_of(name), ".png")


def _caltech101(folder: str, part: str) -> Samples:
    samples = _below(folder, "101_ObjectCategories", classes_of("caltech101"), ".jpg")
    training = lowest(samples, lambda size: CALTECH_TRAINING)
    return [sample for sample in samples if (sample in training) == (part == "train")]


def _below(folder: str, inner: str, classes: Sequence[str], suffix: str) -> Samples:
    listed = list_class_folders(
        os.path.join(folder, inner), classes, suffix, "restore the original folders", partly=True
    )
    return [(os.path.relpath(path, folder).replace(os.sep, "/"), label) for path, label in listed]


@dataclass(frozen=True)
class OfficialSet:
    """What is known of a set beforehand.

    Args:
        folder: where it lies, below the folder of the datasets.
        metric: of ``ClassificationEvaluator``, in the paper's Table 7: "top1", "mean_per_class".
        read: the images of an official part: "train", "test" and, without ``held_out``, "val".
        sizes: numbers of images in trainval and test, and in val where that is known.
        held_out: share of each class's training images that become the validation set; 0 where
            there is an official one.
    """

    folder: str
    metric: str
    read: Read
    sizes: dict[str, int]
    held_out: float = 0.0


def _sizes(trainval: int, test: int, val: int) -> dict[str, int]:
    return {"train": trainval - val, "val": val, "trainval": trainval, "test": test}


SETS = {
    "food101": OfficialSet("food-101", "top1", _food101, _sizes(75_750, 25_250, 7_575), 0.1),
    "cifar10": OfficialSet(
        "cifar-10-batches-py",
        "top1",
        functools.partial(_cifar, "cifar10"),
        _sizes(50_000, 10_000, 5_000),
        0.1,
    ),
    "cifar100": OfficialSet(
        "cifar-100-python",
        "top1",
        functools.partial(_cifar, "cifar100"),
        _sizes(50_000, 10_000, 5_000),
        0.1,
    ),
    "sun397": OfficialSet("SUN397", "top1", _sun397, _sizes(19_850, 19_850, 3_970), 0.2),
    "cars": OfficialSet("stanford_cars", "top1", _cars, _sizes(8_144, 8_041, 1_635), 0.2),
    "aircraft": OfficialSet(
        "fgvc-aircraft-2013b", "mean_per_class", _aircraft, _sizes(6_667, 3_333, 3_333)
    ),
    "dtd": OfficialSet("dtd/dtd", "top1", _dtd, _sizes(3_760, 1_880, 1_880)),
    "pets": OfficialSet(
        "oxford-iiit-pet", "mean_per_class", _pets, {"trainval": 3_680, "test": 3_669}, 0.2
    ),
    "caltech101": OfficialSet(
        "caltech101", "mean_per_class", _caltech101, _sizes(3_060, 6_084, 510), 1 / 6
    ),
    "flowers": OfficialSet("flowers-102", "mean_per_class", _flowers, _sizes(2_040, 6_149, 1_020)),
}
METRICS = {name: official.metric for name, official in SETS.items()}


def lowest(samples: Samples, count: Callable[[int], int]) -> set[tuple[str, int]]:
    """Of every class the images whose paths have the lowest SHA-256.

    Args:
        samples: images of any classes.
        count: number of images of a class -> how many of them to take.
    """
    by_class: dict[int, Samples] = {}
    for sample in samples:
        by_class.setdefault(sample[1], []).append(sample)
    chosen = set()
    for own in by_class.values():
        own.sort(key=lambda sample: hashlib.sha256(sample[0].encode()).digest())
        chosen.update(own[: count(len(own))])
    return chosen


def _official_part(name: str, folder: str, part: str) -> Samples:
    """The images of an official part, with labels.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a list is not the official one.
    """
    labels = {label: index for index, label in enumerate(classes_of(name))}
    samples = []
    try:
        for path, label in SETS[name].read(folder, part):
            label = labels.get(label, label)
            if label not in range(len(labels)):
                raise ValueError(f"'{path}' has the class {label!r}, which is none of its classes")
            samples.append((path, label))
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(
            f"'{folder}' does not hold {name} as it was published ({error}); restore the original "
            "files"
        ) from error
    return samples


def load(root: str, name: str, split: str) -> list[dict]:
    """The records of a split.

    Args:
        root: folder of all datasets.
        name: a key of ``SETS``.
        split: one of ``SPLITS``.

    Returns:
        Records with "file_name", "image_id" and "label".

    Raises:
        FileNotFoundError: an official list is missing.
        ValueError: an official list is damaged.
    """
    official = SETS[name]
    folder = os.path.join(root, *official.folder.split("/"))
    if split == "test":
        samples = _official_part(name, folder, "test")
    else:
        train = _official_part(name, folder, "train")
        if official.held_out:
            # at least one image of a class that has two
            chosen = lowest(train, lambda n: max(round(official.held_out * n), int(n > 1)))
            val = [sample for sample in train if sample in chosen]
            train = [sample for sample in train if sample not in chosen]
        else:
            val = _official_part(name, folder, "val")
        samples = {"train": train, "val": val, "trainval": train + val}[split]
    return [
        {"file_name": os.path.join(folder, *path.split("/")), "image_id": index, "label": label}
        for index, (path, label) in enumerate(samples)
    ]


def register(root: str) -> None:
    """Register all sets; ``root`` is the folder that holds ``food-101``, ``SUN397``, ..."""
    for name, official in SETS.items():
        script = f"python datasets/prepare_classification.py --part {name} --root {root}"
        for split in SPLITS:
            register_dataset(
                f"{name}_{split}",
                root,
                functools.partial(load, root, name, split),
                hint=f"run `{script}` on the official download",
                classes=list(classes_of(name)),
                evaluator_type="classification",
                classification_metric=official.metric,
                official_size=official.sizes.get(split),
            )
