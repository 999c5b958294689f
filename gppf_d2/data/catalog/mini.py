"""The miniature world: small rendered datasets in the layouts of the real ones.

``python datasets/make_mini.py`` renders ``mini/`` into the folder of the datasets:

    mini_objects_{train,val}   mini/imagenet             classification, 8 classes of toys
    mini_scenes_{train,val}    mini/coco                 boxes and masks, COCO JSON
    mini_parsing_{train,val}   mini/ADEChallengeData2016 semantic, 11 classes, 255 is ignored
    mini_depth_{train,val}     mini/kitti                depth, metres x 256, 0 is invalid
    mini_normals_{train,val}   mini/kitti                surface normals of the same pictures
    mini_voc_{train,val}       mini/VOC2012              boxes, VOC XML, drawings and aerial views
    mini_unlabelled            mini/unlabelled/images    pictures without labels
    mini_hidden_{objects,scenes,parsing,depth}           their truth, to judge pseudo labels by

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

from gppf_d2.data.catalog.kitti_depth import load_list
from gppf_d2.data.class_folders import list_class_folders
from gppf_d2.data.registration import register_coco_json, register_dataset

CLASSES = ("ball", "cone", "crate", "drum", "gem", "house", "mushroom", "ring")
STUFF_CLASSES = ("ground", "sky", "wall", *CLASSES)
COLORS = [
    (214, 62, 50), (242, 142, 43), (156, 110, 66), (56, 132, 176),
    (150, 88, 200), (225, 200, 110), (196, 40, 84), (240, 140, 190),
]  # fmt: skip
STUFF_COLORS = [(110, 150, 80), (150, 200, 240), (190, 180, 170), *COLORS]
DEPTH_RANGE = (0.5, 20.0)


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
    files = list_class_folders(
        os.path.join(folder, "imagenet", split),
        CLASSES,
        ".JPEG",
        "make the miniature world anew with datasets/make_mini.py",
    )
    return [
        _sized({"file_name": path, "image_id": index, "label": label})
        for index, (path, label) in enumerate(files)
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
    """Records of the Eigen-style list ``kitti/splits/eigen_<split>_files_with_gt.txt``, whose
    images lie under ``kitti/raw`` and depth maps under ``kitti/<split>``."""
    root = os.path.join(folder, "kitti")
    list_file = os.path.join(root, "splits", f"eigen_{split}_files_with_gt.txt")
    records = load_list(list_file, os.path.join(root, "raw"), os.path.join(root, split))
    return [_sized(record) for record in records]


def load_normals(folder: str, split: str) -> list[dict]:
    """Records of `load_depth` with the file of normals that lies beside each depth map."""
    records = []
    for record in load_depth(folder, split):
        drive, _, frame = record["depth_file_name"].rpartition("/proj_depth/groundtruth/")
        kept = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        records.append({**kept, "normals_file_name": f"{drive}/normals/{frame}"})
    return records


def load_voc(folder: str, split: str) -> list[dict]:
    """Records of ``VOC2012``, read by Detectron2."""
    return load_voc_instances(os.path.join(folder, "VOC2012"), split, CLASSES)


def load_unlabelled(folder: str, truth: str = "") -> list[dict]:
    """Records of ``unlabelled/images`` with one kind of their truth.

    Args:
        folder: of the miniature world.
        truth: "", "objects" (the pictures that show a single toy), "parsing" or "depth".
    """
    root = os.path.join(folder, "unlabelled")
    images = os.path.join(root, "images")
    names = sorted(os.listdir(images))
    more: dict[str, dict[str, Any]] = {name: {} for name in names}
    if truth == "objects":
        with open(os.path.join(root, "truth", "classes.txt")) as file:
            classes = dict(line.split() for line in file)
        more = {name: {"label": CLASSES.index(shown)} for name, shown in classes.items()}
    elif truth:
        key = {"parsing": "sem_seg_file_name", "depth": "depth_file_name"}[truth]
        for name in names:
            more[name][key] = os.path.join(root, "truth", truth, name.replace(".jpg", ".png"))
            if truth == "depth":
                more[name]["depth_scale"] = 256
    return [
        _sized({"file_name": os.path.join(images, name), "image_id": index, **found})
        for index, (name, found) in enumerate(more.items())
    ]


def register(root: str) -> None:
    """Register the datasets; ``root`` is the folder that holds ``mini``."""
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
            ("normals", load_normals, {"evaluator_type": "normals"}),
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
    for name, truth, metadata in (
        ("unlabelled", "", {"evaluator_type": "none"}),
        ("hidden_objects", "objects", objects),
        ("hidden_parsing", "parsing", parsing),
        ("hidden_depth", "depth", depth),
    ):
        read = functools.partial(load_unlabelled, folder, truth)
        register_dataset(f"mini_{name}", root, read, hint=hint, **metadata)
    register_coco_json(
        "mini_hidden_scenes",
        root,
        os.path.join(folder, "unlabelled", "truth", "instances.json"),
        os.path.join(folder, "unlabelled", "images"),
        {index + 1: name for index, name in enumerate(CLASSES)},
        hint=hint,
        thing_colors=COLORS,
    )
