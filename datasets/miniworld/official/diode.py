"""DIODE as unpacked, depth and normals over each other: outdoors in two scenes, a little indoors.

The names of pictures end with the angles of the view. ``_normal.npy`` holds unit vectors with x
right, y up, z to the viewer and zeros for the sky; one training picture has none, as in the
release. ``_depth.npy`` [H, W, 1] and ``_depth_mask.npy`` belong to DIODE Depth.
"""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import numpy as np

from .. import formats
from .world import Picture, World

# (part, split) -> (scene, scan) pairs
PARTS = {
    ("outdoor", "train"): ((7, 82), (10, 100)),
    ("outdoor", "val"): ((22, 193),),
    ("indoors", "train"): ((0, 0),),
    ("indoors", "val"): ((19, 183),),
}
INDOORS = 2  # pictures
WITHOUT_NORMALS = 6  # training picture


def _array(folder: formats.Folder, name: str, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    folder.write(name, buffer.getvalue())


def _write_picture(folder: formats.Folder, name: str, picture: Picture, normals: bool) -> None:
    folder.png(f"{name}.png", picture.pixels)
    _array(folder, f"{name}_depth.npy", picture.depth[..., None].astype(np.float32))
    _array(folder, f"{name}_depth_mask.npy", (picture.depth > 0).astype(np.float32))
    if normals:
        _array(folder, f"{name}_normal.npy", picture.normal.astype(np.float32))


def write(root: Path, world: World) -> None:
    """``diode/{train,val}/{outdoor,indoors}/scene_*/scan_*``."""
    folder = formats.Folder(root / "diode")
    for (part, split), scans in PARTS.items():
        pictures = world.scenes(f"diode_{part}", split)
        for index, picture in enumerate(islice(pictures, INDOORS if part == "indoors" else None)):
            scene, scan = scans[index % len(scans)]
            place = f"{split}/{part}/scene_{scene:05d}/scan_{scan:05d}"
            view = f"{index // len(scans) * 10:03d}_{index % 3 * 10:03d}"
            name = f"{place}/{scene:05d}_{scan:05d}_{part}_{view}"
            _write_picture(folder, name, picture, (split, index) != ("train", WITHOUT_NORMALS))
