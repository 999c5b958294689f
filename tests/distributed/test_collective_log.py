"""Every collective is seen: counted, refused before it is issued, compared over the ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gppf_d2.distributed.collective_log import CollectiveError, CollectiveLog, tag
from gppf_d2.distributed.groups import build_groups
from tests.harness import run_distributed


class HiddenBackward(torch.autograd.Function):
    """Identity whose backward sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        dist.all_reduce(grad)
        return grad


class Normaliser(nn.Module):
    """A loss normaliser as it hides in third-party heads."""

    def forward(self, x: Tensor) -> Tensor:
        count = torch.ones(1)
        dist.all_reduce(count)
        return x / count


class Joining(nn.Module):
    """A layer that issues the collective of its inner module without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Normaliser()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.forward(x)


class OtherLoss(Normaliser):
    """The same under another name."""


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.normaliser = Normaliser()

    def forward(self, x: Tensor) -> Tensor:
        return self.normaliser(self.linear(x))


def raised(function: Any, *args: Any) -> str:
    try:
        function(*args)
    except CollectiveError as error:
        return str(error)
    return ""


def _every_operation(groups: Any, world_size: int) -> dict[str, Any]:
    x = torch.ones(3)
    with CollectiveLog() as log:
        dist.all_reduce(x, group=groups.gradients)
        dist.all_reduce(x, group=groups.statistics, async_op=True).wait()
        dist.broadcast(x, 0)
        dist.all_gather([torch.ones(3) for _ in range(world_size)], x)
        dist.all_gather_object([None] * world_size, "word", group=groups.control)
        dist.reduce(x, 0)
        dist.barrier()
        HiddenBackward.apply(torch.ones(2, requires_grad=True)).sum().backward()
        weight = nn.Parameter(torch.ones(2))
        weight.register_post_accumulate_grad_hook(lambda p: dist.all_reduce(p.grad))
        (2 * weight).sum().backward()
    dist.all_reduce(x)  # outside: not seen
    return {
        "counts": dict(log.counts),
        "first": log.of_group(groups.gradients)[0],
        "statistics": len(log.of_group(groups.statistics)),
        "labels": [entry.label for entry in log.entries if entry.label],
    }


def _refusals(groups: Any) -> dict[str, Any]:
    model = nn.ModuleDict({"heads": nn.ModuleDict({"coco": Head()})})
    x = torch.ones(1, 2, requires_grad=True)
    with CollectiveLog("refuse", model, allow=[groups.statistics]) as log:
        head = raised(model["heads"]["coco"], x)
        dist.all_reduce(torch.ones(1), group=groups.statistics)
        with tag("loss of coco"):
            tagged = raised(dist.all_reduce, torch.ones(1))
        backward = raised(HiddenBackward.apply(x).sum().backward)
        plain = raised(dist.barrier)
    return {
        "head": head,
        "tagged": tagged,
        "backward": backward,
        "plain": plain,
        "recorded": len(log.entries),
    }


def _swapped_pair(rank: int, groups: Any) -> dict[str, Any]:
    """Two sums of one size, issued in another order by rank 1: wrong values and no error."""
    said = {}
    block = nn.ModuleDict({"layer": Joining()})
    with CollectiveLog("compare", block) as log:
        for name in ("first", "second"):
            with tag(name):
                dist.all_reduce(torch.ones(4), group=groups.gradients)
        said["equal"] = raised(log.end_step, groups.control)
        values = {"stem": torch.full((4,), 1.0), "head": torch.full((4,), 100.0)}
        for name in ("stem", "head") if rank == 0 else ("head", "stem"):
            with tag(name):
                dist.all_reduce(values[name], group=groups.gradients)
        said["silently wrong"] = values["stem"][0].item()
        said["swapped"] = raised(log.end_step, groups.control)
        if rank == 0:
            block["layer"].inner(torch.ones(1))
        else:
            block["layer"](torch.ones(1))
        said["inside"] = raised(log.end_step, groups.control)
        for module in (Normaliser(), OtherLoss())[:: 1 if rank == 0 else -1]:
            module(torch.ones(1))
        said["modules"] = raised(log.end_step, groups.control)
        if rank == 0:
            dist.all_reduce(torch.ones(1), group=groups.gradients, async_op=True)
        said["missing"] = raised(log.end_step, groups.control)
        if rank == 1:
            dist.all_reduce(torch.ones(1), group=groups.gradients, async_op=True)
        log.entries.clear()
        dist.all_reduce(torch.ones(4 if rank == 0 else 2, 1 if rank == 0 else 2))
        said["sizes"] = raised(log.end_step, groups.control)
        said["forgotten"] = raised(log.end_step, groups.control)
    return said


def _two_ranks(rank: int, world_size: int) -> dict[str, Any]:
    groups = build_groups(None, rank, timeout=60)
    return {
        "every": _every_operation(groups, world_size),
        "refused": _refusals(groups),
        "compared": _swapped_pair(rank, groups),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_distributed(_two_ranks, 2)


def test_every_collective_is_counted_also_in_backward(ranks: list[dict]) -> None:
    for rank in ranks:
        counts = rank["every"]["counts"]
        assert counts == {
            "allreduce_": 4, "broadcast_": 1, "allgather_": 3, "reduce_": 1, "barrier": 1,
        }  # fmt: skip
        assert rank["every"]["statistics"] == 1
        assert "HiddenBackward" in rank["every"]["labels"][0]


def test_entries_are_equal_on_all_ranks(ranks: list[dict]) -> None:
    first = [rank["every"]["first"] for rank in ranks]
    assert first[0] == first[1]
    assert first[0].op == "allreduce_" and first[0].sizes == ((3,),) and first[0].dtype == "float32"


def test_refusal_names_the_innermost_module_before_the_collective(ranks: list[dict]) -> None:
    for rank in ranks:
        said = rank["refused"]
        assert said["head"].startswith("heads.coco.normaliser (Normaliser) issues a collective")
        assert said["tagged"].startswith("loss of coco issues")
        assert "HiddenBackward" in said["backward"]
        assert said["plain"].startswith("the program issues a collective (barrier)")
        assert said["recorded"] == 1, "the statistics group was allowed, nothing else was issued"


def test_i2_swapped_pair_of_one_size_is_found_and_named(ranks: list[dict]) -> None:
    assert {rank["compared"]["silently wrong"] for rank in ranks} == {101.0}
    for rank in ranks:
        said = rank["compared"]
        assert said["equal"] == said["inside"] == said["forgotten"] == ""
        assert "number 0 is allreduce_ [4] float32 (stem) on rank 0" in said["swapped"]
        assert "allreduce_ [4] float32 (head) on rank 1" in said["swapped"]
        assert (
            "(Normaliser) on rank 0 and allreduce_ [1] float32 (OtherLoss) on rank 1"
            in said["modules"]
        )
        assert "[1] float32 (no label) on rank 0 and missing on rank 1" in said["missing"]
        assert "[4, 1] float32" in said["sizes"] and "[2, 2] float32" in said["sizes"]


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'watch'; allowed are count, refuse, compare"):
        CollectiveLog("watch")


def test_modules_are_tracked_through_errors() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("broken")

    with CollectiveLog() as log:
        with pytest.raises(KeyError):
            nn.Sequential(Broken())(torch.ones(1))
        assert log._label() == ("", False)
