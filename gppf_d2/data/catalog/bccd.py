"""BCCD: detection of blood cells under the microscope, 640 x 480, Pascal VOC XML, 3 classes.

Layout: ``bccd_detection/BCCD/{Annotations,ImageSets/Main,JPEGImages}``; ``bccd_{train,val,test}``
are the original splits. Two boxes of the original have no area (xmin = xmax, ymin = ymax); they are
dropped and counted in one log line. Coordinates in the XML are 1-based pixel indices, as in VOC.
"""

from __future__ import annotations

import functools
import logging
import os

from detectron2.data.datasets.pascal_voc import load_voc_instances

from gppf_d2.data.registration import register_dataset

CLASSES = ("RBC", "WBC", "Platelets")


def load(root: str, split: str) -> list[dict]:
    """Records of one split ("train", "val" or "test") without the boxes of zero area."""
    records = load_voc_instances(os.path.join(root, "bccd_detection", "BCCD"), split, CLASSES)
    dropped = []
    for record in records:
        kept = [annotation for annotation in record["annotations"] if _has_area(annotation["bbox"])]
        dropped += [record["file_name"]] * (len(record["annotations"]) - len(kept))
        record["annotations"] = kept
    if dropped:
        logging.getLogger(__name__).warning(
            "bccd_%s: dropped %d box(es) of zero area: %s", split, len(dropped), ", ".join(dropped)
        )
    return records


def _has_area(box: list[float]) -> bool:
    # Detectron2's reader moves xmin and ymin by -1: a box with xmin = xmax in the file is 1 wide.
    return box[2] - box[0] > 1 and box[3] - box[1] > 1


def register(root: str) -> None:
    """Register ``bccd_{train,val,test}``; ``root`` is the folder that holds ``bccd_detection``."""
    for split in ("train", "val", "test"):
        register_dataset(
            f"bccd_{split}",
            root,
            functools.partial(load, root, split),
            thing_classes=list(CLASSES),
            evaluator_type="coco",
        )
