"""All ranks decide together: the same sentence everywhere, the same values everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gppf_d2.distributed.collective_log import CollectiveLog
from gppf_d2.distributed.consensus import (
    agree,
    agreed,
    any_rank,
    broadcast_module,
    check_replicas,
    compare,
)
from gppf_d2.distributed.groups import build_groups
from tests.harness import run_distributed


class Model(nn.Module):
    """Parameters and buffers of many dtypes and layouts, different on every rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(rank)
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.randn(3).bfloat16())
        self.register_buffer("mask", torch.rand(5) > 0.5)
        self.register_buffer("empty", torch.zeros(0))
        self.norm.num_batches_tracked += rank
        self.norm.running_mean += rank
        self.own = nn.Linear(2, 2)

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [(n, t) for n, t in self.state_dict().items() if not n.startswith("own")]


def said_by(function: Any, *args: Any, **kwargs: Any) -> str:
    try:
        function(*args, **kwargs)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _faulty_block(fault: Exception | None, group: Any) -> None:
    with agreed(group):
        if fault is not None:
            raise fault


def _three_ranks(rank: int, world_size: int) -> dict[str, Any]:
    group = build_groups(None, rank, timeout=60).control
    sentence = f"no folder x{rank}" if rank else None
    same = {"config": {"seed": 1, "tasks": ["a", "b"]}, "parameters": {"w": [3, 4]}}
    seed = {**same, "config": {"seed": 1 + (rank == 2), "tasks": ["a", "b"]}}
    tasks = {**same, "config": {"seed": 1, "tasks": ["a", "b"][: 2 - (rank == 1)]}}
    order = {"order": {"x": 1, "y": 2} if rank < 2 else {"y": 2, "x": 1}}
    model = Model(rank)
    own = model.own.weight.clone()
    before = said_by(check_replicas, model.tensors(), group)
    with CollectiveLog() as log:
        broadcast_module(model, group, skip=lambda name: name.startswith("own."))
    after = said_by(check_replicas, model.tensors(), group)
    reference = Model(0)
    equal = all(torch.equal(a, b) for (_, a), (_, b) in zip(model.tensors(), reference.tensors()))
    if rank == 2:
        model.norm.running_var[1] += 1e-7
    return {
        "agree": said_by(agree, sentence, group),
        "all agree": said_by(agree, "no folder", group),
        "well": said_by(agree, None, group),
        "block": said_by(_faulty_block, KeyError("no task z") if rank == 1 else None, group),
        "good block": said_by(_faulty_block, None, group),
        "any": (any_rank(rank == 1, group), any_rank(False, group)),
        "same": said_by(compare, same, group),
        "seed": said_by(compare, seed, group, what="configs"),
        "tasks": said_by(compare, tasks, group),
        "order": said_by(compare, order, group),
        "before": before,
        "after": after,
        "broadcasts": log.counts["broadcast_"],
        "equal": equal,
        "own kept": torch.equal(own, model.own.weight),
        "channels_last": model.conv.weight.is_contiguous(memory_format=torch.channels_last),
        "one bit": said_by(check_replicas, model.tensors(), group),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_distributed(_three_ranks, 3)


def test_all_ranks_raise_the_lowest_failing_ranks_sentence(ranks: list[dict]) -> None:
    for rank in ranks:
        assert rank["agree"] == "AgreedError: no folder x1 (seen by rank 1)"
        assert rank["all agree"] == "AgreedError: no folder"
        assert rank["block"] == "AgreedError: no task z (seen by rank 1)"
        assert rank["well"] == rank["good block"] == ""


def test_a_flag_of_one_rank_is_known_to_all(ranks: list[dict]) -> None:
    assert all(rank["any"] == (True, False) for rank in ranks)


def test_comparison_names_label_ranks_and_values(ranks: list[dict]) -> None:
    for rank in ranks:
        assert rank["same"] == ""
        assert "the configs differ: config.seed is 1 on rank 0 and 2 on rank 2" in rank["seed"]
        assert 'config.tasks[1] is "b" on rank 0 and missing on rank 1' in rank["tasks"]
        assert 'the order of order is ["x", "y"] on rank 0 and ["y", "x"]' in rank["order"]


def test_broadcast_gives_all_ranks_rank_0s_parameters_and_buffers(ranks: list[dict]) -> None:
    for rank in ranks:
        assert rank["equal"] and rank["own kept"] and rank["channels_last"]
        assert rank["broadcasts"] == 4, "one a dtype: float32, bfloat16, bool, int64"


def test_i1_replica_check_names_the_first_tensor_that_differs(ranks: list[dict]) -> None:
    for rank in ranks:
        assert "scale is not bit-equal on rank 0 and on ranks [1, 2]" in rank["before"]
        assert rank["after"] == ""
        assert "norm.running_var is not bit-equal on rank 0 and on ranks [2]" in rank["one bit"]


def test_alone_nothing_is_sent() -> None:
    with CollectiveLog("refuse"):
        agree(None)
        assert any_rank(True)
        compare({"a": 1})
        broadcast_module(Model(0))
        check_replicas(Model(0).tensors())
        with pytest.raises(ValueError, match="^no folder$"):
            agree("no folder")
