"""ImageNet-1K (ILSVRC 2012): classification, 1,281,167 and 50,000 images of 1,000 classes.

Layout: ``imagenet/{train,val}/<WordNet id>/*.JPEG``, which ``datasets/prepare_imagenet.py`` makes
from the official tars. The label of a class is the rank of its WordNet id among the 1,000, as in
torchvision and timm, also where folders are missing. ``imagenet_classes.txt`` lists the classes of
all ImageNet releases; names are WordNet's.
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.index.image_folder import ImageFolderSource
from gppf_d2.data.registration import register_dataset


@functools.cache
def _table() -> list[list[str]]:
    path = os.path.join(os.path.dirname(__file__), "imagenet_classes.txt")
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split(" ", 2) for line in file if not line.startswith("#")]


@functools.cache
def classes_of(release: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of a release in the order of their labels.

    Args:
        release: "1" for ImageNet-1K, "P" for ImageNet-21K-P winter21, "F" for ImageNet-21K fall11.

    Returns:
        WordNet ids, sorted, and names; a class without a name in the table has its id as name.
    """
    rows = [row for row in _table() if release in row[1]]
    return tuple(row[0] for row in rows), tuple(row[2] if row[2:] else row[0] for row in rows)


def register_image_folder(name: str, root: str, folder: str, release: str, script: str) -> None:
    """Register one split of an ImageNet release.

    Args:
        name: name of the dataset.
        root: folder of all datasets.
        folder: folder of the split, below ``root``.
        release: see ``classes_of``.
        script: the file in ``datasets/`` that prepares it.
    """
    wordnet_ids, names = classes_of(release)
    register_dataset(
        name,
        root,
        source=ImageFolderSource(os.path.join(root, folder), wordnet_ids, name),
        hint=f"run `python datasets/{script} --root {root}` on the official download",
        classes=list(names),
        wordnet_ids=list(wordnet_ids),
        evaluator_type="classification",
    )


def register(root: str) -> None:
    """Register ``imagenet_1k_{train,val}``; ``root`` is the folder that holds ``imagenet``."""
    for split in ("train", "val"):
        folder = os.path.join("imagenet", split)
        register_image_folder(f"imagenet_1k_{split}", root, folder, "1", "prepare_imagenet.py")
