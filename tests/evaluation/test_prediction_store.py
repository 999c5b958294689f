"""Masks encoded in their windows, and predictions that wait on disk."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from gppf_d2.evaluation import DetectionEvaluator
from gppf_d2.evaluation.masks import encode_masks
from gppf_d2.evaluation.prediction_store import ROW, PredictionStore
from tests.evaluation.instance_worlds import make_world, registered, run


def patterns(height: int, width: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    masks = np.zeros((16, height, width), dtype=bool)
    masks[1] = True
    masks[2, 0, 0] = masks[3, -1, -1] = masks[4, height // 2, width // 3] = True
    masks[5, :, 1:3] = masks[6, 1:3] = True
    masks[7, :, 0] = masks[8, :, -1] = True
    masks[9, -1, :] = masks[10, 0, :] = True
    masks[11, ::2, ::3] = True
    masks[12:] = (
        generator.random((4, height, width)) < np.array([0.1, 0.5, 0.9, 0.99])[:, None, None]
    )
    return masks


@pytest.mark.parametrize("size", [(37, 53), (5, 3), (1, 9), (9, 1)])
def test_masks_become_the_bytes_of_pycocotools(size: tuple[int, int]) -> None:
    masks = patterns(*size)
    if min(size) > 3:
        masks = np.concatenate([masks, patterns(*size)[:, ::-1, ::-1]])
    encoded, areas = encode_masks(masks)
    for mask, rle, area in zip(masks, encoded, areas):
        assert rle == mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        assert area == mask.sum()
    assert encode_masks(masks[:0])[0] == []


def test_an_image_that_comes_again_counts_once() -> None:
    store = PredictionStore()
    for image_id, count, score in (("a", 2, 0.5), ("b", 0, 0.0), ("a", 3, 0.9), (7, 1, 0.7)):
        rows = np.zeros(count, dtype=ROW)
        rows["score"] = score
        store.add(image_id, (4, 5), rows, [b"%d" % n for n in range(count)])
    for _ in range(2):
        found = store.collect()
        assert found.image_ids == ["a", "b", 7] and found.sizes.tolist() == [[4, 5]] * 3
        assert found.image.tolist() == [0, 0, 2]
        assert found.rows["score"].tolist() == [0.5, 0.5, 0.7]
        assert found.rles.tolist() == [b"0", b"1", b"0"]
    store.add("c", (4, 5), np.zeros(1, dtype=ROW), [b"late"])
    assert store.collect().rles[-1] == b"late"


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    """Not even in the folder of the results while it runs, nor open files after an error."""
    content, predictions = make_world()
    folder = tmp_path / "results"
    with registered(content, tmp_path, "gppf_test_store") as name:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        evaluator = DetectionEvaluator(name, output_dir=str(folder))
        sample = {"image_id": content["images"][0]["id"]}
        evaluator.process([sample], [{"instances": predictions[0]}])
        assert os.listdir(folder) == []
        with pytest.raises(ValueError, match="is not in the ground truth"):
            evaluator.process([{"image_id": 12345}], [{"instances": predictions[0]}])
        del evaluator
        gc.collect()
        assert not before or len(os.listdir("/proc/self/fd")) == before


def test_predictions_are_kept_on_request(tmp_path: Path) -> None:
    content, predictions = make_world(gaps=True)
    with registered(content, tmp_path, "gppf_test_store") as name:
        run(DetectionEvaluator(name, output_dir=str(tmp_path / "kept")), content, predictions)
    assert sorted(os.listdir(tmp_path / "kept")) == [
        "predictions_bbox.json",
        "predictions_segm.json",
    ]
    entries = json.loads((tmp_path / "kept" / "predictions_segm.json").read_text())
    assert len(entries) == sum(map(len, predictions))
    first = next(n for n, instances in enumerate(predictions) if len(instances))
    entry, instances = entries[0], predictions[first]
    ids = sorted(category["id"] for category in content["categories"])
    assert entry["image_id"] == content["images"][first]["id"]
    assert entry["category_id"] == ids[int(instances.pred_classes[0])]
    assert entry["score"] == instances.scores[0].item()
    assert np.array_equal(mask_util.decode(entry["segmentation"]), instances.pred_masks[0])


def test_masks_of_another_size_are_named(tmp_path: Path) -> None:
    content, predictions = make_world()
    content["images"][1]["height"] += 1
    with registered(content, tmp_path, "gppf_test_store") as name:
        with pytest.raises(ValueError, match="image 2 have 70 x 90 pixels, the image 71 x 90"):
            run(DetectionEvaluator(name), content, predictions)
