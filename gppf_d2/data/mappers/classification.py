"""Samples for classification: torchvision v2 transforms on the image, the label checked.

Shapes: H W of the file, S = ``image_size``, K classes. The image leaves as uint8 or float [3, S,
S]; normalisation is the model's job. The paper's train transform, with RandAugment and Random
Erasing, is ``image_transforms.classification_recipe``; MixUp and CutMix work on batches and are in
``batch_transforms``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from gppf_d2.data.mappers.reading import check_image_format, read_image


def default_transform(is_train: bool, image_size: int) -> Callable[[Tensor], Tensor]:
    """The usual ImageNet transform: random resized crop and flip, or resize and centre crop.

    Args:
        is_train: training or evaluation.
        image_size: side of the square output, in pixels.

    Returns:
        A transform of uint8 RGB [3, H, W] to uint8 RGB [3, image_size, image_size]. For evaluation
        the shorter side is first resized to 8/7 of ``image_size`` (256 for 224).
    """
    if is_train:
        return v2.Compose([v2.RandomResizedCrop(image_size), v2.RandomHorizontalFlip()])
    return v2.Compose([v2.Resize(round(image_size * 8 / 7)), v2.CenterCrop(image_size)])


def read_class(record: dict[str, Any], num_classes: int | None = None) -> int:
    """The class of a record.

    Args:
        record: with "label".
        num_classes: number of classes K; the class is checked against it where it is given.

    Raises:
        ValueError: there is no class, or one out of range.
    """
    label = record.get("label")
    whole = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
    if not whole or label < 0 or (num_classes is not None and label >= num_classes):
        limit = "" if num_classes is None else f" and below {num_classes}"
        raise ValueError(
            f"'{record['file_name']}' has label {label!r}, expected a whole number from "
            f"0{limit}; correct the dataset or the task's number of classes"
        )
    return int(label)


class ClassificationMapper:
    """Read an image, transform it, and attach its label.

    Args:
        is_train: training or evaluation; chooses the default transform, and in training a record
            must have a label.
        image_size: side of the output of the default transform, in pixels.
        image_format: "RGB" or "BGR", the channel order of the output. The transform always sees
            RGB.
        transform: callable on uint8 RGB [3, H, W] that replaces the default; its random draws must
            come from the global generators, as torchvision's do.
        num_classes: number of classes K; labels are checked against it where it is given.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        image_size: int = 224,
        image_format: str = "RGB",
        transform: Callable[[Tensor], Tensor] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.is_train = is_train
        self.image_format = check_image_format(image_format)
        self.transform = transform or default_transform(is_train, image_size)
        self.num_classes = num_classes

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: with "file_name" and "label" (optional in evaluation).

        Returns:
            The record with "image" [3, S, S] and "height", "width" of the file.

        Raises:
            OSError: the image cannot be read.
            ValueError: the label is missing in training or out of range.
        """
        sample = dict(record)
        if self.is_train or "label" in sample:
            sample["label"] = read_class(sample, self.num_classes)
        # copied: what PIL hands out is read-only, and in-place transforms write
        image = read_image(sample, "RGB").transpose(2, 0, 1).copy()
        image = self.transform(torch.from_numpy(image))
        sample["image"] = image.flip(0) if self.image_format == "BGR" else image
        return sample
