"""The loss scale of fp16: an overflow is agreed by all ranks and leaves no trace of its step."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from gppf_d2.distributed.groups import build_groups
from gppf_d2.engine.errors import NonFiniteError
from gppf_d2.engine.optimizer import LossScale
from gppf_d2.tools.bench_step import build_trainer
from tests.harness import run_distributed

OPTIONS = Namespace(depth=18, size=64, batch=2)


def overflow_and_recover(rank: int, world_size: int) -> dict:
    """Steps from a scale far too large, until one is accepted, against a step without a scale."""
    groups = build_groups(None, rank)
    tasks = ["classes", "semantic"]
    plain = build_trainer(rank, groups, tasks, OPTIONS)
    scaled = build_trainer(rank, groups, tasks, OPTIONS)
    before = {name: value.clone() for name, value in scaled.model.state_dict().items()}
    scaled.loss_scale = LossScale(enabled=True, scale=2.0**68)
    skipped, kept = 0, True
    with EventStorage(0):
        plain.run_step()
        while skipped < 30:
            good_steps = scaled.loss_scale.good_steps
            scaled.run_step()
            scaled.iter = 0  # the same tasks, samples and random draws again
            scaled.batches = build_trainer(rank, groups, tasks, OPTIONS).batches
            if scaled.loss_scale.good_steps > good_steps:
                break
            skipped += 1
            now = scaled.model.state_dict()
            kept &= all(
                torch.equal(now[name], value)
                for name, value in before.items()
                if name.startswith("backbone.")
            )
        expected, found = plain.model.state_dict(), scaled.model.state_dict()
        difference = max(
            float((expected[name].double() - found[name].double()).abs().max())
            for name in expected
            if name.startswith("backbone.") and expected[name].is_floating_point()
        )
        scaled.loss_scale = LossScale(enabled=True, scale=1.0)
        with torch.no_grad():
            next(iter(scaled.model.heads.parameters())).fill_(torch.nan)
        try:
            scaled.run_step()
            stopped = ""
        except NonFiniteError as error:
            stopped = str(error)
    return {"skipped": skipped, "kept": kept, "difference": difference, "stopped": stopped}


@pytest.mark.timeout(200)
def test_an_overflow_skips_the_step_on_every_rank_and_the_next_good_one_is_exact() -> None:
    results = run_distributed(overflow_and_recover, 2, timeout=150)
    for result in results:
        assert 0 < result["skipped"] < 30
        assert result["kept"], "a skipped step changed the backbone or its running statistics"
        assert result["difference"] < 1e-5
        assert "is not finite" in result["stopped"], "at scale 1 it is no overflow"
    assert results[0]["skipped"] == results[1]["skipped"]
