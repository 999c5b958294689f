"""Two ranks with different routes through a lego Swin, timm models, and units of different kinds.

One spawn runs all cases: a micro-step of `MultiTaskModel` on each rank, the task average, and one
SGD step. One process computes the same from plain tensor operations, in float64.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gppf_d2.distributed.groups import ProcessGroups, build_groups
from gppf_d2.distributed.sync_bn import attach_statistics_group
from gppf_d2.distributed.task_average import TaskAverage
from gppf_d2.modeling.lego import LegoTimm
from gppf_d2.modeling.lego.chain import norms_in_order
from gppf_d2.modeling.lego.controller import Gate, draw_gates, gate_generator
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.harness import run_distributed
from tests.modeling.lego_models import assert_same, loss_of, tiny, tiny_swin
from tests.reference.lego_reference import lego_features

WORLD_SIZE = 2
SIZES = [(2, 48, 40), (1, 32, 64)]
TIMM_SIZES = [(2, 64, 64), (1, 64, 64)]  # equal sides: what both run, one process runs as one batch
MIXED = {"num_units": 3, "units": ("basic", "deformable", "depthwise"), "weighting": "nhw"}
# what each rank's tasks do; fixed routes differ in every layer: other kinds on the two ranks
CASES: dict[str, dict[str, Any]] = {
    "swin hard": {"modes": ("hard", "hard"), "swin": {}},
    "swin soft, fixed": {"modes": ("soft", "fixed"), "swin": {"checkpoint": True}},
    "timm fixed": {"modes": ("fixed", "fixed"), "timm": {"model": "test_efficientnet"}},
    "timm soft, hard": {
        "modes": ("soft", "hard"),
        "timm": {"model": "test_efficientnet", "checkpoint": True},
    },
    "timm frozen": {"modes": ("hard", "hard"), "timm": {"model": "test_resnet", "freeze_at": 2}},
    "mixed fixed": {"modes": ("fixed", "fixed"), "mixed": {}},
    "mixed hard": {"modes": ("hard", "hard"), "mixed": {"checkpoint": True}},
    "mixed soft, hard": {"modes": ("soft", "hard"), "mixed": {}},
    "mixed frozen": {"modes": ("fixed", "fixed"), "mixed": {"freeze_at": 2}},
    "mixed soft, hard, dropping": {"modes": ("soft", "hard"), "mixed": {"drop_path_rate": 0.5}},
    "stock soft, hard, dropping": {
        "modes": ("soft", "hard"),
        "mixed": {"units": None, "drop_path_rate": 0.5, "checkpoint": True},
    },
}


class Probe(nn.Module):
    """A head with a weight of its own on the last feature of its view."""

    def __init__(self, features: list[str]) -> None:
        super().__init__()
        self.view, self.weight = SharedBackbone(features), nn.Parameter(torch.ones(()).double())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": self.weight * loss_of([self.view(x)])}


def features_of(rank: int, case: dict[str, Any]) -> list[str]:
    """Rank 1 stops a stage earlier: what follows is joined there."""
    names = ["p1", "p2", "p3"] if "swin" in case else ["res3", "res4", "res5"]
    return names[: len(names) - rank]


def model_of(case: dict[str, Any]) -> MultiTaskModel:
    if "swin" in case:
        backbone = tiny_swin(2, **case["swin"])
    elif "timm" in case:
        torch.manual_seed(0)
        backbone = LegoTimm(num_units=2, weighting="nhw", **case["timm"])
    else:
        backbone = tiny(18, **{**MIXED, **case["mixed"]})
        with torch.no_grad():
            for name, value in backbone.named_parameters():
                if "offset" in name:
                    value.normal_(0, 0.3)
    units, layers = backbone.num_units, len(backbone.layer_names)
    tasks = ["t0", "t1"]
    model = MultiTaskModel(
        backbone,
        tasks,
        mode=dict(zip(tasks, case["modes"])),
        fixed_routes={t: [(i + r) % units for i in range(layers)] for r, t in enumerate(tasks)},
    ).double()
    model.temperature = 0.7
    for rank, task in enumerate(tasks):
        model.add_head(task, lambda r=rank: Probe(features_of(r, case)))
    torch.manual_seed(7)
    for logits in model.controllers.values():
        nn.init.normal_(logits)
    return model


def image_of(rank: int, case: dict[str, Any]) -> Tensor:
    batch, height, width = (TIMM_SIZES if "timm" in case else SIZES)[rank]
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(batch, 3, height, width, generator=generator).double() * (1 + rank) + rank


def gates_of(model: MultiTaskModel, case: dict[str, Any], rank: int) -> list[Gate]:
    task = f"t{rank}"
    return draw_gates(
        model.controllers[task], case["modes"][rank], 0.7, gate_generator(0, 1, 0, rank),
        model.fixed_routes[task],
    )  # fmt: skip


def one_step(rank: int, groups: ProcessGroups, case: dict[str, Any]) -> dict[str, Any]:
    model = model_of(case)
    attach_statistics_group(model, groups.statistics)
    named = dict(model.named_parameters())
    average = TaskAverage(
        {name: p for name, p in named.items() if not name.startswith("heads.")},
        {task: dict(head.named_parameters()) for task, head in model.heads.items()},
        groups, WORLD_SIZE, rank, bucket_bytes=4000,
    )  # fmt: skip
    issued: list[str] = []
    gather, reduce = dist.all_gather, dist.all_reduce

    def noted(word: str, function: Any) -> Any:
        def call(value: Any, *args: Any, **options: Any) -> Any:
            if options.get("group") is groups.statistics:
                issued.append(f"{word} {(args[0] if word == 'gather' else value).numel()}")
            return function(value, *args, **options)

        return call

    dist.all_gather, dist.all_reduce = noted("gather", gather), noted("reduce", reduce)
    try:
        average.begin({"t0": [0], "t1": [1]})
        model.begin_micro_step(0, 1, 0, rank)
        torch.manual_seed(rank)  # of stochastic depth
        losses = model.losses(f"t{rank}", image_of(rank, case))
        average.backward(sum(losses.values()) + model.finish_micro_step())
        result = average.finish()
    finally:
        dist.all_gather, dist.all_reduce = gather, reduce
    found = {
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in named.items()},
        "counts": result.counts,
        "issued": issued,
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
    }
    torch.optim.SGD([p for p in named.values() if p.requires_grad], lr=0.1).step()
    return {**found, "after": {name: p.detach() for name, p in named.items()}}


def all_steps(rank: int, world_size: int) -> bytes:
    """Every case, serialised: shared tensors die with their process."""
    groups = build_groups(None, rank, 60)
    stream = io.BytesIO()
    torch.save({name: one_step(rank, groups, case) for name, case in CASES.items()}, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict]]:
    streams = run_distributed(all_steps, WORLD_SIZE, timeout=100)
    return [torch.load(io.BytesIO(stream)) for stream in streams]


def reference(case: dict[str, Any]) -> tuple[MultiTaskModel, dict[str, tuple[Tensor | None, int]]]:
    """Per parameter the task average and the number of contributors, from one process."""
    model = model_of(case)
    named = dict(model.named_parameters())
    gates = [gates_of(model, case, rank) for rank in range(WORLD_SIZE)]
    xs = [image_of(rank, case) for rank in range(WORLD_SIZE)]
    wanted = [features_of(rank, case) for rank in range(WORLD_SIZE)]
    if "swin" in case:
        outputs = [
            model.backbone([x], one, names)[0][0] for x, one, names in zip(xs, gates, wanted)
        ]
    elif "timm" in case:
        outputs = features_in_one_process(model.backbone, gates, xs, wanted)
    else:
        ends = [model.backbone.layer_names.index(f"{names[-1]}.1") + 1 for names in wanted]
        outputs = lego_features(
            model.backbone, gates, xs, wanted[0], MIXED["weighting"], stop_after=ends,
            generators=[torch.Generator().manual_seed(rank) for rank in range(WORLD_SIZE)],
        )  # fmt: skip
    losses = [
        model.heads[f"t{rank}"].weight * loss_of([{name: outputs[rank][name] for name in names}])
        for rank, names in enumerate(wanted)
    ]
    users = {name: users_of(name, gates, wanted, model) for name in named}
    sum(losses).backward()
    return model, {
        name: (None if p.grad is None else p.grad / users[name], users[name])
        for name, p in named.items()
    }


def features_in_one_process(
    backbone: LegoTimm, gates: list[list[Gate]], xs: list[Tensor], wanted: list[list[str]]
) -> list[dict[str, Tensor]]:
    """Per rank its features: ranks that run the same unit run it on one batch of all they have."""
    outputs: list[dict[str, Tensor]] = [{} for _ in xs]
    last = [max(i for i, n in enumerate(backbone.layer_names) if n.startswith(names[-1]))
            for names in wanted]  # fmt: skip
    for place, (name, layer) in enumerate(zip(backbone.layer_names, backbone.layers)):
        mixed: list[Any] = [0.0] * len(xs)
        for k, unit in enumerate(layer.units):
            here = [r for r in range(len(xs)) if place <= last[r] and k in gates[r][place].active]
            if not here:
                continue
            ys = unit(torch.cat([xs[r] for r in here])).split([len(xs[r]) for r in here])
            for r, y in zip(here, ys):
                gate = gates[r][place]
                weight = gate.weights[gate.active.index(k)]
                if gate.straight_through is not None:
                    weight = 1 + gate.straight_through - gate.straight_through.detach()
                mixed[r] = mixed[r] + (y if weight is None else weight * y)
        xs = mixed
        for r, names in enumerate(wanted):
            if place <= last[r] and name.partition(".")[0] in names:
                outputs[r][name.partition(".")[0]] = xs[r]
    return outputs


def users_of(name: str, gates: list[list[Gate]], wanted: list[list[str]], model: Any) -> int:
    """Ranks that use a parameter, by the rules of the design rather than from any graph."""
    parts = name.split(".")
    if parts[0] != "backbone":
        if parts[0] == "heads":
            return 1
        mode = model.modes[parts[1]]
        return int(mode != "fixed")
    if parts[1].startswith("norm"):
        return sum(f"p{parts[1][-1]}" in names for names in wanted)
    layer = ".".join(parts[1 : parts.index("units")])
    place, unit = model.backbone.layer_names.index(layer), int(parts[parts.index("units") + 1])
    used = 0
    for one, names in zip(gates, wanted):
        last = max(i for i, n in enumerate(model.backbone.layer_names) if n.startswith(names[-1]))
        used += place <= last and unit in one[place].active
    return used


@pytest.mark.parametrize("name", [name for name in CASES if "frozen" not in name])
def test_i5_equivalence_of_two_ranks_and_one_process(ranks, name: str) -> None:
    model, wanted = reference(CASES[name])
    unused = [n for n, (_, users) in wanted.items() if not users]
    assert unused if "soft" not in name else not any("stem" in n for n in unused)
    for rank in range(WORLD_SIZE):
        found = ranks[rank][name]
        assert found["counts"] == {n: users for n, (_, users) in wanted.items()}
        for parameter, (gradient, _) in wanted.items():
            assert_same({parameter: found["gradients"][parameter]}, {parameter: gradient}, 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_i1_and_i2_ranks_stay_equal_and_issue_the_same_collectives(ranks, name: str) -> None:
    one, two = (rank[name] for rank in ranks)
    assert one["issued"] == two["issued"]
    for part in ("gradients", "buffers", "after"):
        assert_same(two[part], one[part], 0)
    model = model_of(CASES[name])
    if "swin" in name:
        assert one["issued"] == []
        return
    in_step = 0 if "timm" in name else 1  # layers with one position for the norms of all units
    units = [unit for layer in model.backbone.layers[in_step:] for unit in layer.units]
    norms = [[norm for norm in norms_in_order(unit) if norm.training] for unit in units]
    stem = 0 if "frozen" in name else in_step
    count = 2 * 8 if "stock" in name else sum(map(len, norms))
    assert len(one["issued"]) == 2 * (stem + count)


def test_units_of_other_kinds_that_no_rank_ran_keep_their_statistics(ranks) -> None:
    model = model_of(CASES["mixed fixed"])
    found = ranks[0]["mixed fixed"]["buffers"]
    for place, layer in enumerate(model.backbone.layer_names):
        ran = [route[place] for route in model.fixed_routes.values()]
        if layer.startswith("res5"):
            ran = ran[:1]  # rank 1 stops before
        for name, value in found.items():
            if name.startswith(f"backbone.{layer}.units.") and name.endswith("tracked"):
                unit = int(name.removeprefix(f"backbone.{layer}.units.").split(".")[0])
                assert int(value) == (unit in ran), name
