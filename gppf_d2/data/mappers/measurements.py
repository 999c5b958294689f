"""What mappers of measured maps (depth, normals) share: image and map augmented alike.

In training the map follows the image. In evaluation it stays at the size of the file, where
predictions are compared with it; the image may be a part of the file then (a crop), and the
sample's "window" says which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from gppf_d2.data.mappers.reading import check_image_format, read_image


def seen_window(
    transforms: T.Transform, size: tuple[int, int], file_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The part of the file that an image shows after crops, resizes and paddings.

    Args:
        transforms: what was done to the file's image.
        size: (height, width) of the result, in pixels.
        file_size: (height, width) of the file.

    Returns:
        x0, y0, x1, y1 in pixels of the file; beyond it where the image was padded.
    """
    corners = np.array([[0.0, 0.0], [file_size[1], file_size[0]]])
    first, last = transforms.apply_coords(corners.copy())
    scale = (last - first) / corners[1]
    window = np.concatenate([-first / scale, (np.array(size[::-1]) - first) / scale])
    return tuple(int(value) for value in window.round())


def enlargement(transforms: T.Transform) -> float:
    """By which factor transforms stretch what was horizontal; a focal length is as much longer."""
    start, end = transforms.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0]]))
    return float(np.hypot(*(end - start)))


class MeasurementMapper(ABC):
    """Read an image and a map of measurements and augment both alike.

    Args:
        is_train: training or evaluation. In evaluation the map stays at the size of the file
            ("height" x "width"), where predictions are compared with it.
        augmentations: Detectron2 augmentations.
        image_format: "RGB" or "BGR".

    Attributes:
        measured: what the map holds; its key in a sample. The record names its file under
            "<measured>_file_name".
    """

    measured: str

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = check_image_format(image_format)

    @abstractmethod
    def read(self, record: dict[str, Any]) -> np.ndarray:
        """The map [..., H, W] of a record whose "height" and "width" are known."""

    @abstractmethod
    def move(self, transforms: T.Transform, values: np.ndarray) -> np.ndarray:
        """The map after what was done to the image, in training."""

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: with "file_name" and what its map needs (optional in evaluation).

        Returns:
            The record with "image" uint8 [3, H', W'] and the map: of the image's size in training,
            of "height" x "width" in evaluation, where "window" is the part of the file that the
            image shows, if it is not the whole. "focal_length" is in pixels of the image.

        Raises:
            OSError: a file cannot be read.
            ValueError: no map in training, or one that cannot be right.
        """
        sample, values = dict(record), None
        image = read_image(sample, self.image_format)
        if f"{self.measured}_file_name" in sample:
            values = self.read(sample)
        elif self.is_train:
            raise ValueError(
                f"'{sample['file_name']}' has no '{self.measured}_file_name' in its record; "
                f"training on {self.measured} needs a map for every image"
            )
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        file_size, size = image.shape[:2], augmented.image.shape[:2]
        if "focal_length" in sample:
            sample["focal_length"] *= enlargement(transforms)
        if not self.is_train:
            window = seen_window(transforms, size, file_size)
            if window != (0, 0, file_size[1], file_size[0]):
                sample["window"] = window
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        sample["image"] = torch.as_tensor(image)
        if values is not None:
            values = self.move(transforms, values) if self.is_train else values
            sample[self.measured] = torch.as_tensor(np.ascontiguousarray(values))
        return sample
