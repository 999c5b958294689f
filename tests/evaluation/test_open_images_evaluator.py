"""The Open Images challenge's AP50: its rules one by one by hand, and all against plain loops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import Instances

from gppf_d2.evaluation import OpenImagesEvaluator
from gppf_d2.evaluation.open_images import RESULT
from tests.evaluation.instance_worlds import instances_of, make_world, registered, run
from tests.reference.open_images import challenge_ap

# class 1 is above 2 and 3, class 2 above 4
HIERARCHY = {1: [], 2: [1], 3: [1], 4: [2, 1], 5: [], 6: []}


def verified_world(seed: int = 0, **options) -> tuple[dict, list[Instances]]:
    """A world with groups and labels verified for some classes."""
    content, predictions = make_world(seed, **{"classes": 6, "images": 14, "repeats": 4, **options})
    generator = np.random.default_rng(seed + 1)
    for entry in content["annotations"]:
        entry["isgroupof"] = int(generator.random() < 0.3)
    for image in content["images"]:
        image["pos_category_ids"] = []
        image["neg_category_ids"] = []
        for key in HIERARCHY:
            there = any(
                e["image_id"] == image["id"] and e["category_id"] == key
                for e in content["annotations"]
            )
            if there or generator.random() < 0.1:
                image["pos_category_ids"].append(key)
            elif generator.random() < 0.3:
                image["neg_category_ids"].append(key)
    return content, predictions


def evaluate(
    content: dict, predictions: list[Instances], folder: Path, hierarchy=HIERARCHY, **options
) -> dict[str, float]:
    with registered(content, folder, "gppf_test_open", hierarchy=hierarchy) as name:
        results = run(OpenImagesEvaluator(name, **options), content, predictions)
    assert list(results) == [RESULT]
    return results[RESULT]


def detections_of(content: dict, predictions: list[Instances]) -> list[dict]:
    found = []
    for image, instances in zip(content["images"], predictions):
        for box, label, score in zip(
            instances.pred_boxes.tensor.tolist(),
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
        ):
            box = [*box[:2], box[2] - box[0], box[3] - box[1]]
            entry = {"image_id": image["id"], "category_id": label + 1, "bbox": box, "score": score}
            found.append(entry)
    return found


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_the_protocol(seed: int, expand: bool, tmp_path: Path) -> None:
    content, predictions = verified_world(seed, flat=0.1 * (seed == 3))
    result = evaluate(content, predictions, tmp_path, expand_predictions=expand)
    detections = detections_of(content, predictions)
    expected = challenge_ap(content, detections, HIERARCHY, expand)
    for key, value in expected.items():
        assert result[f"AP50-class{key}"] == pytest.approx(100 * value, abs=1e-10, nan_ok=True)
    assert result["AP50"] == pytest.approx(100 * np.nanmean(list(expected.values())), abs=1e-10)
    assert 0 < result["AP50"] < 100 and math.isnan(result["AP50-class6"])


def one_image(objects: list[dict], positive: list[int], negative: list[int]) -> dict:
    content, _ = make_world(images=1, classes=6, objects=False)
    content["images"][0].update(pos_category_ids=positive, neg_category_ids=negative)
    defaults = {"image_id": 1, "iscrowd": 0, "isgroupof": 0}
    content["annotations"] = [{"id": n, **defaults, **entry} for n, entry in enumerate(objects)]
    return content


def found(*entries: tuple[list[float], int, float]) -> list[Instances]:
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _, _ in entries]
    masks = np.zeros((len(boxes), 70, 90), dtype=bool)
    return [instances_of(boxes, [k - 1 for _, k, _ in entries], [s for *_, s in entries], masks)]


def test_objects_are_objects_of_all_ancestors(tmp_path: Path) -> None:
    content = one_image([{"category_id": 4, "bbox": [0, 0, 10, 10]}], [4], [])
    result = evaluate(content, found(([0, 0, 10, 10], 1, 0.5)), tmp_path)
    assert result["AP50-class1"] == 100 and result["AP50-class2"] == result["AP50-class4"] == 0
    assert result["AP50"] == pytest.approx(100 / 3)
    expanded = found(([0, 0, 10, 10], 4, 0.5))
    assert evaluate(content, expanded, tmp_path, expand_predictions=True)["AP50"] == 100


def test_only_verified_classes_count(tmp_path: Path) -> None:
    """Class 4 is absent because class 2 is; nothing is known about class 5."""
    second = {"id": 2, "height": 70, "width": 90, "file_name": "2.jpg"}
    content = one_image(
        [
            {"category_id": 4, "bbox": [0, 0, 10, 10], "image_id": 2},
            {"category_id": 5, "bbox": [0, 0, 10, 10], "image_id": 2},
        ],
        [],
        [2],
    )
    content["images"].append({**second, "pos_category_ids": [4, 5], "neg_category_ids": []})
    wrong = found(([0, 0, 10, 10], 4, 0.9), ([0, 0, 10, 10], 5, 0.9))
    right = found(([0, 0, 10, 10], 4, 0.5), ([0, 0, 10, 10], 5, 0.5))
    result = evaluate(content, wrong + right, tmp_path)
    assert result["AP50-class4"] == 50 and result["AP50-class5"] == 100


def test_a_group_is_found_once_and_forgives_the_rest(tmp_path: Path) -> None:
    group = {"category_id": 5, "bbox": [0, 0, 60, 60], "isgroupof": 1}
    content = one_image([group, {"category_id": 5, "bbox": [60, 0, 30, 30]}], [5], [])
    small = [([20 * n, 0, 15, 15], 5, 0.9 - n / 10) for n in range(3)]
    assert evaluate(content, found(*small), tmp_path)["AP50"] == 50
    # a detection outside that is better than both makes the precision 2 / 3
    more = found(([60, 0, 30, 30], 5, 0.3), ([0, 60, 5, 9], 5, 0.95), *small)
    assert evaluate(content, more, tmp_path)["AP50"] == pytest.approx(100 * 2 / 3)


def test_a_detection_has_no_second_choice(tmp_path: Path) -> None:
    """COCO would give the second detection the second object, with an IoU of 0.74."""
    objects = [
        {"category_id": 5, "bbox": [0, 0, 40, 10]},
        {"category_id": 5, "bbox": [8, 0, 40, 10]},
    ]
    content = one_image(objects, [5], [])
    twice = found(([1, 0, 40, 10], 5, 0.9), ([2, 0, 40, 10], 5, 0.8))
    assert evaluate(content, twice, tmp_path)["AP50"] == 50


def test_the_official_tree_is_read(tmp_path: Path) -> None:
    """The root is no class, and "d" has two parents."""
    leaf = {"LabelName": "/m/d"}
    tree = {
        "LabelName": "/m/root",
        "Subcategory": [
            {"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/b", "Subcategory": [leaf]}]},
            {"LabelName": "/m/c", "Subcategory": [leaf]},
            {"LabelName": "/m/e"},
            {"LabelName": "/m/f"},
        ],
    }
    path = tmp_path / "hierarchy.json"
    path.write_text(json.dumps(tree))
    content = one_image([{"category_id": 4, "bbox": [0, 0, 10, 10]}], [4], [])
    labels = [f"/m/{letter}" for letter in "abcdef"]
    tree_of = {"hierarchy_file": str(path), "thing_mids": labels}
    with registered(content, tmp_path, "gppf_test_open", **tree_of) as name:
        result = run(OpenImagesEvaluator(name), content, found())[RESULT]
    zero = [key for key, value in result.items() if value == 0]
    assert zero == ["AP50", "AP50-class1", "AP50-class2", "AP50-class3", "AP50-class4"]
    tree_of["thing_mids"] = [*labels[:5], "/m/g"]
    with registered(content, tmp_path, "gppf_test_open", **tree_of) as name:
        with pytest.raises(ValueError, match="lacks 1 of the 6 classes .* first is '/m/g'"):
            OpenImagesEvaluator(name)


def test_what_the_dataset_lacks_is_named(tmp_path: Path) -> None:
    content = one_image([], [], [])
    with registered(content, tmp_path, "gppf_test_open") as name:
        with pytest.raises(KeyError, match="no 'hierarchy_file' in its metadata"):
            OpenImagesEvaluator(name)
    del content["images"][0]["neg_category_ids"]
    with registered(content, tmp_path, "gppf_test_open", hierarchy=HIERARCHY) as name:
        with pytest.raises(ValueError, match="no 'neg_category_ids'.*DetectionEvaluator"):
            OpenImagesEvaluator(name)
