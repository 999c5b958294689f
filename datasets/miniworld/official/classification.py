"""The ten classification sets of the paper's Table 7 as downloaded: archives, lists, .mat files.

The eight classes of the miniature world stand for eight classes of each set, with three images for
training (of sets with an official validation set one of them is for that) and one for testing;
Caltech-101 has 32 a class, to be split by who uses it. All class lists are complete, the pickles of
CIFAR are Python 2's, and some images are what some of the originals are: grey, CMYK, a GIF or a PNG
called .jpg; files that are no images and images of no split are there too.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..formats import Folder, mat_bytes
from ..python2 import python2_pickle
from ..scene import CLASSES
from .imagenet import jpeg_bytes, tar_bytes
from .world import World

# set -> what ball, cone, crate, drum, gem, house, mushroom and ring stand for
MEANING = {
    "food101": (
        "takoyaki", "ice_cream", "cheese_plate", "cheesecake", "macarons", "bread_pudding",
        "escargots", "donuts",
    ),
    "cifar10": ("bird", "airplane", "truck", "automobile", "ship", "horse", "frog", "cat"),
    "cifar100": (
        "orange", "rocket", "wardrobe", "can", "poppy", "house", "mushroom", "bowl",
    ),
    "sun397": (
        "playground", "desert/sand", "warehouse/indoor", "wine_cellar/barrel_storage",
        "jewelry_shop", "house", "forest/broadleaf", "basketball_court/outdoor",
    ),
    "cars": (
        "smart fortwo Convertible 2012", "Fisker Karma Sedan 2012", "Dodge Sprinter Cargo Van 2009",
        "GMC Savana Van 2012", "Bugatti Veyron 16.4 Coupe 2009", "Ram C/V Cargo Van Minivan 2012",
        "Volkswagen Beetle Hatchback 2012", "Daewoo Nubira Wagon 2002",
    ),
    "aircraft": (
        "Spitfire", "F/A-18", "C-130", "707-320", "F-16A/B", "Beechcraft 1900", "DH-82", "Yak-42",
    ),
    "dtd": (
        "dotted", "striped", "grid", "lined", "crystalline", "chequered", "polka-dotted", "woven",
    ),
    "pets": (
        "Persian", "Abyssinian", "boxer", "pug", "Russian_Blue", "saint_bernard",
        "yorkshire_terrier", "american_bulldog",
    ),
    "caltech101": (
        "soccer_ball", "metronome", "BACKGROUND_Google", "barrel", "yin_yang", "pagoda",
        "umbrella", "stop_sign",
    ),
    "flowers": (
        "globe thistle", "foxglove", "canterbury bells", "gazania", "love in the mist",
        "sword lily", "colt's foot", "blackberry lily",
    ),
}  # fmt: skip
TRAINING, TEST = 3, 1  # images per class
CALTECH = 32
BANNER = 20  # rows of an image of FGVC-Aircraft that name its photographer


@functools.cache
def official_classes() -> dict[str, list[str]]:
    """The classes of each set in the order of their labels."""
    found: dict[str, list[str]] = {}
    path = Path(__file__).parent / "classes" / "classification.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            found[line.strip("[]")] = own = []
        else:
            own.append(line)
    return found


class Pictures:
    """Pictures of the classes of one set.

    Args:
        pool: per class of the miniature world, its pictures uint8 [64, 64, 3].
        name: of the set.
        size: width and height of the set's pictures.
    """

    def __init__(
        self, pool: Sequence[Sequence[np.ndarray]], name: str, size: tuple[int, int]
    ) -> None:
        self._pool, self._size, self.name = pool, size, name
        self.meaning, self.classes = MEANING[name], official_classes()[name]

    def pixels(self, toy: int, number: int) -> np.ndarray:
        """The picture of a class with a number: one of the pool, or its mirror image."""
        own = self._pool[toy]
        picture = own[number % len(own)]
        picture = picture[:, ::-1] if number // len(own) % 2 else picture
        return cv2.resize(np.ascontiguousarray(picture), self._size)

    def bytes(self, toy: int, number: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
        """The same, encoded."""
        buffer = io.BytesIO()
        options = {"quality": 90} if kind == "JPEG" else {}
        Image.fromarray(self.pixels(toy, number)).convert(mode).save(buffer, kind, **options)
        return buffer.getvalue()

    def each(self, first: int, count: int) -> Iterator[tuple[int, str, int, int]]:
        """(toy, class, label, number) of ``count`` images per class, classes in turn."""
        for number in range(first, first + count):
            for toy, name in enumerate(self.meaning):
                yield toy, name, self.classes.index(name), number


Files = dict[str, bytes]


def packed(files: Files) -> bytes:
    """A compressed tar."""
    return gzip.compress(tar_bytes(files.items()), compresslevel=1, mtime=0)


def text(lines: Sequence[str]) -> bytes:
    """Lines as a file."""
    return "".join(f"{line}\n" for line in lines).encode()


def write_food101(folder: Folder, pictures: Pictures) -> None:
    """``food-101.tar.gz``: images of the class folders, lists as text and as JSON."""
    files: Files = {}
    for part, first, count in (("train", 0, TRAINING), ("test", TRAINING, TEST)):
        own: dict[str, list[str]] = {name: [] for name in sorted(pictures.classes)}
        for toy, name, _, number in pictures.each(first, count):
            own[name].append(f"{name}/{100_391 + 7919 * number + toy}")
            files[f"food-101/images/{own[name][-1]}.jpg"] = pictures.bytes(toy, number)
        names = [path for name in pictures.classes for path in own[name]]
        files[f"food-101/meta/{part}.txt"] = text(names)
        files[f"food-101/meta/{part}.json"] = json.dumps(own).encode()
    files["food-101/meta/classes.txt"] = text(pictures.classes)
    labels = [name.replace("_", " ").capitalize() for name in pictures.classes]
    files["food-101/meta/labels.txt"] = text(labels)
    files["food-101/README.txt"] = b"A miniature of Food-101.\n"
    folder.write("food-101/food-101.tar.gz", packed(files))


def _cifar_batch(pictures: Pictures, images: Sequence[tuple], title: str, key: str) -> bytes:
    pixels = [pictures.pixels(toy, number).transpose(2, 0, 1) for toy, _, _, number in images]
    content = {
        "batch_label": title,
        key: [label for _, _, label, _ in images],
        "data": np.stack(pixels).reshape(len(images), 3072),
        "filenames": [f"{name}_s_{number:06d}.png" for _, name, _, number in images],
    }
    if key == "fine_labels":
        content["coarse_labels"] = [0] * len(images)
    return python2_pickle(content)


def write_cifar10(folder: Folder, pictures: Pictures) -> None:
    """``cifar-10-python.tar.gz``: five batches, the test batch, and the names."""
    images = list(pictures.each(0, TRAINING))
    parts = {f"data_batch_{index + 1}": images[index::5] for index in range(5)}
    parts["test_batch"] = list(pictures.each(TRAINING, TEST))
    files = {
        name: _cifar_batch(pictures, part, f"{name} of a miniature", "labels")
        for name, part in parts.items()
    }
    meta = {"num_cases_per_batch": 5, "label_names": pictures.classes, "num_vis": 3072}
    files["batches.meta"] = python2_pickle(meta)
    home = "cifar-10-batches-py"
    files = {f"{home}/{name}": content for name, content in files.items()}
    folder.write(f"{home}/cifar-10-python.tar.gz", packed(files))


def write_cifar100(folder: Folder, pictures: Pictures) -> None:
    """``cifar-100-python.tar.gz``: train, test, and the names."""
    home = "cifar-100-python"
    files = {f"{home}/meta": python2_pickle({"fine_label_names": pictures.classes})}
    for part, first, count in (("train", 0, TRAINING), ("test", TRAINING, TEST)):
        images = list(pictures.each(first, count))
        files[f"{home}/{part}"] = _cifar_batch(pictures, images, part, "fine_labels")
    folder.write(f"{home}/cifar-100-python.tar.gz", packed(files))


def write_sun397(folder: Folder, pictures: Pictures) -> None:
    """``SUN397.tar.gz`` and ``Partitions.zip``; half of the originals are in no list of a split."""
    files = {"SUN397/ClassName.txt": text([f"/{c[0]}/{c}" for c in pictures.classes])}
    lists: dict[str, list[str]] = {"Training_01": [], "Testing_01": [], "Training_02": []}
    for toy, name, _, number in pictures.each(0, TRAINING + TEST + 1):
        path = f"{name[0]}/{name}/sun_{'abcde'[number]}{'klmnopqr'[toy]}zvqtfnwxyu.jpg"
        mode = {(0, 0): "L", (1, TRAINING): "CMYK"}.get((toy, number), "RGB")
        files[f"SUN397/{path}"] = pictures.bytes(toy, number, mode)
        if number <= TRAINING:
            lists["Training_01" if number < TRAINING else "Testing_01"].append(f"/{path}")
        lists["Training_02"].append(f"/{path}")
    folder.write("SUN397/SUN397.tar.gz", packed(files))
    partitions = {f"{name}.txt": text(sorted(own)) for name, own in lists.items()}
    partitions["ClassName.txt"] = files["SUN397/ClassName.txt"]
    folder.write("SUN397/Partitions.zip", zipped(partitions))


def zipped(files: Files) -> bytes:
    """A .zip whose files have one date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2010, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def _cars_annotations(images: Sequence[tuple[str, int]], labels: bool = True) -> bytes:
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", *(["class"] if labels else []), "fname"]
    entries = np.empty((1, len(images)), dtype=[(field, object) for field in fields])
    for index, (name, label) in enumerate(images):
        entries[0, index] = (5, 6, 60, 40, *([label + 1] if labels else []), name)
    return mat_bytes({"annotations": entries})


def write_cars(folder: Folder, pictures: Pictures) -> None:
    """Two archives of images, the devkit, whose list of test images has no classes, and that list
    with classes."""
    kit: Files = {}
    for part, first, count in (("train", 0, TRAINING), ("test", TRAINING, TEST)):
        files, images = {}, []
        for toy, _, label, number in pictures.each(first, count):
            images.append((f"{len(images) + 1:05d}.jpg", label))
            mode = "L" if len(images) == 3 else "RGB"
            files[f"cars_{part}/{images[-1][0]}"] = pictures.bytes(toy, number, mode)
        folder.write(f"stanford_cars/cars_{part}.tgz", packed(files))
        kit[f"devkit/cars_{part}_annos.mat"] = _cars_annotations(images, part == "train")
    folder.write("stanford_cars/cars_test_annos_withlabels.mat", _cars_annotations(images))
    names = np.array([pictures.classes], dtype=object)
    kit["devkit/cars_meta.mat"] = mat_bytes({"class_names": names})
    folder.write("stanford_cars/car_devkit.tgz", packed(kit))


def write_aircraft(folder: Folder, pictures: Pictures) -> None:
    """``fgvc-aircraft-2013b.tar.gz``: images with a banner, and lists of variants."""
    data = "fgvc-aircraft-2013b/data"
    files = {f"{data}/variants.txt": text(pictures.classes)}
    lists: dict[str, list[str]] = {}
    for toy, name, _, number in pictures.each(0, TRAINING + TEST):
        part = ("train", "train", "val", "test")[number]
        lists.setdefault(part, []).append(f"{1_025_794 - 1117 * number - toy:07d} {name}")
        path = f"{data}/images/{lists[part][-1][:7]}.jpg"
        picture = np.full((pictures.pixels(toy, 0).shape[0] + BANNER, 96, 3), 255, np.uint8)
        picture[:-BANNER] = pictures.pixels(toy, number)
        files[path] = jpeg_bytes(picture)
    lists["trainval"] = sorted(lists["train"] + lists["val"])
    for part, lines in lists.items():
        files[f"{data}/images_variant_{part}.txt"] = text(lines)
    folder.write("fgvc-aircraft-2013b/fgvc-aircraft-2013b.tar.gz", packed(files))


def write_dtd(folder: Folder, pictures: Pictures) -> None:
    """``dtd-r1.0.1.tar.gz``: class folders, and two of the ten splits."""
    files: Files = {}
    lists: dict[str, list[str]] = {}
    for toy, name, _, number in pictures.each(0, TRAINING + TEST):
        path = f"{name}/{name}_{5 + 7 * number:04d}.jpg"
        files[f"dtd/images/{path}"] = pictures.bytes(toy, number)
        parts = ("train", "train", "val", "test")
        for split in (1, 2):
            lists.setdefault(f"{parts[(number + split - 1) % 4]}{split}", []).append(path)
    for part, lines in lists.items():
        files[f"dtd/labels/{part}.txt"] = text(sorted(lines))
    folder.write("dtd/dtd-r1.0.1.tar.gz", packed(files))


def write_pets(folder: Folder, pictures: Pictures) -> None:
    """Two archives; some images are no JPEGs, and beside them lie files that are no images."""
    images: Files = {"images/Abyssinian_100.mat": mat_bytes({"unused": np.zeros(1)})}
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for toy, name, label, number in pictures.each(0, TRAINING + TEST):
        image = f"{name}_{33 + number}"
        mode, kind = {"Abyssinian_34": ("P", "GIF"), "Russian_Blue_36": ("RGBA", "PNG")}.get(
            image, ("RGB", "JPEG")
        )
        images[f"images/{image}.jpg"] = pictures.bytes(toy, number, mode, kind)
        species = 1 if name[0].isupper() else 2
        line = f"{image} {label + 1} {species} {toy + 1}"
        lists["trainval" if number < TRAINING else "test"].append(line)
    head = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    lists["list"] = [*head, *sorted(lists["trainval"] + lists["test"], key=str.lower)]
    notes = {f"annotations/{name}.txt": text(lines) for name, lines in lists.items()}
    folder.write("oxford-iiit-pet/images.tar.gz", packed(images))
    folder.write("oxford-iiit-pet/annotations.tar.gz", packed(notes))


def write_caltech101(folder: Folder, pictures: Pictures) -> None:
    """``caltech-101.zip``, in which the images are an archive of their own."""
    files = {"101_ObjectCategories/BACKGROUND_Google/tmp": b"no image"}
    drawn = {
        (toy, number): pictures.bytes(toy, number, "L" if number == 1 else "RGB")
        for toy, _, _, number in pictures.each(0, TRAINING + TEST)
    }
    for toy, name, _, number in pictures.each(0, CALTECH):
        path = f"101_ObjectCategories/{name}/image_{number + 1:04d}.jpg"
        files[path] = drawn[toy, number % (TRAINING + TEST)]
    inner = {
        "caltech-101/101_ObjectCategories.tar.gz": packed(files),
        "__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": b"",
    }
    folder.write("caltech101/caltech-101.zip", zipped(inner))


def write_flowers(folder: Folder, pictures: Pictures) -> None:
    """``102flowers.tgz``, labels from 1 and lists of numbers from 1."""
    files, labels = {}, []
    lists: dict[str, list[int]] = {}
    for toy, _, label, number in pictures.each(0, TRAINING + TEST):
        labels.append(label + 1)
        lists.setdefault(("tstid", "trnid", "trnid", "valid")[number], []).append(len(labels))
        files[f"jpg/image_{len(labels):05d}.jpg"] = pictures.bytes(toy, number)
    folder.write("flowers-102/102flowers.tgz", packed(files))
    folder.mat("flowers-102/imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    numbers = {name: np.array([own[::-1]], np.uint16) for name, own in lists.items()}
    folder.mat("flowers-102/setid.mat", numbers)


WRITERS = {
    "food101": (write_food101, (96, 72)),
    "cifar10": (write_cifar10, (32, 32)),
    "cifar100": (write_cifar100, (32, 32)),
    "sun397": (write_sun397, (96, 80)),
    "cars": (write_cars, (96, 64)),
    "aircraft": (write_aircraft, (96, 64)),
    "dtd": (write_dtd, (80, 80)),
    "pets": (write_pets, (72, 96)),
    "caltech101": (write_caltech101, (80, 64)),
    "flowers": (write_flowers, (80, 96)),
}


def write(root: Path, world: World) -> None:
    """The downloads of all ten sets, each in its folder."""
    pool: list[list[np.ndarray]] = [[] for _ in CLASSES]
    for category, picture in world.crops("classification", "train"):
        pool[category].append(picture)
    folder = Folder(root)
    for name, (function, size) in WRITERS.items():
        function(folder, Pictures(pool, name, size))
