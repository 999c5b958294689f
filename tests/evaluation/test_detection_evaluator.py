"""COCO's average precision: by hand, against Detectron2's evaluator, and what it gets wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from gppf_d2.evaluation import DetectionEvaluator

NAME = "gppf_test_objects"
SIZE = 120


def mask_of(box: list[int]) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def make_records(images: int = 4, objects: int = 5, seed: int = 0) -> list[dict]:
    generator = np.random.default_rng(seed)
    records = []
    for index in range(images):
        annotations = []
        for _ in range(objects):
            x, y = generator.integers(0, 60, 2).tolist()
            w, h = generator.integers(8, 50, 2).tolist()
            rle = mask_util.encode(mask_of([x, y, x + w, y + h]))
            annotations.append(
                {
                    "bbox": [x, y, x + w, y + h],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": int(generator.integers(0, 2)),
                    "iscrowd": 0,
                    "segmentation": {**rle, "counts": rle["counts"].decode()},
                }
            )
        records.append(
            {
                "file_name": f"{index}.jpg",
                "height": SIZE,
                "width": SIZE,
                "image_id": f"image{index}",
                "annotations": annotations,
            }
        )
    return records


def instances_of(boxes: list, classes: list[int], scores: list[float]) -> Instances:
    instances = Instances((SIZE, SIZE))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.scores = torch.tensor(scores)
    masks = [torch.from_numpy(mask_of([round(v) for v in box])) > 0 for box in boxes]
    instances.pred_masks = torch.stack(masks) if masks else torch.zeros(0, SIZE, SIZE).bool()
    return instances


def noisy(record: dict, generator: np.random.Generator) -> Instances:
    boxes, classes = [], []
    for entry in record["annotations"]:
        boxes.append([max(0, v + d) for v, d in zip(entry["bbox"], generator.integers(-4, 5, 4))])
        classes.append(entry["category_id"] if generator.random() < 0.8 else 1)
    boxes.append([0, 0, 30, 30])
    return instances_of(boxes, [*classes, 0], generator.random(len(boxes)).tolist())


@pytest.fixture
def records() -> Iterator[list[dict]]:
    records = make_records()
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["square", "oblong"], evaluator_type="coco")
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_it_agrees_with_detectron2(records: list[dict], tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    outputs = [{"instances": noisy(record, generator)} for record in records]
    ours = DetectionEvaluator(NAME)
    theirs = COCOEvaluator(NAME, output_dir=str(tmp_path), use_fast_impl=False)
    for evaluator in (ours, theirs):
        evaluator.reset()
        evaluator.process(records, outputs)
    ours, theirs = ours.evaluate(), theirs.evaluate()
    assert list(ours) == ["bbox", "segm"] and 0 < ours["bbox"]["AP"] < 100
    for task in ours:
        assert set(ours[task]) == set(theirs[task])
        for key, value in ours[task].items():
            assert value == pytest.approx(theirs[task][key], nan_ok=True), (task, key)


def test_average_precision_by_hand(records: list[dict]) -> None:
    """Half of the objects of each class found exactly, nothing wrong: 51 of 101 recall points."""
    records[:] = make_records(images=1)
    boxes = [[0, 0, 40, 40], [50, 50, 90, 90], [0, 60, 40, 100], [60, 0, 100, 40]]
    annotations = records[0]["annotations"][:4]
    for index, (entry, box) in enumerate(zip(annotations, boxes)):
        rle = mask_util.encode(mask_of(box))
        entry.update(bbox=box, category_id=index % 2, segmentation=rle)
    records[0]["annotations"] = annotations
    evaluator = DetectionEvaluator(NAME)
    found = instances_of(boxes[:2], [0, 1], [0.9, 0.8])
    evaluator.process(records, [{"instances": found}])
    for result in evaluator.evaluate().values():
        assert result["AP"] == result["AP50"] == pytest.approx(100 * 51 / 101)
        assert result["AP-square"] == result["AP-oblong"] == pytest.approx(100 * 51 / 101)
        # 40 x 40 is between 32^2 and 96^2
        assert result["APm"] == result["AP"]
        assert math.isnan(result["APs"]) and math.isnan(result["APl"])


def test_no_predictions_at_all_are_zero(records: list[dict]) -> None:
    nothing = instances_of([], [], [])
    for outputs in ([], [{"instances": nothing}] * len(records)):
        evaluator = DetectionEvaluator(NAME)
        evaluator.process(records[: len(outputs)], outputs)
        for result in evaluator.evaluate().values():
            assert result["AP"] == result["AP50"] == result["AP-square"] == 0
            assert math.isnan(result["APl"])


def test_a_dataset_without_objects_is_nan(records: list[dict]) -> None:
    records[:] = [{**record, "annotations": []} for record in records]
    evaluator = DetectionEvaluator(NAME)
    box = instances_of([[0, 0, 9, 9]], [0], [0.5])
    for outputs in ([], [{"instances": box}] * len(records)):
        evaluator.process(records[: len(outputs)], outputs)
        assert all(math.isnan(value) for value in evaluator.evaluate()["bbox"].values())


def test_a_match_with_annotation_zero_counts(records: list[dict], tmp_path: Path) -> None:
    """pycocotools takes annotation id 0 for "no match"; files that count from 0 are common."""
    content = {
        "images": [{"id": 0, "file_name": "0.jpg", "height": SIZE, "width": SIZE}],
        "categories": [{"id": 0, "name": "pool"}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "bbox": [5, 5, 50, 50], "segmentation": []}
        ],
    }
    (tmp_path / "objects.json").write_text(json.dumps(content))
    metadata = MetadataCatalog.get("gppf_test_zero").set(
        json_file=str(tmp_path / "objects.json"),
        thing_classes=["pool"],
        thing_dataset_id_to_contiguous_id={0: 0},
    )
    try:
        evaluator = DetectionEvaluator("gppf_test_zero", tasks=["bbox"])
        found = instances_of([[5, 5, 55, 55]], [0], [0.9])
        evaluator.process([{"image_id": 0}], [{"instances": found}])
        result = evaluator.evaluate()["bbox"]
        assert result["AP"] == pytest.approx(100) and "AP-pool" not in result
        with pytest.raises(ValueError, match="1 of 1 objects.*have no mask; .*'bbox'"):
            DetectionEvaluator("gppf_test_zero")
        del content["annotations"]
        Path(metadata.json_file).write_text(json.dumps(content))
        with pytest.raises(ValueError, match="objects.json.* no annotations"):
            DetectionEvaluator("gppf_test_zero", tasks=["bbox"])
    finally:
        MetadataCatalog.remove("gppf_test_zero")


def test_crowds_forgive_what_they_cover(records: list[dict]) -> None:
    records[:] = make_records(images=1, objects=2)
    single, crowd = records[0]["annotations"]
    box = [0, 0, 100, 20]
    single.update(bbox=[0, 60, 40, 100], segmentation=mask_util.encode(mask_of([0, 60, 40, 100])))
    crowd.update(bbox=box, segmentation=mask_util.encode(mask_of(box)), iscrowd=1)
    single["category_id"] = crowd["category_id"] = 0
    found = instances_of(
        [[0, 0, 20, 20], [30, 0, 60, 20], [0, 60, 40, 100]], [0, 0, 0], [0.9, 0.8, 0.7]
    )
    evaluator = DetectionEvaluator(NAME)
    evaluator.process(records, [{"instances": found}])
    for result in evaluator.evaluate().values():
        assert result["AP"] == pytest.approx(100)


def test_wrong_inputs_are_named(records: list[dict]) -> None:
    with pytest.raises(ValueError, match="'keypoints'.*choose 'bbox', 'segm' or both"):
        DetectionEvaluator(NAME, tasks=["keypoints"])
    evaluator = DetectionEvaluator(NAME)
    found = instances_of([[0, 0, 9, 9]], [2], [0.5])
    with pytest.raises(ValueError, match="0.jpg.* class 2, expected 0 to 1"):
        evaluator.process(records[:1], [{"instances": found}])
    with pytest.raises(ValueError, match="other.jpg.* is not in the ground truth"):
        evaluator.process([{"file_name": "other.jpg", "image_id": "other"}], [{"instances": found}])
    found.remove("pred_masks")
    with pytest.raises(ValueError, match="0.jpg.* no masks"):
        evaluator.process(records[:1], [{"instances": found}])
