"""ImageNet-1K as downloaded: the tar of class tars, the flat validation tar, the devkit.

The eight classes of the miniature world stand for eight of the 1,000; as in the official devkit the
numbers of classes are not in the order of their WordNet ids, and ancestors follow the classes.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ..formats import Folder, mat_bytes
from ..scene import CLASSES
from .world import World

# class of the miniature world -> WordNet id and name; all three ImageNet sets have them
MEANING = {
    "ball": ("n04254680", "soccer ball"),
    "cone": ("n07614500", "ice cream, icecream"),
    "crate": ("n03127925", "crate"),
    "drum": ("n03249569", "drum, membranophone, tympan"),
    "gem": ("n03814906", "necklace"),
    "house": ("n03028079", "church, church building"),
    "mushroom": ("n07734744", "mushroom"),
    "ring": ("n07695742", "pretzel"),
}
ANCESTORS = (("n00021939", "artifact, artefact"), ("n00021265", "food, nutrient"))


def jpeg_bytes(picture: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def tar_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar of files, without dates and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def class_files(world: World, dataset: str, split: str) -> dict[str, list[tuple[str, bytes]]]:
    """WordNet id -> (file name, JPEG) of a split; the numbers in the names have gaps."""
    files: dict[str, list[tuple[str, bytes]]] = {}
    for number, (category, picture) in enumerate(world.crops(dataset, split)):
        wnid = MEANING[CLASSES[category]][0]
        # one class has numbers that do not fit 16 bits
        number = 26 + 1117 * number + (70_000 if wnid == MEANING["gem"][0] else 0)
        files.setdefault(wnid, []).append((f"{wnid}_{number}.JPEG", jpeg_bytes(picture)))
    return files


def _synsets(order: list[str], images: dict[str, int]) -> np.ndarray:
    names = dict([*MEANING.values(), *ANCESTORS])
    kind = [
        (field, object)
        for field in (
            "ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children",
            "wordnet_height", "num_train_images",
        )
    ]  # fmt: skip
    synsets = np.empty((len(order), 1), dtype=kind)
    for row, wnid in enumerate(order):
        children = np.arange(1, len(MEANING) + 1) if row >= len(MEANING) else np.empty(0)
        synsets[row, 0] = (
            row + 1, wnid, names[wnid], names[wnid], len(children), children,
            int(row >= len(MEANING)), images.get(wnid, 0),
        )  # fmt: skip
    return synsets


def write(root: Path, world: World) -> None:
    """``imagenet/ILSVRC2012_{img_train.tar,img_val.tar,devkit_t12.tar.gz}``."""
    folder = Folder(root)
    train = class_files(world, "imagenet", "train")
    tars = [(f"{wnid}.tar", tar_bytes(files)) for wnid, files in sorted(train.items())]
    folder.write("imagenet/ILSVRC2012_img_train.tar", tar_bytes(tars))
    order = [MEANING[name][0] for name in CLASSES] + [wnid for wnid, _ in ANCESTORS]
    val, truth = [], []
    for number, (category, picture) in enumerate(world.crops("imagenet", "val"), start=1):
        val.append((f"ILSVRC2012_val_{number:08d}.JPEG", jpeg_bytes(picture)))
        truth.append(order.index(MEANING[CLASSES[category]][0]) + 1)
    folder.write("imagenet/ILSVRC2012_img_val.tar", tar_bytes(val))
    images = {wnid: len(files) for wnid, files in train.items()}
    meta = mat_bytes({"synsets": _synsets(order, images)})
    kit = tar_bytes(
        [
            ("ILSVRC2012_devkit_t12/data/meta.mat", meta),
            (
                "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
                "".join(f"{number}\n" for number in truth).encode(),
            ),
        ]
    )
    packed = gzip.compress(kit, mtime=0)
    folder.write("imagenet/ILSVRC2012_devkit_t12.tar.gz", packed)
