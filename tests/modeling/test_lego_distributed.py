"""Ranks with different routes, tasks and image sizes: no hang, and the gradients are right."""

from __future__ import annotations

import io
import random

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import attach_statistics_group
from gppf_d2.modeling.lego.controller import draw_gates, gate_generator
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.harness import run_distributed
from tests.modeling.lego_models import assert_same, loss_of, tiny
from tests.reference.lego_reference import lego_features

WORLD_SIZE, LAYERS, UNITS = 3, 9, 2
SIZES = [(2, 32, 32), (1, 48, 32), (3, 32, 40)]
ENDS = ["res5", "res3", "res5"]
MIXTURES = [
    ("soft", "soft", "soft"),
    ("soft", "hard", "fixed"),
    ("hard", "hard", "hard"),
    ("fixed", "soft", "idle"),
]
FORMS = [
    {"mixing": "in_step"},
    {"mixing": "plain"},
    {"mixing": "in_step", "checkpoint": True},
    {"mixing": "in_step", "weighting": "equal"},
]
MORE_FORMS = [*FORMS, {"mixing": "plain", "checkpoint": True}]


class Probe(nn.Module):
    """A head that trains on one feature, or evaluates the backbone only."""

    def __init__(self, end: str, idle: bool) -> None:
        super().__init__()
        self.view, self.idle = SharedBackbone(["stem", end]), idle

    def forward(self, samples: Tensor) -> dict[str, Tensor]:
        self.view.train(not self.idle)
        loss = loss_of([self.view(samples)])
        return {"loss": loss.detach() + samples.sum() * 0 if self.idle else loss}


def image_of(rank: int) -> Tensor:
    batch, height, width = SIZES[rank]
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(batch, 3, height, width, generator=generator).double() * (1 + rank) + rank


def model_of(mixture: tuple[str, ...], **form) -> MultiTaskModel:
    """One task per rank, named t0, t1, t2."""
    tasks = [f"t{rank}" for rank in range(WORLD_SIZE)]
    routes = random.Random(str(mixture))
    model = MultiTaskModel(
        tiny(18, UNITS, **{"weighting": "nhw", **form}),
        tasks,
        mode={t: "soft" if m == "idle" else m for t, m in zip(tasks, mixture)},
        fixed_routes={t: [routes.randrange(UNITS) for _ in range(LAYERS)] for t in tasks},
    ).double()
    model.temperature = 0.7
    for rank, task in enumerate(tasks):
        model.add_head(task, lambda r=rank: Probe(ENDS[r], mixture[r] == "idle"))
    torch.manual_seed(7)
    for logits in model.controllers.values():
        nn.init.normal_(logits)
    return model


def one_step(rank: int, mixture: tuple[str, ...], form: dict) -> dict:
    """Gradients and buffers of a rank after one micro-step, and the collectives it issued."""
    model = model_of(mixture, **form)
    attach_statistics_group(model, dist.group.WORLD)
    issued = []
    gather, reduce = dist.all_gather, dist.all_reduce
    dist.all_gather = lambda *a, **k: (issued.append(f"gather {a[1].numel()}"), gather(*a, **k))
    dist.all_reduce = lambda *a, **k: (issued.append(f"reduce {a[0].numel()}"), reduce(*a, **k))
    x = image_of(rank).requires_grad_()
    try:
        model.begin_micro_step(0, 1, 0, rank)
        losses = model.losses(f"t{rank}", x)
        anchor = model.finish_micro_step()
        assert float(anchor) == 0
        forward = len(issued)
        (sum(losses.values()) + anchor).backward()
    finally:
        dist.all_gather, dist.all_reduce = gather, reduce
    gradients = {name: p.grad for name, p in model.named_parameters()}
    buffers = dict(model.backbone.named_buffers())
    return {"gradients": gradients, "buffers": buffers, "x": x.grad, "issued": issued,
            "forward": forward}  # fmt: skip


def all_steps(rank: int, world_size: int) -> bytes:
    """Every form with every mixture, serialised: shared tensors die with their process."""
    results = [one_step(rank, m, form) for form in FORMS for m in MIXTURES]
    pick = random.Random(5)
    for _ in range(4):  # more mixtures, for hangs and running statistics alone
        mixture = tuple(pick.choice(["soft", "hard", "fixed", "idle"]) for _ in range(world_size))
        results.append(one_step(rank, mixture, pick.choice(MORE_FORMS)))
    stream = io.BytesIO()
    torch.save(results, stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def ranks() -> list[list[dict]]:
    streams = run_distributed(all_steps, WORLD_SIZE, timeout=150)
    return [torch.load(io.BytesIO(stream)) for stream in streams]


def test_i2_all_ranks_issue_the_same_collectives_whatever_their_routes(ranks):
    for step in zip(*ranks):
        assert step[0]["issued"] == step[1]["issued"] == step[2]["issued"]
        issued, forward = step[0]["issued"], step[0]["forward"]
        assert len(issued) == 2 * forward
    # stem, two positions for each of 8 blocks: one collective for the norms of all units
    assert ranks[0][0]["forward"] == 1 + 2 * 8
    # plain: one for each norm of each unit, four shortcuts among them
    assert ranks[0][len(MIXTURES)]["forward"] == UNITS * (1 + 2 * 8 + 4)


def test_running_statistics_are_equal_on_all_ranks_also_where_a_unit_did_not_run(ranks):
    for step in zip(*ranks):
        for rank in (1, 2):
            assert_same(step[rank]["buffers"], step[0]["buffers"], 0)
    used = [int(v) for n, v in ranks[0][0]["buffers"].items() if n.endswith("tracked")]
    assert set(used) == {1}


@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("mixture", range(len(MIXTURES)))
def test_i5_equivalence_of_ranks_and_one_process(ranks, form, mixture):
    """The sum over ranks of all gradients equals that of one process that holds all batches."""
    modes = MIXTURES[mixture]
    steps = [steps[form * len(MIXTURES) + mixture] for steps in ranks]
    model = model_of(modes)
    awake = [rank for rank in range(WORLD_SIZE) if modes[rank] != "idle"]
    xs = {rank: image_of(rank).requires_grad_() for rank in awake}
    gates = [
        draw_gates(
            model.controllers[f"t{rank}"], modes[rank], 0.7, gate_generator(0, 1, 0, rank),
            model.fixed_routes[f"t{rank}"],
        )
        for rank in awake
    ]  # fmt: skip
    features = features_of(model, gates, xs, FORMS[form].get("weighting", "nhw"))
    sum(loss_of([one]) for one in features.values()).backward()
    for name, p in model.named_parameters():
        grads = [s["gradients"][name] for s in steps if s["gradients"][name] is not None]
        found = sum(grads) if grads else None
        assert_same({name: found}, {name: p.grad}, 1e-9)
    for rank in awake:
        assert_same({"x": steps[rank]["x"]}, {"x": xs[rank].grad}, 1e-9)


def features_of(
    model: MultiTaskModel, gates: list, xs: dict[int, Tensor], weighting: str
) -> dict[int, dict[str, Tensor]]:
    """Features that each rank's head reads; ranks that end early leave the statistics there."""
    ends = [model.backbone.layer_names.index(f"{ENDS[rank]}.1") + 1 for rank in xs]
    names = {"stem", *ENDS}
    features = lego_features(
        model.backbone, gates, list(xs.values()), names, weighting, stop_after=ends
    )
    return {
        rank: {name: one[name] for name in ("stem", ENDS[rank])} for rank, one in zip(xs, features)
    }
