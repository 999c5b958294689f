"""The ten classification sets of the paper's Table 7, as gppf_d2 and torchvision read them.

    python datasets/prepare_classification.py [--root datasets] [--part food101 --part pets ...]

Without ``--part`` every set is prepared whose folder is there, and the others are named. A download
lies in the folder of its set (``food-101/food-101.tar.gz``) and is unpacked beside itself; what was
unpacked before is left alone, and archives may be deleted afterwards. The images of CIFAR become
PNG files, ``images/{train,test}/<class>/NNNNN.png``: NNNNN counts the images of the official files.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from downloads import allow_parts, parts_to_prepare, prepare_each, untar, unzip
from PIL import Image
from preparing import command, need, options, spread, whole_folder


@dataclass(frozen=True)
class Archive:
    """A tar, the folder in it whose content is unpacked, and the last thing in there."""

    name: str
    inside: str
    last: str


@dataclass(frozen=True)
class Download:
    """One set.

    Args:
        folder: below the root.
        page: where to download it.
        images: official number of images, where they lie below ``folder``.
        archives: what is unpacked.
        files: what has to be there besides.
        before, after: further work on the folder, before and after unpacking.
    """

    folder: str
    page: str
    images: tuple[int, str]
    archives: tuple[Archive, ...]
    files: tuple[str, ...] = ()
    before: Callable[[Path, str], None] | None = None
    after: Callable[[Path, int], None] | None = None


class PlainData(pickle.Unpickler):
    """Reads the pickles of CIFAR: dicts, lists, texts, numbers and numpy arrays, no other code."""

    NAMES = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote them

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}") from None


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict of an official file of CIFAR.

    Raises:
        ValueError: the file is damaged, or is no plain data.
    """
    try:
        with open(path, "rb") as file:
            content = PlainData(file).load()
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise ValueError(
            f"'{path}' is no official file of CIFAR ({error}); download it again"
        ) from error
    return content


def cifar_images(
    paths: list[Path], key: str, classes: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(number, label, uint8 [32, 32, 3]) of the images of one split.

    Args:
        paths: its files, in order.
        key: entry of the labels.
        classes: labels are below it.

    Raises:
        ValueError: a file is damaged.
    """
    start = 0
    for path in paths:
        content = read_pickle(path)
        data, labels = np.asarray(content.get("data")), np.asarray(content.get(key))
        sound = data.dtype == np.uint8 and data.shape == (labels.size, 3072)
        if not sound or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"'{path}' has no {key} and images that fit; download it again")
        pixels = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        yield from zip(range(start, start + labels.size), labels.tolist(), pixels)
        start += labels.size


def _save(job: tuple[Path, np.ndarray]) -> None:
    path, pixels = job
    Image.fromarray(pixels).save(path, "PNG", compress_level=6)


def convert_cifar(folder: Path, workers: int) -> None:
    """Write the images of ``data_batch_*``, ``test_batch`` or of ``train``, ``test`` as PNGs."""
    if (folder / "images").is_dir():
        return
    ten = (folder / "batches.meta").exists()
    meta = folder / ("batches.meta" if ten else "meta")
    key, classes = ("labels", "label_names") if ten else ("fine_labels", "fine_label_names")
    names = read_pickle(meta).get(classes)
    if not isinstance(names, list) or not all(str(name).isidentifier() for name in names):
        raise ValueError(f"'{meta}' has no {classes} that name folders; download it again")
    train = [f"data_batch_{number}" for number in range(1, 6)] if ten else ["train"]
    with whole_folder(folder / "images") as part:
        for split, files in (("train", train), ("test", ["test_batch" if ten else "test"])):
            for name in names:
                (part / split / name).mkdir(parents=True)
            paths = [folder / name for name in files]
            jobs = [
                (part / split / names[label] / f"{number:05d}.png", pixels)
                for number, label, pixels in cifar_images(paths, key, len(names))
            ]
            for _ in spread(_save, jobs, workers, f"{folder.name} {split}"):
                pass


def unpack_partitions(folder: Path, advice: str) -> None:
    """The lists of SUN397's first split, from Partitions.zip."""
    for name in ("Training_01.txt", "Testing_01.txt"):
        if not (folder / name).exists():
            unzip(folder / "Partitions.zip", folder / name, name, advice)


def unpack_caltech(folder: Path, advice: str) -> None:
    """The tar in Caltech-101's zip, where that is what was downloaded."""
    name = "101_ObjectCategories.tar.gz"
    if not any((folder / there).exists() for there in (name, "101_ObjectCategories")):
        unzip(folder / "caltech-101.zip", folder / name, f"caltech-101/{name}", advice)


CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
VGG = "https://www.robots.ox.ac.uk/~vgg/data"
DOWNLOADS = {
    "food101": Download(
        "food-101",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        (101_000, "images"),
        (Archive("food-101.tar.gz", "food-101", "images"),),
        ("meta/train.txt", "meta/test.txt"),
    ),
    "cifar10": Download(
        "cifar-10-batches-py",
        CIFAR,
        (60_000, "images"),
        (Archive("cifar-10-python.tar.gz", "cifar-10-batches-py", "batches.meta"),),
        after=convert_cifar,
    ),
    "cifar100": Download(
        "cifar-100-python",
        CIFAR,
        (60_000, "images"),
        (Archive("cifar-100-python.tar.gz", "cifar-100-python", "meta"),),
        after=convert_cifar,
    ),
    "sun397": Download(
        "SUN397",
        "https://vision.princeton.edu/projects/2010/SUN/",
        (108_754, "."),
        (Archive("SUN397.tar.gz", "SUN397", "ClassName.txt"),),
        before=unpack_partitions,
    ),
    "cars": Download(
        "stanford_cars",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        (16_185, "."),
        tuple(
            Archive(f"{archive}.tgz", "", last)
            for archive, last in (
                ("cars_train", "cars_train"),
                ("cars_test", "cars_test"),
                ("car_devkit", "devkit"),
            )
        ),
        ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"),
    ),
    "aircraft": Download(
        "fgvc-aircraft-2013b",
        f"{VGG}/fgvc-aircraft/",
        (10_000, "data/images"),
        (Archive("fgvc-aircraft-2013b.tar.gz", "fgvc-aircraft-2013b", "data"),),
        tuple(f"data/images_variant_{part}.txt" for part in ("train", "val", "test")),
    ),
    "dtd": Download(
        "dtd",
        f"{VGG}/dtd/",
        (5_640, "dtd/images"),
        (Archive("dtd-r1.0.1.tar.gz", "", "dtd"),),
        tuple(f"dtd/labels/{part}1.txt" for part in ("train", "val", "test")),
    ),
    "pets": Download(
        "oxford-iiit-pet",
        f"{VGG}/pets/",
        (7_390, "images"),
        (
            Archive("images.tar.gz", "", "images"),
            Archive("annotations.tar.gz", "", "annotations"),
        ),
        ("annotations/trainval.txt", "annotations/test.txt"),
    ),
    "caltech101": Download(
        "caltech101",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        (9_144, "101_ObjectCategories"),
        (Archive("101_ObjectCategories.tar.gz", "", "101_ObjectCategories"),),
        before=unpack_caltech,
    ),
    "flowers": Download(
        "flowers-102",
        f"{VGG}/flowers/102/",
        (8_189, "jpg"),
        (Archive("102flowers.tgz", "", "jpg"),),
        ("imagelabels.mat", "setid.mat"),
    ),
}


def prepare_one(root: Path, download: Download, workers: int) -> None:
    """Unpack and convert one set, and say how many images are there."""
    folder = root / download.folder
    advice = f"download it from {download.page} into '{folder}'"
    need(folder, advice)
    if download.before is not None:
        download.before(folder, advice)
    for archive in download.archives:
        untar(folder / archive.name, folder, archive.inside, archive.last, advice)
    for name in download.files:
        need(folder / name, advice)
    if download.after is not None:
        download.after(folder, workers)
    total, place = download.images
    found = (name for _, _, names in os.walk(folder / place) for name in names)
    count = sum(name.endswith((".jpg", ".png")) for name in found)
    part = "" if count == total else f": a part, the whole has {total:,}"
    print(f"'{folder}': {count:,} images{part}")


def prepare(chosen: argparse.Namespace) -> None:
    """Prepare the chosen sets, or all whose folder is there."""
    folders = {name: download.folder for name, download in DOWNLOADS.items()}
    names = parts_to_prepare(chosen.root, chosen.part, folders)
    prepare_each(names, lambda name: prepare_one(chosen.root, DOWNLOADS[name], chosen.workers))


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, allow_parts(options(__doc__), DOWNLOADS), arguments)


if __name__ == "__main__":
    sys.exit(main())
