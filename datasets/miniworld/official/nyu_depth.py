"""NYU Depth v2 as fast-depth's archive has it: one HDF5 file per picture, in three scenes.

"rgb" is [3, H, W], "depth" float32 in metres. The sky and what is beyond the sensor's range have no
depth: a zero, in one test picture NaN, which such a file may hold too.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from .. import formats
from .world import World

SCENES = ("bedroom_0001", "kitchen_0003", "nyu_office_0")
RANGE = 10.0  # metres
NAN_AT = 4  # test picture


def h5_bytes(pixels: np.ndarray, depth: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] and its depths [H, W] as an HDF5 file.

    Raises:
        ValueError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise ValueError(
            "the miniature of NYU Depth v2 is made of HDF5 files and h5py, which writes them, is "
            "not installed; run `pip install h5py`"
        ) from None
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("rgb", data=pixels.transpose(2, 0, 1))
        file.create_dataset("depth", data=depth.astype(np.float32))
    return buffer.getvalue()


def seen_depth(depth: np.ndarray) -> np.ndarray:
    """Depths [H, W] that the sensor measures; 0 elsewhere."""
    return np.where(depth <= RANGE, depth, 0)


def write(root: Path, world: World) -> None:
    """``nyudepthv2/{train/<scene>,val/official}/*.h5``."""
    folder = formats.Folder(root / "nyudepthv2")
    for index, picture in enumerate(world.scenes("nyu_depth", "train")):
        scene, frame = SCENES[index % len(SCENES)], 1 + 10 * (index // len(SCENES))
        content = h5_bytes(picture.pixels, seen_depth(picture.depth))
        folder.write(f"train/{scene}/{frame:05d}.h5", content)
    for index, picture in enumerate(world.scenes("nyu_depth", "val")):
        depth = seen_depth(picture.depth)
        if index == NAN_AT:
            depth = np.where(depth > 0, depth, np.nan)
        folder.write(f"val/official/{index * 8 + 1:05d}.h5", h5_bytes(picture.pixels, depth))
