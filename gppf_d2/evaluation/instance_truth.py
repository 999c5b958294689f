"""The ground truth of instances in COCO's form, from a dataset's JSON or from its records.

The JSON is the one the metadata names ("json_file"); without one the catalog's records are
converted in memory, so that nothing is cached and nothing goes stale. Images and annotations are
numbered anew from 1: the counting libraries take a match with annotation 0 for none, and one of
them knows no image ids that are strings. Numbers follow the order of the ids, on which equal scores
depend.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict

from gppf_d2.evaluation.truth import metadata_of


@dataclass
class InstanceTruth:
    """Ground truth of a dataset.

    Attributes:
        images: COCO's image dicts, sorted, with ids 1, 2, ...
        annotations: COCO's annotation dicts, with ids 1, 2, ..., "area" and "iscrowd".
        categories: COCO's category dicts.
        numbers: image id in the dataset -> id here.
    """

    images: list[dict]
    annotations: list[dict]
    categories: list[dict]
    numbers: dict[Hashable, int]

    def content(self) -> dict[str, list[dict]]:
        """The same as the content of a COCO JSON."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }


def category_ids(dataset_name: str, truth: InstanceTruth) -> list[int]:
    """Category id in the ground truth per contiguous class index.

    Where the metadata does not say it (Detectron2's own LVIS), classes are in the order of the ids.

    Raises:
        KeyError: the dataset is not registered or has no "thing_classes".
        ValueError: the metadata and the ground truth have different numbers of classes.
    """
    classes = metadata_of(dataset_name, "thing_classes")
    mapping = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    if mapping is not None:
        return sorted(mapping, key=mapping.get)
    if len(truth.categories) != len(classes):
        raise ValueError(
            f"dataset '{dataset_name}' has {len(classes)} classes and its ground truth "
            f"{len(truth.categories)}; put 'thing_dataset_id_to_contiguous_id' into its metadata"
        )
    return sorted(category["id"] for category in truth.categories)


def load_truth(dataset_name: str) -> InstanceTruth:
    """Read the ground truth of a dataset.

    Args:
        dataset_name: registered dataset.

    Raises:
        KeyError: the dataset has neither a JSON nor records.
        FileNotFoundError: its JSON does not exist.
        ValueError: its JSON has no annotations.
    """
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file is None:
        if dataset_name not in DatasetCatalog:
            raise KeyError(f"dataset '{dataset_name}' has metadata but no records; register it")
        content = convert_to_coco_dict(dataset_name)
        content.setdefault("annotations", [])
    else:
        try:
            with open(json_file, "rb") as file:
                content = json.load(file)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"dataset '{dataset_name}' needs '{json_file}' as its ground truth, which does not "
                "exist; prepare the dataset, or name its folder with --data-root"
            ) from error
        if "annotations" not in content:
            raise ValueError(
                f"'{json_file}' has no annotations; evaluate a dataset with ground truth"
            )
    images = sorted(content["images"], key=lambda image: image["id"])
    numbers = {image["id"]: number for number, image in enumerate(images, start=1)}
    for number, entry in enumerate(content["annotations"], start=1):
        entry["id"] = number
        entry["image_id"] = numbers[entry["image_id"]]
        entry.setdefault("iscrowd", 0)
        entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
    for number, image in enumerate(images, start=1):
        image["id"] = number
    return InstanceTruth(images, content["annotations"], content["categories"], numbers)
