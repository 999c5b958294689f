"""KITTI depth, Eigen split: 23,158 training and 652 test images with depth from a laser scanner.

Layout, below ``kitti_depth`` (drives are named <date>_drive_<number>_sync):

    raw/<date>/<drive>/image_02/data/*.png (or .jpg)                      the raw recordings
    data_depth_annotated/{train,val}/<drive>/proj_depth/groundtruth/...   16 bit, metres x 256
    splits/eigen_{train,test}_files_with_gt.txt                           the lists of BTS
    splits/eigen_{train,test}.txt                                         made from them

``datasets/prepare_kitti_depth.py`` makes the last two: the images that have a depth map (the Eigen
split has 697 test images, and 45 of them have none), a line each: image, depth map (both below
``kitti_depth``) and the focal length in pixels. Evaluated is what lies between 1 mm and 80 m.
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.registration import register_dataset

DEPTH_RANGE = (1e-3, 80.0)
DEPTH_SCALE = 256.0


def load_list(
    list_file: str, image_root: str, depth_root: str, depth_scale: float = DEPTH_SCALE
) -> list[dict]:
    """Records of a list with lines "image depth-map focal-length".

    Args:
        list_file: the list.
        image_root: folder that its images are relative to.
        depth_root: folder that its depth maps are relative to.
        depth_scale: units of the depth maps per metre.

    Returns:
        A record per line, with "focal_length" in pixels.

    Raises:
        ValueError: a line does not have these three entries.
    """
    with open(list_file) as file:
        lines = file.read().splitlines()
    records = []
    for index, line in enumerate(lines):
        try:
            image, depth, focal = line.split()
            focal_length = float(focal)
        except ValueError:
            raise ValueError(
                f"line {index + 1} of '{list_file}' is {line!r}, expected an image, a depth map "
                "and a focal length; make the list anew"
            ) from None
        records.append(
            {
                "file_name": os.path.join(image_root, image),
                "image_id": index,
                "depth_file_name": os.path.join(depth_root, depth),
                "depth_scale": depth_scale,
                "focal_length": focal_length,
            }
        )
    return records


def register(root: str) -> None:
    """Register ``kitti_eigen_{train,test}``; ``root`` holds ``kitti_depth``."""
    folder = os.path.join(root, "kitti_depth")
    for split in ("train", "test"):
        list_file = os.path.join(folder, "splits", f"eigen_{split}.txt")
        register_dataset(
            f"kitti_eigen_{split}",
            root,
            functools.partial(load_list, list_file, folder, folder),
            hint=f"run `python datasets/prepare_kitti_depth.py --root {root}` on the downloads",
            depth_range=DEPTH_RANGE,
            evaluator_type="depth",
        )
