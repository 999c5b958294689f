"""Random datasets of boxes and masks with predictions, and the cases in which evaluators differ."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH = 70, 90


def mask_of(box: list[int], generator: np.random.Generator) -> np.ndarray:
    """An ellipse in x, y, width, height with holes, bool [H, W]."""
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if width and height:
        rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        ellipse = (rows**2 + columns**2 <= 1.2) & (generator.random((height, width)) < 0.9)
        window = mask[y : y + height, x : x + width]
        window |= ellipse[: window.shape[0], : window.shape[1]]
    return mask


def rle_of(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def segmentation_of(mask: np.ndarray, box: list[int], is_crowd: bool) -> dict | list:
    """In one of the three forms of COCO's files: counts for crowds, polygons, compressed RLE."""
    if is_crowd:
        changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
        counts = np.diff(changes, prepend=0, append=mask.size).tolist()
        return {"size": [HEIGHT, WIDTH], "counts": counts}
    x, y, width, height = box
    if width % 2 and mask.any():
        return [[x + 0.3, y, x + width, y + 0.4 * height, x + 0.6 * width, y + height, x, y + 3.7]]
    return rle_of(mask)


def make_world(
    seed: int = 0,
    images: int = 10,
    classes: int = 4,
    *,
    crowd: float = 0.0,
    gaps: bool = False,
    ties: bool = False,
    flat: float = 0.0,
    repeats: int = 1,
    objects: bool = True,
    found: bool = True,
) -> tuple[dict, list[Instances]]:
    """Content of a COCO JSON and predictions per image; the last class has no object.

    Args:
        seed: of everything.
        images: number of images.
        classes: number of classes.
        crowd: share of objects that are crowds.
        gaps: ids of images and categories with gaps, not in order.
        ties: scores take four values.
        flat: share of boxes without area, true and predicted.
        repeats: predictions per object.
        objects: whether there are any.
        found: whether anything is predicted.
    """
    generator = np.random.default_rng(seed)
    image_ids = [(7 * n) % 97 + 5 if gaps else n + 1 for n in range(images)]
    category_ids = [3 * n + 2 if gaps else n + 1 for n in range(classes)]
    content = {
        "images": [
            {"id": key, "height": HEIGHT, "width": WIDTH, "file_name": f"{key}.jpg"}
            for key in image_ids
        ],
        "categories": [{"id": key, "name": f"class{key}"} for key in category_ids],
        "annotations": [],
    }
    predictions = []
    for key in image_ids:
        boxes, labels, masks = [], [], []
        for _ in range(generator.integers(0, 6)):
            box = [*generator.integers(0, 40, 2), *generator.integers(4, 45, 2)]
            box = [int(value) for value in box]
            if generator.random() < flat:
                box[2] = 0
            label = int(generator.integers(0, classes - 1))
            mask = mask_of(box, generator)
            is_crowd = bool(generator.random() < crowd)
            entry = {
                "id": len(content["annotations"]),
                "image_id": key,
                "category_id": category_ids[label],
                "bbox": box,
                "area": float(mask.sum()),
                "iscrowd": int(is_crowd),
                "segmentation": segmentation_of(mask, box, is_crowd),
            }
            if objects:
                content["annotations"].append(entry)
            for _ in range(repeats):
                moved = [max(0, v + int(d)) for v, d in zip(box, generator.integers(-4, 5, 4))]
                if generator.random() < flat:
                    moved[3] = 0
                boxes.append([moved[0], moved[1], moved[0] + moved[2], moved[1] + moved[3]])
                labels.append(label if generator.random() < 0.8 else classes - 1)
                masks.append(mask_of(moved, generator))
        scores = generator.random(len(boxes))
        if ties:
            scores = np.round(scores * 4) / 4
        keep = slice(None if found else 0)
        predictions.append(instances_of(boxes[keep], labels[keep], scores[keep], masks[keep]))
    return content, predictions


def instances_of(boxes: list, labels: list, scores: np.ndarray, masks: list) -> Instances:
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(labels, dtype=torch.int64)
    instances.scores = torch.tensor(np.asarray(scores), dtype=torch.float32)
    shape = (len(boxes), HEIGHT, WIDTH)
    instances.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(shape))
    return instances


@contextlib.contextmanager
def registered(content: dict, folder: Path, name: str, **metadata) -> Iterator[str]:
    """Register the content of a COCO JSON for the block."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    ids = sorted(category["id"] for category in content["categories"])
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[f"class{key}" for key in ids],
        thing_dataset_id_to_contiguous_id={key: index for index, key in enumerate(ids)},
        **metadata,
    )
    try:
        yield name
    finally:
        MetadataCatalog.remove(name)


def run(evaluator, content: dict, predictions: list[Instances]) -> dict:
    """Hand all predictions to an evaluator, a few images at a time."""
    samples = [{"image_id": image["id"], "file_name": ""} for image in content["images"]]
    outputs = [{"instances": instances} for instances in predictions]
    for start in range(0, len(samples), 3):
        evaluator.process(samples[start : start + 3], outputs[start : start + 3])
    return evaluator.evaluate()
