"""ImageNet-21K: classification with 10,450 classes (processed, winter21) or 21,841 (fall11).

``imagenet_21k_p_{train,val}`` is ImageNet-21K-P of Ridnik et al. (2021) as image-net.org offers it
for the winter21 release: 11,060,223 and 522,500 images at 224 x 224 pixels, in
``imagenet21k_p/{imagenet21k_train,imagenet21k_val}/<WordNet id>/*.JPEG`` (the folders of
imagenet21k_resized; its ``imagenet21k_small_classes`` are not used). This is what the paper trains
on (§3.4). ``imagenet_21k_train`` is the whole release, without a split: ``imagenet21k/`` holds
``<WordNet id>.tar``, as downloaded, or class folders, or both; images are read from the tars as
they are. winter21 has 19,167 of the classes of fall11 and keeps the labels of fall11.
``datasets/prepare_imagenet_21k.py`` checks both.
"""

from __future__ import annotations

import os

from gppf_d2.data.catalog.imagenet import register_image_folder


def register(root: str) -> None:
    """Register the datasets; ``root`` holds ``imagenet21k_p`` and ``imagenet21k``."""
    script = "prepare_imagenet_21k.py"
    for split in ("train", "val"):
        folder = os.path.join("imagenet21k_p", f"imagenet21k_{split}")
        register_image_folder(f"imagenet_21k_p_{split}", root, folder, "P", script)
    register_image_folder("imagenet_21k_train", root, "imagenet21k", "F", script)
