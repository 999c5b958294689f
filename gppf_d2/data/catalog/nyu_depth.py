"""NYU Depth v2 as fast-depth and sparse-to-dense distribute it: 47,584 and 654 images, indoors.

Layout, below ``nyudepthv2``:

    {train/<scene>,val/official}/*.h5            the download: "rgb" [3, H, W], "depth" in metres
    {images,depth}/{train/<scene>,test}/*.png    made: the same pictures, 16-bit millimetres
    {train,test}.txt                             made: image, depth map, focal length in pixels

``datasets/prepare_nyu_depth.py`` makes the PNGs. The test images are the 654 of the official split;
evaluated is what lies between 1 mm and 10 m, in most papers within the crop "nyu_eigen".
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.catalog.kitti_depth import load_list
from gppf_d2.data.registration import register_dataset

DEPTH_RANGE = (1e-3, 10.0)
DEPTH_SCALE = 1000.0
SIZES = {"train": 47_584, "test": 654}


def register(root: str) -> None:
    """Register ``nyu_depth_{train,test}``; ``root`` holds ``nyudepthv2``."""
    folder = os.path.join(root, "nyudepthv2")
    for split, size in SIZES.items():
        list_file = os.path.join(folder, f"{split}.txt")
        register_dataset(
            f"nyu_depth_{split}",
            root,
            functools.partial(load_list, list_file, folder, folder, DEPTH_SCALE),
            hint=f"run `python datasets/prepare_nyu_depth.py --root {root}` on the download",
            depth_range=DEPTH_RANGE,
            evaluator_type="depth",
            official_size=size,
        )
