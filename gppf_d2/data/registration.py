"""Put a dataset into Detectron2's catalogs, once, with errors that say what to do next.

The modules of ``gppf_d2.data.catalog`` know the datasets; this module knows the catalogs.
Registering reads no file, so that a configuration may name datasets that are not on this machine;
what is missing is reported when records are asked for. The same name and root twice is no error;
another root takes the place of the old one; a name that somebody else registered is theirs and
stays.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode


def register_dataset(name: str, root: str, load: Callable[[], list[dict]], **metadata: Any) -> None:
    """Register a dataset and its metadata in Detectron2's catalogs.

    Args:
        name: name of the dataset, for example "camvid_train".
        root: folder that holds the datasets; kept as ``data_root`` in the metadata.
        load: returns the records (Detectron2 dataset dicts) and raises FileNotFoundError for a
            missing path.
        **metadata: what ``MetadataCatalog.get(name)`` will hold, known without reading a file.
    """
    root = os.path.abspath(root)
    if name in DatasetCatalog:
        if MetadataCatalog.get(name).get("data_root", root) == root:
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(_load, name, root, load))
    MetadataCatalog.get(name).set(data_root=root, **metadata)


def _load(name: str, root: str, load: Callable[[], list[dict]]) -> list[dict]:
    try:
        records = load()
    except FileNotFoundError as error:
        missing = error.filename or error
        raise FileNotFoundError(
            f"dataset '{name}' needs '{missing}', which does not exist; put the dataset into "
            f"'{root}', or name the folder that holds it with DETECTRON2_DATASETS or --data-root"
        ) from error
    if not records:
        raise ValueError(
            f"dataset '{name}' in '{root}' has no image; check that it was unpacked completely"
        )
    return records


def register_coco_json(
    name: str, root: str, json_file: str, image_root: str, classes: dict[int, str], **metadata: Any
) -> None:
    """Register a dataset whose annotations are a COCO instances JSON.

    Args:
        name: name of the dataset.
        root: folder that holds the datasets.
        json_file: path of the JSON.
        image_root: folder of the images.
        classes: category id in the JSON -> class name, for all categories of the JSON.
        **metadata: further entries of the metadata.
    """
    register_dataset(
        name,
        root,
        functools.partial(load_coco_json, json_file, image_root, name),
        json_file=json_file,
        image_root=image_root,
        thing_classes=[classes[key] for key in sorted(classes)],
        thing_dataset_id_to_contiguous_id={key: i for i, key in enumerate(sorted(classes))},
        evaluator_type="coco",
        **metadata,
    )


def mask_annotation(mask: np.ndarray, category_id: int, iscrowd: int = 0) -> dict:
    """Annotation of one object from its mask: RLE and the tight box.

    Args:
        mask: bool [H, W] with at least one pixel set.
        category_id: contiguous class index.
        iscrowd: 1 for a group of objects that cannot be told apart.

    Returns:
        An entry of a Detectron2 record's "annotations".
    """
    assert mask.any(), "a mask without a pixel has no box; leave the object out"
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": mask_util.toBbox(rle).tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category_id,
        "iscrowd": iscrowd,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }
