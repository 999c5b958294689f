"""Parameters and FLOPs of routes: against the plain backbones that the routes are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from gppf_d2.analysis.routes import costs as route_costs
from gppf_d2.analysis.routes.costs import BackboneCosts, costs_of_config, measure_costs
from gppf_d2.modeling.lego import LegoResNet, LegoSwin, LegoTimm, extract_route
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.units import DeformableConv

SIDE = 64
SMALL = {"stem_out_channels": 8, "res2_out_channels": 8}
RESNET = {"_target_": "gppf_d2.modeling.lego.LegoResNet", "depth": 18, "num_units": 2, **SMALL}


def plain_costs(backbone: LegoBackbone, route: list[int]) -> tuple[int, int]:
    """Parameters and FLOPs of the plain backbone that a route is."""
    plain = extract_route(backbone, route, list(backbone.output_shape())[-4:]).eval()
    analysis = FlopCountAnalysis(plain, torch.zeros(1, 3, SIDE, SIDE))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return sum(p.numel() for p in plain.parameters()), analysis.total()


BACKBONES = {
    "resnet": lambda: LegoResNet(18, 2, **SMALL),
    "mixed": lambda: LegoResNet(18, 2, units=["basic", "depthwise"], **SMALL),
    "swin": lambda: LegoSwin("T", 2, embed_dim=12, depths=(1, 1, 2, 1)),
    "timm": lambda: LegoTimm("mobilenetv3_large_100", 2),
}


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_route_costs_what_its_plain_backbone_costs(kind: str) -> None:
    backbone = BACKBONES[kind]()
    route = [index % 2 for index in range(len(backbone.layer_names))]
    costs = measure_costs(backbone, SIDE)
    parameters, flops = plain_costs(backbone, route)
    assert costs.common_parameters(route) == parameters
    assert costs.route_flops(route) == flops > 0
    assert costs.total_parameters == sum(p.numel() for p in backbone.parameters())
    assert backbone.training and costs.uncounted == ()


def test_flops_grow_with_the_image() -> None:
    costs = [costs_of_config({"backbone": RESNET}, side) for side in (32, 64)]
    small, large = (one.route_flops([0] * 9) for one in costs)
    assert large == 4 * small


def test_a_deformable_unit_costs_its_convolutions_and_its_samples() -> None:
    """The offsets are a 3x3 convolution to 18 channels; each of 9 taps samples every channel."""
    stock, deformable = measure_costs(
        LegoResNet(18, 2, units=["basic", "deformable"], **SMALL), SIDE
    ).flops.T
    channels, area = 8, (SIDE // 4) ** 2
    offsets = 9 * channels * 18 * area
    samples = 4 * 9 * channels * area
    assert deformable[0] == stock[0]
    assert deformable[1] - stock[1] == offsets + samples


def test_a_unit_without_its_kernel_is_said_to_be_uncountable(monkeypatch) -> None:
    def no_kernel(self, x):
        raise RuntimeError("no deform kernel\nhere")

    monkeypatch.setattr(DeformableConv, "forward", no_kernel)
    costs = measure_costs(LegoResNet(18, 2, units=["basic", "deformable"], **SMALL), SIDE)
    assert math.isfinite(costs.route_flops([0] * 9))
    assert math.isnan(costs.route_flops([0] * 8 + [1]))
    assert costs.uncounted == ("unit 1 does not run here (no deform kernel)",)


def test_an_operator_that_fvcore_does_not_know_makes_its_unit_uncountable(monkeypatch) -> None:
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

    def opaque(self, x):
        return Opaque.apply(x)

    backbone = LegoResNet(18, 2, **SMALL)
    unit = backbone.layers[2].units[1]
    monkeypatch.setattr(unit, "forward", opaque.__get__(unit))
    costs = measure_costs(backbone, SIDE)
    unknown = np.argwhere(np.isnan(costs.flops)).tolist()
    assert unknown == [[2, 1]] and costs.shared_flops == 0
    assert "prim::PythonOp.Opaque" in costs.uncounted[0]


def test_attention_counts_both_products() -> None:
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x[:, :, :3], x[:, :, :3])

    analysis = FlopCountAnalysis(Attention(), torch.zeros(2, 4, 5, 8))
    analysis.set_op_handle(
        "aten::scaled_dot_product_attention", route_costs._attention_flops
    ).unsupported_ops_warnings(False)
    assert analysis.total() == 2 * 4 * 5 * 3 * (8 + 8)


def test_shared_parameters_of_routes_are_counted_once() -> None:
    costs = BackboneCosts(
        layers=("a", "b"),
        parameters=np.array([[1, 20], [300, 4000]]),
        flops=np.array([[1.0, 2.0], [3.0, np.nan]]),
        shared_parameters=50_000,
        shared_flops=10.0,
        side=SIDE,
    )
    assert costs.common_parameters([0, 0]) == 50_301
    assert costs.common_parameters([0, 0], [0, 1]) == 50_001
    assert costs.common_parameters([0, 0], [1, 1]) == 50_000
    assert costs.used_parameters([[0, 0], [0, 1]]) == 54_301
    assert costs.own_parameters([0, 0], [[0, 1]]) == 300
    assert costs.own_parameters([0, 0], []) == 50_301
    assert costs.total_parameters == 54_321
    assert costs.route_flops([1, 0]) == 15 and math.isnan(costs.route_flops([1, 1]))
    assert costs.fits(["a", "b"], 2) and not costs.fits(["a", "b"], 3)
    assert not costs.fits(["a"], 2)


def test_a_config_is_resolved_and_leaves_the_random_state_alone() -> None:
    config = {"width": 8, "backbone": {**RESNET, "res2_out_channels": "${width}"}}
    before = torch.random.get_rng_state()
    costs = costs_of_config(config, 32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert costs.parameters.shape == costs.flops.shape == (9, 2) and costs.side == 32


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (None, "describes no backbone"),
        ({"_target_": "builtins.print"}, "no lego backbone"),
        ({"_target_": "nowhere.Backbone"}, "cannot be measured: .*nowhere"),
        ({**RESNET, "depth": 19}, "No ResNet of depth 19"),
        ({**RESNET, "wrong": 1}, "unexpected keyword argument 'wrong'"),
    ],
)
def test_a_config_that_cannot_be_measured_is_one_sentence(backbone, words: str, capsys) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        costs_of_config({"backbone": backbone})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert capsys.readouterr().out == "", "only a lego backbone may be called"


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="side 0"):
        measure_costs(LegoResNet(18, 1, **SMALL), side=0)
