"""Samples for surface normals: image and unit vectors augmented alike.

A record says how to read its normals:

    normals_file_name   RGB PNG with (n + 1) / 2 x 255, black = none; .npy [H, W, 3]; or .mat with
                        one array of that shape, (0, 0, 0) or NaN = none
    normals_signs       factors of 1 or -1 that turn the file's axes into ours (default 1, 1, 1)

Ours are x to the right, y up, z from the surface to the viewer; (0, 0, 0) means "none". A mirrored
or rotated image shows a mirrored or rotated surface, so its vectors turn with it. Resizing turns
nothing: as for depth, it is another focal length, not another surface.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from PIL import Image

from gppf_d2.data.mappers.depth import transform_depth
from gppf_d2.data.mappers.measurements import MeasurementMapper
from gppf_d2.data.mappers.reading import readable

SHORTEST = 0.5  # vectors of a file that are shorter are none: rounding does not shorten so much


def read_normals(record: dict[str, Any]) -> np.ndarray:
    """Read the normals of a record whose "height" and "width" are known.

    Args:
        record: see the module's docstring.

    Returns:
        float32 [H, W, 3] of unit length, (0, 0, 0) where there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: not three values a pixel, another size than the image, or signs that are none.
    """
    name = record["normals_file_name"]
    signs = np.asarray(record.get("normals_signs", (1, 1, 1)))
    if signs.shape != (3,) or not np.isin(signs, (-1, 1)).all():
        raise ValueError(
            f"'{name}' has normals_signs {record['normals_signs']!r} in its record, expected three "
            "factors of 1 or -1, for x, y and z"
        )
    vectors = _read_vectors(name)
    if vectors.ndim != 3 or vectors.shape[2] != 3:
        raise ValueError(
            f"'{name}' holds an array of shape {list(vectors.shape)}, expected normals [H, W, 3]"
        )
    height, width = record["height"], record["width"]
    if vectors.shape[:2] != (height, width):
        raise ValueError(
            f"'{name}' is {vectors.shape[1]} x {vectors.shape[0]}, its image {width} x {height}; "
            "restore the file that belongs to the image"
        )
    vectors = vectors.astype(np.float32)
    vectors[~np.isfinite(vectors)] = 0
    length = np.sqrt(np.einsum("hwc,hwc->hw", vectors, vectors))
    factor = np.where(length < SHORTEST, 0, 1 / length.clip(SHORTEST))
    vectors *= factor.astype(np.float32)[..., None]
    return vectors * signs.astype(np.float32)


def _read_vectors(name: str) -> np.ndarray:
    """The array in a file, colours turned into vectors."""
    with readable(name), PathManager.open(name, "rb") as file:
        if name.endswith(".npy"):
            return np.load(file, allow_pickle=False)
        if name.endswith(".mat"):
            return _read_mat(file)
        colors = np.asarray(Image.open(file).convert("RGB"))
    return np.where((colors > 0).any(-1, keepdims=True), colors / 127.5 - 1, 0)


def _read_mat(file: Any) -> np.ndarray:
    from scipy.io import loadmat

    try:
        content = loadmat(file)
    except Exception as error:  # whatever its parser stumbles on
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error
    arrays = [v for v in content.values() if isinstance(v, np.ndarray) and v.shape[2:] == (3,)]
    if len(arrays) != 1:
        raise ValueError(f"it has {len(arrays)} arrays [H, W, 3], expected one")
    return arrays[0]


def transform_normals(transforms: T.Transform, normals: np.ndarray) -> np.ndarray:
    """Apply the geometry of transforms to normals without inventing any.

    Pixels are taken by nearest (`transform_depth`); vectors turn by the rotation or reflection that
    is nearest to the transforms' linear part, whose scale does not count.

    Args:
        transforms: what the augmentations did to the image; flips, rotations, crops, resizes, pads.
        normals: float32 [H, W, 3].

    Returns:
        float32 [H', W', 3], (0, 0, 0) where there is none.
    """
    moved = [transform_depth(transforms, normals[..., axis]) for axis in range(3)]
    start, right, down = transforms.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    left, _, other = np.linalg.svd(np.stack([right - start, down - start], axis=1))
    turn = left @ other
    x, y = moved[0], -moved[1]  # rows of an image count downwards
    moved[0], moved[1] = turn[0, 0] * x + turn[0, 1] * y, -(turn[1, 0] * x + turn[1, 1] * y)
    return np.stack(moved, axis=-1).astype(np.float32)


class NormalsMapper(MeasurementMapper):
    """Image and normals, see `MeasurementMapper`; "normals" are float32 [3, H', W']."""

    measured = "normals"

    def read(self, record: dict[str, Any]) -> np.ndarray:
        return read_normals(record).transpose(2, 0, 1)

    def move(self, transforms: T.Transform, values: np.ndarray) -> np.ndarray:
        return transform_normals(transforms, values.transpose(1, 2, 0)).transpose(2, 0, 1)
