"""ImageNet-21K as downloaded: the archive of the processed release, and a tar per class.

``imagenet21k_p/imagenet21k_resized.tar.gz`` has the folders imagenet21k_train, imagenet21k_val and
imagenet21k_small_classes; ``imagenet21k/<WordNet id>.tar`` are the class tars of the whole release.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from ..formats import Folder
from .imagenet import class_files, tar_bytes
from .world import World

SMALL_CLASS = "n00004475"
VAL_IMAGES = 2


def write(root: Path, world: World) -> None:
    """``imagenet21k_p`` and ``imagenet21k``."""
    folder = Folder(root)
    packed = []
    for wnid, files in class_files(world, "imagenet_21k_p", "train").items():
        # as in the official one, the first images of every class are the validation set
        for split, part in (("val", files[:VAL_IMAGES]), ("train", files[VAL_IMAGES:])):
            home = f"imagenet21k_resized/imagenet21k_{split}/{wnid}"
            packed += [(f"{home}/{name}", content) for name, content in part]
    name, content = packed[0]
    small = f"imagenet21k_resized/imagenet21k_small_classes/{SMALL_CLASS}/{SMALL_CLASS}_1.JPEG"
    archive = gzip.compress(tar_bytes([*packed, (small, content)]), mtime=0)
    folder.write("imagenet21k_p/imagenet21k_resized.tar.gz", archive)
    for wnid, files in class_files(world, "imagenet_21k", "train").items():
        folder.write(f"imagenet21k/{wnid}.tar", tar_bytes(files))
