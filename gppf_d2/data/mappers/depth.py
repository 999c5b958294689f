"""Samples for monocular depth: image and depth map augmented alike, depths never interpolated.

A record says how to read its depth map:

    depth_file_name   single-channel PNG, 16 bit
    depth_scale       units of the file per metre (KITTI 256, millimetres 1000)
    depth_invalid     values of the file without a measurement, beside 0 (default: none)

The sample's depth is in metres, 0 where there is no measurement. Resizing an image does not change
its depths: an image seen at twice the size is that of a camera with twice the focal length, not of
a scene at half the distance. A network that is to be right in metres must therefore see training
and test images at comparable focal lengths; choose the augmentation's range of sizes accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T

from gppf_d2.data.mappers.reading import check_image_format, read_image, read_map


def read_depth(record: dict[str, Any]) -> np.ndarray:
    """Read the depth map of a record whose "height" and "width" are known.

    Args:
        record: see the module's docstring.

    Returns:
        float32 [H, W] in metres, 0 where there is no measurement.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has another size than the image, or ``depth_scale`` is not positive.
    """
    scale = record.get("depth_scale")
    if not isinstance(scale, (int, float)) or not scale > 0:
        raise ValueError(
            f"'{record['depth_file_name']}' has depth_scale {scale!r} in its record, expected the "
            "positive number of file units per metre (256 for KITTI, 1000 for millimetres)"
        )
    values = read_map(record["depth_file_name"], record["height"], record["width"])
    valid = (values > 0) & ~np.isin(values, record.get("depth_invalid", ()))
    return np.where(valid, values / scale, 0).astype(np.float32)


def transform_depth(transforms: T.Transform, depth: np.ndarray) -> np.ndarray:
    """Apply the geometry of transforms to a depth map without inventing depths.

    The four bytes of each float32 travel as the channels of a label image: Detectron2 resizes uint8
    labels by nearest, sampled at the same pixel centres as the image, whereas its path for float
    maps is shifted by up to half a pixel of the source. Pixels that a transform pads hold bytes of
    0 or 255, that is 0.0 or NaN, and become invalid.

    Args:
        transforms: what the augmentations did to the image.
        depth: float32 [H, W] in metres.

    Returns:
        float32 [H', W'] in metres, 0 where there is no measurement.
    """
    planes = np.ascontiguousarray(depth).view(np.uint8).reshape(*depth.shape, 4)
    planes = np.ascontiguousarray(transforms.apply_segmentation(planes))
    return np.nan_to_num(planes.view(np.float32)[..., 0], nan=0.0)


class DepthMapper:
    """Read an image and its depth map and augment both alike.

    Args:
        is_train: training or evaluation. In evaluation the depth map stays at the size of the file
            ("height" x "width"), where predictions are compared with it.
        augmentations: Detectron2 augmentations.
        image_format: "RGB" or "BGR".
    """

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

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: with "file_name" and the keys of the module's docstring (they are optional in
                evaluation).

        Returns:
            The record with "image" uint8 [3, H', W'] and "depth" float32 in metres, 0 = invalid:
            [H', W'] in training, ["height", "width"] in evaluation.

        Raises:
            OSError: a file cannot be read.
            ValueError: no depth map in training, a wrong size or scale.
        """
        sample = dict(record)
        image = read_image(sample, self.image_format)
        if "depth_file_name" in sample:
            depth = read_depth(sample)
        elif self.is_train:
            raise ValueError(
                f"'{sample['file_name']}' has no 'depth_file_name' in its record; training on "
                "depth needs a depth map for every image"
            )
        else:
            depth = None
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        sample["image"] = torch.as_tensor(image)
        if depth is not None:
            depth = transform_depth(transforms, depth) if self.is_train else depth
            sample["depth"] = torch.as_tensor(depth)
        return sample
