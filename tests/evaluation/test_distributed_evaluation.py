"""All evaluators: two processes that share the images give what one process gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from gppf_d2.evaluation import (
    ClassificationEvaluator,
    DepthEvaluator,
    DetectionEvaluator,
    SemanticEvaluator,
)
from tests.evaluation.test_detection_evaluator import make_records, noisy
from tests.harness import run_distributed

NAME = "gppf_test_all"


def evaluate_all(rank: int, world_size: int) -> list | None:
    """Every ``world_size``-th image from ``rank`` on, through all evaluators."""
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
                "instances": noisy(record, noise),
            }
        )
    try:
        results = []
        for kind in (
            ClassificationEvaluator,
            DepthEvaluator,
            SemanticEvaluator,
            DetectionEvaluator,
        ):
            evaluator = kind(NAME)
            evaluator.reset()
            evaluator.process(samples[rank::world_size], outputs[rank::world_size])
            results.append(evaluator.evaluate())
        return results
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_two_processes_give_the_numbers_of_one() -> None:
    alone = evaluate_all(0, 1)
    first, second = run_distributed(evaluate_all, 2)
    assert second == [None] * 4
    assert [list(result) for result in first] == [
        ["classification"],
        ["depth"],
        ["sem_seg"],
        ["bbox", "segm"],
    ]
    for one, two in zip(alone, first):
        for kind, metrics in one.items():
            assert two[kind] == pytest.approx(metrics, nan_ok=True, rel=1e-12), kind
