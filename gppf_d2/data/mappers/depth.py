"""Samples for monocular depth: image and depth map augmented alike, depths never interpolated.

A record says how to read its depth map:

    depth_file_name   single-channel PNG, 16 bit
    depth_scale       units of the file per metre (KITTI 256, millimetres 1000)
    depth_invalid     values of the file without a measurement, beside 0 (default: none)
    focal_length      of the camera, in pixels of the file (optional)

The sample's depth is in metres, 0 where there is no measurement. Resizing an image does not change
its depths: an image seen at twice the size is that of a camera with twice the focal length, not of
a scene at half the distance. A network that is to be right in metres must therefore see training
and test images at comparable focal lengths: choose the augmentation's range of sizes accordingly,
or a head that knows focal lengths. The sample's is that of its image, after resizing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import transforms as T

from gppf_d2.data.mappers.measurements import MeasurementMapper
from gppf_d2.data.mappers.pixel_sources import pixel_sources
from gppf_d2.data.mappers.reading import read_map


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

    Pixels are taken by nearest, sampled at the same pixel centres as the image, as Detectron2
    resizes uint8 labels; its path for float maps is shifted by up to half a pixel of the source.
    Under transforms without ``pixel_sources`` the four bytes of each float32 therefore travel as
    the channels of a label image: pixels that a transform pads hold bytes of 0 or 255, that is 0.0
    or NaN, and become invalid.

    Args:
        transforms: what the augmentations did to the image.
        depth: float32 [H, W] in metres.

    Returns:
        float32 [H', W'] in metres, 0 where there is no measurement.
    """
    sources = pixel_sources(transforms, depth.shape)
    if sources is not None:
        return sources.take(depth, 0)
    planes = np.ascontiguousarray(depth).view(np.uint8).reshape(*depth.shape, 4)
    planes = np.ascontiguousarray(transforms.apply_segmentation(planes))
    return np.nan_to_num(planes.view(np.float32)[..., 0], nan=0.0)


class DepthMapper(MeasurementMapper):
    """Image and depth map, see `MeasurementMapper`; "depth" is float32 [H', W'], 0 = invalid."""

    measured = "depth"

    def read(self, record: dict[str, Any]) -> np.ndarray:
        return read_depth(record)

    def move(self, transforms: T.Transform, values: np.ndarray) -> np.ndarray:
        return transform_depth(transforms, values)
