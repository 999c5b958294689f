"""COCO128: photographs of COCO with boxes and masks of the 80 things, COCO's own category ids.

``coco128_train`` reads ``coco_instances/annotations/instances_train2017.json`` (polygons, crowds as
RLE). The validation images have no such file: ``coco128_val`` takes the things of
``panoptic_segmentation/annotations/panoptic_val2017.json`` and its PNGs, one mask per segment, with
the crowd flag of the segment. Panoptic masks do not overlap, which instance annotations may:
compare numbers of ``coco128_val`` with each other only. It has no ``json_file``;
``DetectionEvaluator`` builds the ground truth from the records in memory, Detectron2's
``COCOEvaluator`` writes a converted copy into its ``output_dir``.
"""

from __future__ import annotations

import functools
import json
import os

import numpy as np
from PIL import Image

from gppf_d2.data.catalog.coco import THINGS
from gppf_d2.data.registration import mask_annotation, register_coco_json, register_dataset

CONTIGUOUS = {category["id"]: index for index, category in enumerate(THINGS)}


def load_panoptic(json_file: str, png_root: str, image_root: str) -> list[dict]:
    """Turn COCO panoptic annotations into instance records.

    Args:
        json_file: COCO panoptic JSON.
        png_root: folder of its PNGs, segment id = R + 256 G + 65536 B.
        image_root: folder of the photographs.

    Returns:
        Detectron2 records in the order of the image ids; segments of stuff are left out.

    Raises:
        ValueError: a segment of the JSON has no pixel in its PNG.
    """
    with open(json_file) as file:
        content = json.load(file)
    segments = {entry["image_id"]: entry for entry in content["annotations"]}
    records = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        entry = segments[image["id"]]
        rgb = np.asarray(Image.open(os.path.join(png_root, entry["file_name"])), dtype=np.uint32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [
                    _annotation(segment, ids == segment["id"], entry["file_name"])
                    for segment in entry["segments_info"]
                    if segment["category_id"] in CONTIGUOUS
                ],
            }
        )
    return records


def _annotation(segment: dict, mask: np.ndarray, file_name: str) -> dict:
    if not mask.any():
        raise ValueError(
            f"segment {segment['id']} has no pixel in '{file_name}'; restore the PNG that "
            "belongs to the JSON"
        )
    return mask_annotation(mask, CONTIGUOUS[segment["category_id"]], segment["iscrowd"])


def register(root: str) -> None:
    """Register ``coco128_{train,val}``; ``root`` is the folder that holds ``coco128``."""
    folder = os.path.join(root, "coco128")
    colors = [category["color"] for category in THINGS]
    register_coco_json(
        "coco128_train",
        root,
        os.path.join(folder, "coco_instances", "annotations", "instances_train2017.json"),
        os.path.join(folder, "images", "train2017"),
        {category["id"]: category["name"] for category in THINGS},
        thing_colors=colors,
    )
    panoptic = os.path.join(folder, "panoptic_segmentation", "annotations", "panoptic_val2017")
    image_root = os.path.join(folder, "images", "val2017")
    register_dataset(
        "coco128_val",
        root,
        functools.partial(load_panoptic, panoptic + ".json", panoptic, image_root),
        image_root=image_root,
        thing_classes=[category["name"] for category in THINGS],
        thing_dataset_id_to_contiguous_id=dict(CONTIGUOUS),
        evaluator_type="coco",
        thing_colors=colors,
    )
