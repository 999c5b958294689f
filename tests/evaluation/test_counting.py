"""All libraries count alike, on ordinary data and where evaluators usually differ.

The reference is pycocotools on what Detectron2 makes of the predictions, without any of our code.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gppf_d2.evaluation import DetectionEvaluator, LVISEvaluator
from tests.evaluation.instance_worlds import make_world, registered, run

CASES = {
    "ordinary": {},
    "crowds": {"crowd": 0.4},
    "equal scores": {"ties": True, "repeats": 6},
    "ids with gaps": {"gaps": True},
    "boxes without area": {"flat": 0.3, "repeats": 3},
    "more than 100 detections": {"images": 4, "repeats": 60, "ties": True},
    "nothing found": {"found": False},
    "no objects": {"objects": False},
}
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def reference(content: dict, predictions: list[Instances], task: str) -> dict[str, float]:
    """pycocotools' six numbers and the AP per class, in percent."""
    content = copy.deepcopy(content)
    for number, entry in enumerate(content["annotations"], start=1):
        entry["id"] = number
    ids = sorted(category["id"] for category in content["categories"])
    results = []
    for image, instances in zip(content["images"], predictions):
        for entry in instances_to_coco_json(instances, image["id"]):
            del entry["bbox" if task == "segm" else "segmentation"]
            results.append({**entry, "category_id": ids[entry["category_id"]]})
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset, found.dataset = content, {**content, "annotations": []}
        truth.createIndex()
        found.createIndex()
        if results:
            found = truth.loadRes(results)
        counter = COCOeval(truth, found, task)
        counter.evaluate()
        counter.accumulate()
        counter.summarize()
    numbers = dict(zip(METRICS, counter.stats.tolist()))
    for index, key in enumerate(ids):
        values = counter.eval["precision"][:, :, index, 0, -1]
        known = values[values > -1]
        numbers[f"AP-class{key}"] = known.mean() if known.size else -1
    return {name: 100 * v if v >= 0 else math.nan for name, v in numbers.items()}


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_pycocotools(case: str, backend: str, tmp_path: Path) -> None:
    if backend == "hotcoco":
        pytest.importorskip("hotcoco")
    content, predictions = make_world(**CASES[case])
    with registered(content, tmp_path, "gppf_test_counting") as name:
        results = run(DetectionEvaluator(name, backend=backend), content, predictions)
    for task, result in results.items():
        expected = reference(content, predictions, task)
        assert set(result) == set(expected)
        for key, value in expected.items():
            assert result[key] == pytest.approx(value, rel=0, abs=1e-12, nan_ok=True), (task, key)
    assert math.isnan(results["bbox"]["AP"]) == (case == "no objects")
    assert math.isnan(results["bbox"][f"AP-class{content['categories'][-1]['id']}"])


def lvis_world(**options) -> tuple[dict, list[Instances]]:
    """A world whose images are labelled for some classes only."""
    content, predictions = make_world(**{"classes": 7, "images": 20, **options})
    generator = np.random.default_rng(1)
    for category, frequency in zip(content["categories"], "rcfrcff"):
        category["frequency"] = frequency
    ids = [category["id"] for category in content["categories"]]
    for image in content["images"]:
        present = {e["category_id"] for e in content["annotations"] if e["image_id"] == image["id"]}
        image["neg_category_ids"] = [
            key for key in ids if key not in present and generator.random() < 0.4
        ]
        image["not_exhaustive_category_ids"] = [
            key for key in sorted(present) if generator.random() < 0.3
        ]
    return content, predictions


def lvis_reference(path: Path, content: dict, predictions: list[Instances], task: str) -> dict:
    """lvis-api's numbers in percent, through its own reading of files."""
    lvis = pytest.importorskip("lvis", reason="lvis-api, the reference, is not installed")
    content = copy.deepcopy(content)
    for number, entry in enumerate(content["annotations"], start=1):
        entry["id"] = number
    path.write_text(json.dumps(content))
    ids = sorted(category["id"] for category in content["categories"])
    results = [
        {**entry, "category_id": ids[entry["category_id"]]}
        for image, instances in zip(content["images"], predictions)
        for entry in instances_to_coco_json(instances, image["id"])
    ]
    if task == "segm":
        results = [{k: v for k, v in entry.items() if k != "bbox"} for entry in results]
    truth = lvis.LVIS(str(path))
    counter = lvis.LVISEval(truth, lvis.LVISResults(truth, results), task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        counter.run()
    return {
        name: 100 * value if value >= 0 else math.nan
        for name, value in counter.get_results().items()
        if not name.startswith("AR")
    }


@pytest.mark.parametrize("backend", ["hotcoco", "lvis"])
@pytest.mark.parametrize(
    "case",
    [
        "ordinary",
        "equal scores",
        "ids with gaps",
        "boxes without area",
        "more than 300 detections",
        "no objects",
    ],
)
def test_numbers_are_those_of_lvis_api(case: str, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    options = {"images": 4, "repeats": 120, "ties": True} if "300" in case else CASES[case]
    content, predictions = lvis_world(**options)
    if "300" in case:
        assert max(map(len, predictions)) > 300
    with registered(content, tmp_path, "gppf_test_lvis") as name:
        results = run(LVISEvaluator(name, backend=backend), content, predictions)
    for task, result in results.items():
        expected = lvis_reference(tmp_path / "lvis.json", content, predictions, task)
        assert list(result) == [*METRICS, "APr", "APc", "APf"] and set(result) == set(expected)
        assert result == pytest.approx(expected, rel=0, abs=1e-10, nan_ok=True), task


@pytest.mark.parametrize("backend", ["hotcoco", "lvis"])
def test_lvis_without_predictions_is_zero(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    content, predictions = lvis_world(found=False)
    with registered(content, tmp_path, "gppf_test_lvis") as name:
        results = run(LVISEvaluator(name, backend=backend), content, predictions)
    assert [result["AP"] for result in results.values()] == [0, 0]
    assert not hasattr(np, "float")


def test_lvis_rules_change_the_numbers(tmp_path: Path) -> None:
    """What is unknown about an image does not count: forgetting it must be seen."""
    content, predictions = lvis_world(repeats=4)
    results = []
    for everything in (False, True):
        if everything:
            for image in content["images"]:
                image["neg_category_ids"] = [c["id"] for c in content["categories"]]
                image["not_exhaustive_category_ids"] = []
        with registered(content, tmp_path, "gppf_test_lvis") as name:
            evaluator = LVISEvaluator(name, tasks=["bbox"])
            results.append(run(evaluator, content, predictions)["bbox"]["AP"])
    assert results[0] > results[1] + 1


@pytest.mark.parametrize("evaluator", [DetectionEvaluator, LVISEvaluator])
def test_ids_of_the_file_are_taken_where_the_metadata_has_none(evaluator, tmp_path: Path) -> None:
    """Detectron2's own LVIS: ids from 1, no mapping."""
    content, predictions = lvis_world(gaps=True)
    with registered(content, tmp_path, "gppf_test_ids") as name:
        expected = run(evaluator(name), content, predictions)
        del MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        found = run(evaluator(name), content, predictions)
        assert expected["bbox"]["AP"] > 1
        for task, result in expected.items():
            assert found[task] == pytest.approx(result, abs=0, nan_ok=True), task
        MetadataCatalog.get(name).thing_classes.append("one more")
        with pytest.raises(ValueError, match="has 8 classes and its ground truth 7"):
            evaluator(name)


def test_lvis_needs_its_annotations(tmp_path: Path) -> None:
    content, _ = lvis_world(images=2)
    del content["categories"][1]["frequency"]
    with registered(content, tmp_path, "gppf_test_lvis") as name:
        with pytest.raises(ValueError, match="'class2'.* has frequency None, expected one of r, c"):
            LVISEvaluator(name)
    del content["images"][0]["neg_category_ids"]
    with registered(content, tmp_path, "gppf_test_lvis") as name:
        with pytest.raises(ValueError, match="no 'neg_category_ids'.*DetectionEvaluator"):
            LVISEvaluator(name)


def test_missing_libraries_fall_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, predictions = make_world()
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with registered(content, tmp_path, "gppf_test_counting") as name:
        result = run(DetectionEvaluator(name), content, predictions)["bbox"]
        assert result["AP"] == pytest.approx(reference(content, predictions, "bbox")["AP"])
        with pytest.raises(ValueError, match="'hotcoco' needs hotcoco.*pip install hotcoco"):
            DetectionEvaluator(name, backend="hotcoco")
        with pytest.raises(ValueError, match="'fast'; choose 'auto', 'hotcoco' or 'pycocotools'"):
            DetectionEvaluator(name, backend="fast")
        monkeypatch.setitem(sys.modules, "lvis", None)
        with pytest.raises(ValueError, match="'auto' needs hotcoco or lvis"):
            LVISEvaluator(name)
