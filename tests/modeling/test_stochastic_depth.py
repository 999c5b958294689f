"""Stochastic depth of the lego ResNet: what is dropped, how often, and what does not notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from gppf_d2.modeling.lego import draw_gates, extract_route
from gppf_d2.modeling.lego.recompute import recomputed
from gppf_d2.modeling.lego.stochastic_depth import draws, linear_rates
from tests.modeling.lego_models import (
    FEATURES,
    assert_same,
    controller,
    copied,
    gates_of,
    outcome,
    tiny,
)

X = torch.randn(3, 3, 32, 48, generator=torch.Generator().manual_seed(5)).double()
RATE = 0.4


def seeded(*arguments: object) -> dict[str, Tensor | None]:
    torch.manual_seed(3)
    return outcome(*arguments)


def test_rates_grow_linearly_over_the_residual_blocks() -> None:
    backbone = tiny(18, 2, drop_path_rate=0.7)
    wanted = [0.7 * i / 7 for i in range(8)]
    assert backbone.drop_path_rates == pytest.approx(wanted)
    for layer, rate in zip(backbone.layers[1:], wanted):
        for unit in layer.units:
            drops = [part.p for part in unit.modules() if isinstance(part, StochasticDepth)]
            assert drops == pytest.approx([rate] if rate else [])
    assert not draws(backbone.stem) and not draws(tiny(18, 2))
    assert linear_rates(0.5, 1) == [0.0]


def test_state_keys_and_routes_are_those_without_it() -> None:
    backbone, plain = tiny(50, 2, drop_path_rate=RATE), tiny(50, 2)
    assert list(backbone.state_dict()) == list(plain.state_dict())
    route = extract_route(backbone, [0] * len(backbone.layer_names))
    assert not any(isinstance(part, StochasticDepth) for part in route.modules())


@pytest.mark.parametrize("depth", [18, 50])
def test_evaluation_is_bit_equal_to_the_stock_resnet(depth: int) -> None:
    backbone = tiny(depth, 2, drop_path_rate=0.9).float().eval()
    route = [i % 2 for i in range(len(backbone.layer_names))]
    gates = draw_gates(torch.zeros(len(route), 2), "fixed", route=route)
    with torch.no_grad():
        (found,), _ = backbone([X.float()], gates, FEATURES[1:])
        wanted = extract_route(backbone, route)(X.float())
    assert_same(found, wanted, 0)


def test_gates_that_mix_draw_nothing_in_evaluation() -> None:
    backbone = tiny(18, 2, drop_path_rate=0.9).eval()
    plain = copied(backbone).eval()
    gates = gates_of(controller(backbone), "mean")
    with torch.no_grad():
        found, wanted = (model([X], gates, FEATURES)[0][0] for model in (backbone, plain))
    assert_same(found, wanted, 0)


@pytest.mark.parametrize("depth, units, mode", [(18, 1, "soft"), (18, 2, "soft"), (50, 2, "hard")])
def test_in_step_equals_plain_with_the_same_draws(depth: int, units: int, mode: str) -> None:
    backbone = tiny(depth, units, drop_path_rate=RATE)
    plain = copied(backbone, drop_path_rate=RATE, mixing="plain")
    logits = controller(backbone)
    assert backbone.layers[1].mixing == "in_step"
    found = seeded(backbone, logits, [X], mode)
    assert_same(found, seeded(plain, logits, [X], mode))
    without = outcome(copied(backbone), logits, [X], mode)
    assert not torch.allclose(found["feature 0 res5"], without["feature 0 res5"])


@pytest.mark.parametrize(
    "units", [None, ("basic", "deformable", "depthwise")], ids=["stock", "mixed"]
)
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_checkpointing_recomputes_the_same_draws(mode: str, units: tuple | None) -> None:
    options = {"drop_path_rate": RATE, "units": units}
    backbone = tiny(18, 3, **options)
    other = copied(backbone, checkpoint=True, **options)
    logits = controller(backbone)
    found, wanted = (seeded(model, logits, [X], mode) for model in (other, backbone))
    assert_same(found, wanted, 1e-12)


def test_views_draw_for_themselves() -> None:
    backbone = tiny(18, 1, norm="FrozenBN", drop_path_rate=0.5).train()
    gates = gates_of(controller(backbone), "soft")
    torch.manual_seed(0)
    with torch.no_grad():
        one, two = backbone([X[:1], X[:1]], gates, ["res5"])[0]
    assert not torch.equal(one["res5"], two["res5"])


@pytest.mark.parametrize("kind", ["basic", "deformable", "depthwise", "bottleneck"])
@pytest.mark.parametrize("mixing", ["in_step", "plain"])
def test_samples_are_dropped_as_often_as_the_rate_says(kind: str, mixing: str) -> None:
    """A dropped sample is relu(shortcut), a kept one has its branch divided by 1 - rate."""
    depth = 50 if kind == "bottleneck" else 18
    backbone = tiny(depth, 1, units=[kind], mixing=mixing, norm="", drop_path_rate=RATE)
    layer = backbone.layers[-1].train()
    (unit,) = layer.units
    x = torch.randn(1, unit.in_channels, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    branch = unit.eval()(x.abs()) - x.abs()  # as x.abs() + branch stays positive in most places
    unit.train()
    (gate,) = draw_gates(torch.zeros(1, 1), "fixed", route=[0])
    torch.manual_seed(0)
    with torch.no_grad():
        (ys,), _ = layer([x.abs().expand(1000, -1, -1, -1)], gate)
    dropped = (ys - x.abs()).abs().amax((1, 2, 3)) < 1e-12
    assert float(dropped.double().mean()) == pytest.approx(RATE, abs=0.04)
    safe = ((branch + x.abs()) > 0) & (branch / (1 - RATE) + x.abs() > 0)
    kept = (ys[~dropped] - x.abs())[safe.expand(int((~dropped).sum()), -1, -1, -1)]
    wanted = (branch / (1 - RATE)).expand(int((~dropped).sum()), -1, -1, -1)
    torch.testing.assert_close(kept, wanted[safe.expand_as(wanted)])


def test_frozen_stages_keep_all_branches() -> None:
    backbone = tiny(18, 2, drop_path_rate=RATE, freeze_at=5).train()
    assert not draws(backbone)
    gates = gates_of(controller(backbone), "soft")
    with torch.no_grad():
        one, two = (backbone([X], gates, ["res5"])[0][0] for _ in range(2))
    assert torch.equal(one["res5"], two["res5"])
    part = tiny(18, 2, drop_path_rate=RATE, freeze_at=3)
    assert [draws(layer) for layer in part.layers] == [False] * 5 + [True] * 4


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"drop_path_rate is .*\[0, 1\)"):
        tiny(18, 1, drop_path_rate=rate)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_generator_of_a_gpu_is_kept_for_the_recomputation() -> None:
    module = nn.Sequential(nn.Linear(4, 4), StochasticDepth(0.5, "row")).cuda()
    x = torch.ones(64, 4, device="cuda")
    drawn = []

    def function() -> Tensor:
        y = module(x)
        drawn.append(y.detach())
        return y.square()

    recomputed(function, module, preserve_rng_state=True).sum().backward()
    assert torch.equal(*drawn)
