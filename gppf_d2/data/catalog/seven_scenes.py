"""7-Scenes: depth of an indoor room from a Kinect-type sensor, 640 x 480.

Layout: ``seven_scenes_depth/data/frame-NNNNNN.{color.jpg,depth.png,pose.txt}``; depth is 16 bit in
millimetres, 0 and 65535 are invalid. ``suggested_split.json`` names the frames of
``seven_scenes_{train,val}``: one room filmed once, so the validation frames are no unseen scene.
Depths lie between 0.8 m and 4 m; the range that is evaluated is that of indoor sensors, 0.1 m to 10
m.
"""

from __future__ import annotations

import functools
import json
import os

from gppf_d2.data.registration import register_dataset

DEPTH_RANGE = (0.1, 10.0)


def load(root: str, split: str) -> list[dict]:
    """Records of one split ("train" or "val") in frame order."""
    folder = os.path.join(root, "seven_scenes_depth")
    with open(os.path.join(folder, "suggested_split.json")) as file:
        frames = json.load(file)[split]
    return [
        {
            "file_name": os.path.join(folder, "data", f"frame-{frame}.color.jpg"),
            "height": 480,
            "width": 640,
            "image_id": int(frame),
            "depth_file_name": os.path.join(folder, "data", f"frame-{frame}.depth.png"),
            "depth_scale": 1000.0,
            "depth_invalid": [65535],
        }
        for frame in frames
    ]


def register(root: str) -> None:
    """Register ``seven_scenes_{train,val}``; ``root`` is the folder that holds
    ``seven_scenes_depth``."""
    for split in ("train", "val"):
        register_dataset(
            f"seven_scenes_{split}",
            root,
            functools.partial(load, root, split),
            depth_range=DEPTH_RANGE,
            evaluator_type="depth",
        )
