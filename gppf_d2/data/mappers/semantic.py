"""Samples for semantic segmentation: Detectron2's augmentations, labels cleaned and checked.

Detectron2's ``DatasetMapper`` takes the values of the file as they are; many datasets write void as
a class of its own (CamVid: 11) or start at 1 (ADE20K as published). A record says so itself:

    sem_seg_file_name   single-channel PNG, 8 bit or palette
    sem_seg_ignore      values of the file that mean "not labelled" (default: none)
    sem_seg_offset      value of the file for class 0; lower values mean "not labelled" (default: 0)

255 always means "not labelled", in the file and in the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from gppf_d2.data.mappers.reading import check_image_format, read_image, read_map

IGNORE = 255


def read_labels(record: dict[str, Any], num_classes: int | None = None) -> np.ndarray:
    """Read the label map of a record whose "height" and "width" are known.

    Args:
        record: see the module's docstring.
        num_classes: number of classes K; labels are checked against it where it is given.

    Returns:
        uint8 [H, W] with classes in [0, K) and 255 for pixels to ignore.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has another size than the image, or a label out of range.
    """
    file_name = record["sem_seg_file_name"]
    values = read_map(file_name, record["height"], record["width"])
    labels = values - record.get("sem_seg_offset", 0)
    ignored = (values == IGNORE) | (labels < 0) | np.isin(values, record.get("sem_seg_ignore", ()))
    limit = IGNORE if num_classes is None else num_classes
    wrong = values[(labels >= limit) & ~ignored]
    if wrong.size:
        first = record.get("sem_seg_offset", 0)
        raise ValueError(
            f"'{file_name}' holds the label {wrong.max()}, expected {first} to {first + limit - 1} "
            f"or {IGNORE} for pixels to ignore; correct the file or the task's number of classes"
        )
    return np.where(ignored, IGNORE, labels).astype(np.uint8)


class SemanticMapper:
    """Read an image and its label map and augment both alike.

    Args:
        is_train: training or evaluation. In evaluation the label map stays at the size of the file
            ("height" x "width"), where predictions are compared with it.
        augmentations: Detectron2 augmentations. Those that pad labels must pad with 255, as
            ``FixedSizeCrop`` does.
        image_format: "RGB" or "BGR".
        num_classes: number of classes K; labels are checked against it where it is given.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        num_classes: int | None = None,
    ) -> None:
        if num_classes is not None and not 0 < num_classes <= IGNORE:
            raise ValueError(f"num_classes is {num_classes}, expected 1 to {IGNORE}")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = check_image_format(image_format)
        self.num_classes = num_classes

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: with "file_name" and "sem_seg_file_name" (optional in evaluation).

        Returns:
            The record with "image" uint8 [3, H', W'] and "sem_seg" int64: [H', W'] in training,
            ["height", "width"] in evaluation.

        Raises:
            OSError: a file cannot be read.
            ValueError: no label map in training, or labels out of range.
        """
        sample = dict(record)
        image = read_image(sample, self.image_format)
        if "sem_seg_file_name" in sample:
            labels = read_labels(sample, self.num_classes)
        elif self.is_train:
            raise ValueError(
                f"'{sample['file_name']}' has no 'sem_seg_file_name' in its record; training on "
                "semantic segmentation needs a label map for every image"
            )
        else:
            labels = None
        augmented = T.AugInput(image, sem_seg=labels if self.is_train else None)
        self.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        sample["image"] = torch.as_tensor(image)
        if labels is not None:
            labels = augmented.sem_seg if self.is_train else labels
            sample["sem_seg"] = torch.as_tensor(labels.astype(np.int64))
        return sample
