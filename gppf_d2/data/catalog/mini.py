"""The miniature world: five small rendered datasets in the layouts of the real ones.

``python datasets/make_mini.py`` renders ``mini/`` into the folder of the datasets:

    mini_objects_{train,val}   mini/imagenet             classification, 8 classes of toys
    mini_scenes_{train,val}    mini/coco                 boxes and masks, COCO JSON
    mini_parsing_{train,val}   mini/ADEChallengeData2016 semantic, 11 classes, 255 is ignored
    mini_depth_{train,val}     mini/kitti                depth, metres x 256, 0 is invalid
    mini_voc_{train,val}       mini/VOC2012              boxes, VOC XML, drawings and aerial views

Class lists stand here, so that a configuration can be built where no file is. Boxes that VOC marks
as difficult are trained on and evaluated like the others, as Detectron2's reader has it.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.pascal_voc import load_voc_instances
from PIL import Image

from gppf_d2.data.registration import register_coco_json, register_dataset

CLASSES = ("ball", "cone", "crate", "drum", "gem", "house", "mushroom", "ring")
STUFF_CLASSES = ("ground", "sky", "wall", *CLASSES)
COLORS = [
    (214, 62, 50), (242, 142, 43), (156, 110, 66), (56, 132, 176),
    (150, 88, 200), (225, 200, 110), (196, 40, 84), (240, 140, 190),
]  # fmt: skip
STUFF_COLORS = [(110, 150, 80), (150, 200, 240), (190, 180, 170), *COLORS]
DEPTH_RANGE = (0.5, 20.0)
DEPTH_SCALE = 256.0


def _sized(record: dict[str, Any]) -> dict[str, Any]:
    """Add height and width, which the formats of ImageNet, ADE20K and KITTI leave to the image."""
    with Image.open(record["file_name"]) as image:
        record["width"], record["height"] = image.size
    return record


def load_objects(folder: str, split: str) -> list[dict]:
    """Records of ``imagenet/<split>/<class>/*.JPEG``, class by class.

    Raises:
        ValueError: the class folders are not those of the miniature world.
    """
    root = os.path.join(folder, "imagenet", split)
    found = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if found != CLASSES:
        raise ValueError(
            f"'{root}' holds the class folders {list(found)}, expected {list(CLASSES)}; "
            "make the miniature world anew with datasets/make_mini.py"
        )
    files = [
        (label, os.path.join(root, name, file))
        for label, name in enumerate(CLASSES)
        for file in sorted(os.listdir(os.path.join(root, name)))
        if file.endswith(".JPEG")
    ]
    return [
        _sized({"file_name": path, "image_id": index, "label": label})
        for index, (label, path) in enumerate(files)
    ]


def load_parsing(folder: str, split: str) -> list[dict]:
    """Records of ``ADEChallengeData2016`` with the labels that Detectron2 counts from 0."""
    name = {"train": "training", "val": "validation"}[split]
    root = os.path.join(folder, "ADEChallengeData2016")
    records = load_sem_seg(
        os.path.join(root, "annotations_detectron2", name), os.path.join(root, "images", name)
    )
    return [_sized({**record, "image_id": index}) for index, record in enumerate(records)]


def load_depth(folder: str, split: str) -> list[dict]:
    """Records of the Eigen-style list ``kitti/splits/eigen_<split>_files_with_gt.txt``.

    A line names an image under ``kitti/raw``, a depth map under ``kitti/<split>`` and the focal
    length in pixels ("focal_length" of the record).

    Raises:
        ValueError: a line does not have these three entries.
    """
    root = os.path.join(folder, "kitti")
    list_file = os.path.join(root, "splits", f"eigen_{split}_files_with_gt.txt")
    with open(list_file) as file:
        lines = file.read().splitlines()
    records = []
    for index, line in enumerate(lines):
        entries = line.split()
        if len(entries) != 3:
            raise ValueError(
                f"line {index + 1} of '{list_file}' is {line!r}, expected an image, a depth map "
                "and a focal length; make the miniature world anew with datasets/make_mini.py"
            )
        records.append(
            _sized(
                {
                    "file_name": os.path.join(root, "raw", entries[0]),
                    "image_id": index,
                    "depth_file_name": os.path.join(root, split, entries[1]),
                    "depth_scale": DEPTH_SCALE,
                    "focal_length": float(entries[2]),
                }
            )
        )
    return records


def load_voc(folder: str, split: str) -> list[dict]:
    """Records of ``VOC2012``, read by Detectron2."""
    return load_voc_instances(os.path.join(folder, "VOC2012"), split, CLASSES)


def register(root: str) -> None:
    """Register the ten datasets; ``root`` is the folder that holds ``mini``."""
    root = os.path.abspath(root)
    things = {"thing_classes": list(CLASSES), "thing_colors": COLORS, "evaluator_type": "coco"}
    objects = {"classes": list(CLASSES), "evaluator_type": "classification"}
    parsing = {
        "stuff_classes": list(STUFF_CLASSES),
        "stuff_colors": STUFF_COLORS,
        "ignore_label": 255,
        "evaluator_type": "sem_seg",
    }
    depth = {"depth_range": DEPTH_RANGE, "evaluator_type": "depth"}
    folder = os.path.join(root, "mini")
    hint = f"make the miniature world with `python datasets/make_mini.py --root {root}`"
    for split in ("train", "val"):
        for kind, load, metadata in (
            ("objects", load_objects, objects),
            ("parsing", load_parsing, parsing),
            ("depth", load_depth, depth),
            ("voc", load_voc, things),
        ):
            read = functools.partial(load, folder, split)
            register_dataset(f"mini_{kind}_{split}", root, read, hint=hint, **metadata)
        register_coco_json(
            f"mini_scenes_{split}",
            root,
            os.path.join(folder, "coco", "annotations", f"instances_{split}2017.json"),
            os.path.join(folder, "coco", f"{split}2017"),
            {index + 1: name for index, name in enumerate(CLASSES)},
            hint=hint,
            thing_colors=COLORS,
        )
