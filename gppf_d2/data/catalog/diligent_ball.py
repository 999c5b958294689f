"""The ball of DiLiGenT: surface normals of one real object under single lamps, 612 x 512.

Layout: ``diligent_ball_normals/data/DiLiGenT/pmsData/ballPNG/``: ``NNN.png`` (16 bit RGB, one lamp
each), ``Normal_gt.mat`` (unit vectors inside the ball, zero outside). Six of the eight pictures are
``diligent_ball_train``, 037 and 085 are ``diligent_ball_test``. One object, one truth for all
pictures: good for reading and for losses, not for measuring generalisation.
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.registration import register_dataset

LAMPS = {"train": (1, 13, 25, 49, 61, 73), "test": (37, 85)}


def load(root: str, split: str) -> list[dict]:
    """Records of one split ("train" or "test") in the order of the lamps.

    Raises:
        FileNotFoundError: a picture is missing.
    """
    folder = os.path.join(root, "diligent_ball_normals", "data", "DiLiGenT", "pmsData", "ballPNG")
    records = []
    for lamp in LAMPS[split]:
        name = os.path.join(folder, f"{lamp:03d}.png")
        os.stat(name)
        records.append(
            {
                "file_name": name,
                "height": 512,
                "width": 612,
                "image_id": lamp,
                "normals_file_name": os.path.join(folder, "Normal_gt.mat"),
            }
        )
    return records


def register(root: str) -> None:
    """Register ``diligent_ball_{train,test}``; ``root`` is the folder that holds
    ``diligent_ball_normals``."""
    for split in ("train", "test"):
        register_dataset(
            f"diligent_ball_{split}",
            root,
            functools.partial(load, root, split),
            evaluator_type="normals",
        )
