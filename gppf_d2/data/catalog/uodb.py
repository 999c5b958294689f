"""UODB: the ten small detection sets of the paper's Table 5, boxes only.

Layout: ``uodb/annotations/<set>_{train,test}.json``, made by ``datasets/prepare_uodb.py``; images
stay where each download has them. The names are ``uodb_<set>_{train,test}``. Classes are those of
the public distribution of UODB (Wang et al., "Towards Universal Object Detection by Domain
Attention"), in its order. Annotations say "difficult"; such a one has "iscrowd" 1 too, so that it
is not trained on, and the evaluation does not count it.
"""

from __future__ import annotations

import os

from gppf_d2.data.registration import register_coco_json

_VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_ART = ("bicycle", "bird", "car", "cat", "dog", "person")
CLASSES = {
    "kitti": ("pedestrian", "cyclist", "car"),
    "widerface": ("face",),
    "pascal_voc": _VOC,
    "lisa": ("warning", "noturn", "speedlimit", "stop"),
    "dota": (
        "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle",
        "large-vehicle", "ship", "tennis-court", "basketball-court", "storage-tank",
        "soccer-ball-field", "roundabout", "harbor", "swimming-pool", "helicopter",
    ),
    "watercolor": _ART,
    "clipart": _VOC,
    "comic": _ART,
    "kitchen": (
        "coca_cola_glass_bottle", "coffee_mate_french_vanilla",
        "honey_bunches_of_oats_honey_roasted", "hunts_sauce", "mahatma_rice",
        "nature_valley_soft_baked_oatmeal_squares_cinnamon_brown_sugar",
        "nature_valley_sweet_and_salty_nut_almond", "palmolive_orange", "pop_secret_light_butter",
        "pringles_bbq", "red_bull",
    ),
    "deeplesion": ("lesion",),
}  # fmt: skip
# images of the sets whose splits are official lists
SIZES = {
    "widerface": {"train": 12_880, "test": 3_226},
    "pascal_voc": {"train": 16_551, "test": 4_952},
    "watercolor": {"train": 1_000, "test": 1_000},
    "clipart": {"train": 500, "test": 500},
    "comic": {"train": 1_000, "test": 1_000},
    "deeplesion": {"train": 22_496, "test": 4_831},
}


def register(root: str) -> None:
    """Register ``uodb_<set>_{train,test}``; ``root`` is the folder of the datasets."""
    for name, classes in CLASSES.items():
        command = f"python datasets/prepare_uodb.py --root {root} --part {name}"
        for split in ("train", "test"):
            register_coco_json(
                f"uodb_{name}_{split}",
                root,
                os.path.join(root, "uodb", "annotations", f"{name}_{split}.json"),
                root,
                {index + 1: label for index, label in enumerate(classes)},
                hint=f"run `{command}` on the official download",
                annotation_keys=("difficult",),
                evaluator_type="voc",
                official_size=SIZES.get(name, {}).get(split),
            )
