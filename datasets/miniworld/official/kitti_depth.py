"""KITTI's raw recordings and annotated depth maps, with BTS' lists of the Eigen split.

Three drives of two days; the truth of one training drive lies in the annotation's val part, one of
the test images has no truth, and one drive was converted to JPEG, as many people keep it.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from .world import World

# split -> (drive, part of the annotation, suffix of its images): as many frames each
DRIVES = {
    "train": [
        ("2011_09_26_drive_0057_sync", "train", "png"),
        ("2011_09_28_drive_0001_sync", "val", "jpg"),
    ],
    "test": [("2011_09_26_drive_0002_sync", "val", "png")],
}
WITHOUT_TRUTH = 2  # test image


def write(root: Path, world: World) -> None:
    """``kitti_depth/{raw,data_depth_annotated,splits}``."""
    folder = formats.Folder(root / "kitti_depth")
    for split, drives in DRIVES.items():
        lines = []
        pictures = list(world.scenes("kitti_depth", "train" if split == "train" else "val"))
        share = -(-len(pictures) // len(drives))
        for index, picture in enumerate(pictures):
            drive, part, suffix = drives[index // share]
            image = f"{drive[:10]}/{drive}/image_02/data/{index:010d}"
            write_image = folder.png if suffix == "png" else folder.jpeg
            write_image(f"raw/{image}.{suffix}", picture.pixels)
            truth = "None"
            if split == "train" or index != WITHOUT_TRUTH:
                truth = f"{drive}/proj_depth/groundtruth/image_02/{index:010d}.png"
                rng = world.generator("kitti_depth", split, index, "laser")
                values = formats.depth_values(picture.depth, rng)
                folder.png(f"data_depth_annotated/{part}/{truth}", values)
            lines.append(f"{image}.png {truth} {picture.focal:.4f}")
        folder.text(f"splits/eigen_{split}_files_with_gt.txt", lines)
