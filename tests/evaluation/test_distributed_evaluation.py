"""All evaluators: two processes that share the images give what one process gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from gppf_d2.evaluation import (
    ClassificationEvaluator,
    DepthEvaluator,
    DetectionEvaluator,
    LVISEvaluator,
    NearestNeighbourEvaluator,
    OpenImagesEvaluator,
    SemanticEvaluator,
    VOCEvaluator,
    prediction_store,
)
from tests.evaluation.instance_worlds import registered
from tests.evaluation.test_counting import lvis_world
from tests.evaluation.test_detection_evaluator import make_records, noisy
from tests.evaluation.test_open_images_evaluator import HIERARCHY, verified_world
from tests.evaluation.test_voc_evaluator import voc_world
from tests.harness import run_distributed

NAME = "gppf_test_all"


def evaluate_stored(rank: int, world_size: int, folder: str) -> list:
    """The evaluators that keep predictions on disk; every rank predicts the first image."""
    results = []
    for world, kind, hierarchy in (
        (lvis_world(), LVISEvaluator, None),
        (verified_world(), OpenImagesEvaluator, HIERARCHY),
        (verified_world(found=False), DetectionEvaluator, None),
        (voc_world(seed=0, ties=True), VOCEvaluator, None),
    ):
        content, predictions = world
        own = Path(folder) / str(rank)
        own.mkdir(exist_ok=True)
        with registered(content, own, "gppf_test_stored", hierarchy=hierarchy) as name:
            evaluator = kind(name)
            for index in sorted({0, *range(rank, len(predictions), world_size)}):
                sample = {"image_id": content["images"][index]["id"]}
                evaluator.process([sample], [{"instances": predictions[index]}])
            results.append(evaluator.evaluate())
    return results


def evaluate_all(rank: int, world_size: int, folder: str) -> list:
    """Every ``world_size``-th image from ``rank`` on, through all evaluators."""
    prediction_store.CHUNK = 1000  # bytes: several messages a file
    return evaluate_carried(rank, world_size) + evaluate_stored(rank, world_size, folder)


def evaluate_carried(rank: int, world_size: int) -> list:
    """The evaluators whose truth comes with the samples, and that of records in memory."""
    records = make_records(images=5)
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(
        thing_classes=["square", "oblong"],
        stuff_classes=["a", "b", "c"],
        classes=list("0123456"),
        depth_range=(0.1, 10.0),
    )
    generator = torch.Generator().manual_seed(0)
    noise = np.random.default_rng(0)
    samples, outputs = [], []
    for record in records:
        truth = torch.randint(0, 3, (4, 5), generator=generator)
        depth = 1 + 8 * torch.rand(4, 5, generator=generator)
        samples.append({**record, "sem_seg": truth, "depth": depth, "label": len(samples) % 3})
        outputs.append(
            {
                "sem_seg": torch.rand(3, 4, 5, generator=generator),
                "depth": depth + torch.rand(4, 5, generator=generator),
                "classes": torch.rand(7, generator=generator),
                "features": torch.rand(4, generator=generator),
                "instances": noisy(record, noise),
            }
        )
    try:
        results = []
        for kind in (
            ClassificationEvaluator,
            DepthEvaluator,
            NearestNeighbourEvaluator,
            SemanticEvaluator,
            DetectionEvaluator,
        ):
            options = {"boundary": True} if kind is SemanticEvaluator else {}
            evaluator = kind(NAME, **options)
            evaluator.reset()
            evaluator.process(samples[rank::world_size], outputs[rank::world_size])
            results.append(evaluator.evaluate())
        return results
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    alone = evaluate_all(0, 1, str(tmp_path))
    first, second = run_distributed(evaluate_all, 2, str(tmp_path))
    assert second == [None] * 9
    assert [list(result) for result in first] == [
        ["classification"],
        ["depth"],
        ["nearest_neighbour"],
        ["sem_seg"],
        ["bbox", "segm"],
        ["bbox", "segm"],
        ["open_images_challenge"],
        ["bbox", "segm"],
        ["voc"],
    ]
    for one, two in zip(alone, first):
        for kind, metrics in one.items():
            assert two[kind] == pytest.approx(metrics, nan_ok=True, rel=1e-12), kind
