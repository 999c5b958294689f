"""CIFAR-10 as JPEG files: classification of objects, 32 x 32 pixels, 10 classes.

Layout: ``cifar10_images/{train,test}/<class>/NNNN.jpg``; the folder name is the class. Datasets
``cifar10_images_train`` and ``cifar10_images_test`` are the official splits (Krizhevsky, 2009).
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.class_folders import list_class_folders
from gppf_d2.data.registration import register_dataset

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def load(root: str, split: str) -> list[dict]:
    """List the images of one split, class by class.

    Args:
        root: folder that holds ``cifar10_images``.
        split: "train" or "test".

    Returns:
        Records with "file_name", "height", "width", "image_id" and "label" in [0, 10).

    Raises:
        ValueError: the class folders are not the ten of CIFAR-10.
    """
    folder = os.path.join(root, "cifar10_images", split)
    files = list_class_folders(folder, CLASSES, ".jpg", "restore the original folders")
    return [
        {"file_name": path, "height": 32, "width": 32, "image_id": index, "label": label}
        for index, (path, label) in enumerate(files)
    ]


def register(root: str) -> None:
    """Register both splits; ``root`` is the folder that holds ``cifar10_images``."""
    for split in ("train", "test"):
        register_dataset(
            f"cifar10_images_{split}",
            root,
            functools.partial(load, root, split),
            classes=list(CLASSES),
            evaluator_type="classification",
        )
