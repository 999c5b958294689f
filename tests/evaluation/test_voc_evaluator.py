"""VOC's AP50: Detectron2's evaluator on VOC's files, and the rules one by one."""

from __future__ import annotations

import functools
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import pascal_voc_evaluation
from detectron2.structures import BoxMode, Instances

from gppf_d2.evaluation import VOCEvaluator
from tests.evaluation.instance_worlds import instances_of, make_world, registered, run

OBJECT = """<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>
<difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax>
<ymax>{3}</ymax></bndbox></object>"""


def voc_world(seed: int, *, everywhere: bool = False, **options) -> tuple[dict, list[Instances]]:
    """A world with difficult objects; boxes and scores survive the rounding of VOC's text files.

    ``everywhere`` gives every class objects; without it the last one has none.
    """
    content, predictions = make_world(seed, **{"images": 16, "repeats": 4, **options})
    generator = np.random.default_rng(seed + 1)
    for entry in content["annotations"]:
        entry["difficult"] = int(generator.random() < 0.25)
        if everywhere and generator.random() < 0.3:
            entry["category_id"] = content["categories"][-1]["id"]
    for instances in predictions:
        halves = torch.from_numpy(generator.integers(0, 2, (len(instances), 2)) / 2)
        instances.pred_boxes.tensor[:, 2:] += halves
        instances.scores = torch.round(instances.scores, decimals=3)
    return content, predictions


def write_voc(content: dict, folder: Path) -> None:
    """The content of a COCO JSON as VOC's XML files: pixels from 1 on, the last one inside."""
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets/Main").mkdir(parents=True)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for image in content["images"]:
        objects = [
            OBJECT.format(x + 1, y + 1, x + w, y + h, name=names[entry["category_id"]],
                          difficult=int(entry["difficult"] or entry["iscrowd"]))
            for entry in content["annotations"] if entry["image_id"] == image["id"]
            for x, y, w, h in [entry["bbox"]]
        ]  # fmt: skip
        text = f"<annotation>{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{image['id']}.xml").write_text(text)
    lines = "".join(f"{image['id']}\n" for image in content["images"])
    (folder / "ImageSets/Main/test.txt").write_text(lines)


def detectron2s(
    content: dict, predictions: list[Instances], folder: Path, patch: pytest.MonkeyPatch, year: int
) -> tuple[dict[str, float], dict[tuple[str, int], float]]:
    """What Detectron2's evaluator gives, and the AP per class and threshold on the way there."""
    write_voc(content, folder)
    found = {}

    def spy(*args, ovthresh: float, **options):
        value = plain(*args, ovthresh=ovthresh, **options)
        found[args[3], round(100 * ovthresh)] = 100 * value[2]
        return value

    plain = pascal_voc_evaluation.voc_eval
    # equal scores: the order of an unstable sort is nobody's
    stable = {**vars(np), "argsort": functools.partial(np.argsort, kind="stable")}
    patch.setattr(pascal_voc_evaluation, "np", types.SimpleNamespace(**stable))
    patch.setattr(pascal_voc_evaluation, "voc_eval", spy)
    voc = {"dirname": str(folder), "split": "test", "year": year}
    with (
        registered(content, folder, "gppf_test_voc_files", **voc) as name,
        np.errstate(all="ignore"),
    ):
        evaluator = pascal_voc_evaluation.PascalVOCDetectionEvaluator(name)
        evaluator.reset()
        return run(evaluator, content, predictions)["bbox"], found


def evaluate(
    content: dict, predictions: list[Instances], folder: Path, **options
) -> dict[str, float]:
    with registered(content, folder, "gppf_test_voc") as name:
        results = run(VOCEvaluator(name, **options), content, predictions)
    assert list(results) == ["voc"]
    return results["voc"]


WORLDS = {
    "plain": {"seed": 0},
    "ties": {"seed": 1, "ties": True},
    "crowds": {"seed": 2, "crowd": 0.2},
    "gaps": {"seed": 3, "gaps": True, "classes": 6},
    "few": {"seed": 5, "images": 5, "repeats": 1},
    "many": {"seed": 4, "images": 40, "repeats": 9, "ties": True, "everywhere": True},
}


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("name", WORLDS)
def test_it_equals_detectron2s_evaluator(
    name: str, year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, predictions = voc_world(**WORLDS[name])
    theirs, of_class = detectron2s(content, predictions, tmp_path / "voc", monkeypatch, year)
    options = {"eleven_points": year == 2007}
    ours = evaluate(content, predictions, tmp_path, **options)
    stricter = evaluate(content, predictions, tmp_path, iou=0.75, **options)
    for result, threshold in ((ours, 50), (stricter, 75)):
        expected = {
            key: of_class[key, threshold] if counted(content, key) else math.nan
            for key in (category["name"] for category in content["categories"])
        }
        of_ours = {key: result[f"AP{threshold}-{key}"] for key in expected}
        assert of_ours == pytest.approx(expected, abs=1e-9, nan_ok=True)
        mean = np.nanmean(list(expected.values()))
        assert result[f"AP{threshold}"] == pytest.approx(mean, abs=1e-9)
        # with a class without objects Detectron2's mean is NaN, or has a zero for it
        if "everywhere" in WORLDS[name]:
            assert result[f"AP{threshold}"] == pytest.approx(theirs[f"AP{threshold}"], abs=1e-9)
        else:
            assert math.isnan(list(of_ours.values())[-1])
    assert 0 <= stricter["AP75"] < ours["AP50"] < 100


def counted(content: dict, class_name: str) -> bool:
    """Whether a class has an object that is not difficult."""
    (key,) = (c["id"] for c in content["categories"] if c["name"] == class_name)
    return any(
        entry["category_id"] == key and not entry["difficult"] and not entry["iscrowd"]
        for entry in content["annotations"]
    )


def image_with(*objects: tuple[list[int], int]) -> dict:
    """One image whose objects of class 1 are boxes with their "difficult"."""
    content, _ = make_world(images=1, classes=2, objects=False)
    content["annotations"] = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0, "difficult": hard}
        for n, (box, hard) in enumerate(objects)
    ]
    return content


def found(*entries: tuple[list[float], float]) -> list[Instances]:
    boxes = [[x, y, x + w, y + h] for (x, y, w, h), _ in entries]
    masks = np.zeros((len(boxes), 70, 90), dtype=bool)
    return [instances_of(boxes, [0] * len(boxes), [score for _, score in entries], masks)]


def test_a_duplicate_is_wrong(tmp_path: Path) -> None:
    content = image_with(([0, 0, 10, 10], 0), ([30, 0, 10, 10], 0))
    once = found(([0, 0, 10, 10], 0.9), ([30, 0, 10, 10], 0.7))
    assert evaluate(content, once, tmp_path)["AP50"] == 100
    twice = found(([0, 0, 10, 10], 0.9), ([0, 0, 10, 9], 0.8), ([30, 0, 10, 10], 0.7))
    assert evaluate(content, twice, tmp_path)["AP50"] == pytest.approx(100 * (1 / 2 + 1 / 3))


def test_a_difficult_object_is_neither_found_nor_missed(tmp_path: Path) -> None:
    content = image_with(([0, 0, 10, 10], 1), ([30, 0, 10, 10], 0))
    right = ([30, 0, 10, 10], 0.7)
    assert evaluate(content, found(right), tmp_path)["AP50"] == 100
    hits = [([0, 0, 10, 10], 0.9), ([0, 0, 10, 9], 0.8)]
    assert evaluate(content, found(*hits, right), tmp_path)["AP50"] == 100
    content["annotations"][0].update(difficult=0, iscrowd=1)
    assert evaluate(content, found(*hits, right), tmp_path)["AP50"] == 100
    content["annotations"][0]["iscrowd"] = 0
    assert evaluate(content, found(right), tmp_path)["AP50"] == 50


def test_half_is_not_enough(tmp_path: Path) -> None:
    content = image_with(([0, 0, 10, 10], 0))
    assert evaluate(content, found(([0, 0, 10, 5], 0.9)), tmp_path)["AP50"] == 0
    assert evaluate(content, found(([0, 0, 10, 6], 0.9)), tmp_path)["AP50"] == 100


def test_nothing_found_and_nothing_there(tmp_path: Path) -> None:
    content = image_with(([0, 0, 10, 10], 0))
    result = evaluate(content, found(), tmp_path)
    assert result["AP50"] == result["AP50-class1"] == 0 and math.isnan(result["AP50-class2"])
    content = image_with(([0, 0, 10, 10], 1))
    assert math.isnan(evaluate(content, found(([0, 0, 10, 10], 0.9)), tmp_path)["AP50"])


def test_comparing_in_parts_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = voc_world(seed=6)
    whole = evaluate(*world, tmp_path)
    monkeypatch.setattr("gppf_d2.evaluation.voc.PAIRS", 3)
    assert evaluate(*world, tmp_path) == pytest.approx(whole, nan_ok=True, abs=0)


def test_records_without_a_json_may_have_difficult_objects() -> None:
    boxes = [[0, 0, 10, 10], [30, 0, 40, 10]]
    objects = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "difficult": hard}
        for box, hard in zip(boxes, (1, 0))
    ]
    record = {"file_name": "a.jpg", "image_id": "a", "height": 70, "width": 90}
    name = "gppf_test_voc_records"
    DatasetCatalog.register(name, lambda: [{**record, "annotations": objects}])
    MetadataCatalog.get(name).set(thing_classes=["one"])
    try:
        evaluator = VOCEvaluator(name)
        evaluator.process([record], [{"instances": found(([30, 0, 10, 10], 0.5))[0]}])
        assert evaluator.evaluate()["voc"]["AP50"] == 100
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("iou", [0, 1, 50])
def test_a_threshold_that_cannot_be_meant(iou: float) -> None:
    with pytest.raises(ValueError, match=f"iou is {iou}; give a threshold above 0 and below 1"):
        VOCEvaluator("gppf_test_voc", iou=iou)
