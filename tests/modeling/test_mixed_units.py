"""Units of different architecture in one layer: routes, gates, weights, freezing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from torch import nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN
from gppf_d2.modeling.lego import LegoResNet, draw_gates, extract_route
from gppf_d2.modeling.lego.chain import norms_in_order
from gppf_d2.modeling.lego.units import DepthwiseBlock
from gppf_d2.modeling.pretrained import load_pretrained
from tests.modeling.lego_models import FEATURES, assert_same, controller, gates_of, outcome, tiny

MIXED = {18: ("basic", "deformable", "depthwise"), 50: ("bottleneck", "deformable", "depthwise")}
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)).double()


def mixed(depth: int = 18, **options) -> LegoResNet:
    """All three kinds, with offsets that move the taps."""
    backbone = tiny(depth, 3, units=MIXED[depth], **options)
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if "offset" in name:
                value.normal_(0, 0.3)
    return backbone


@pytest.mark.parametrize("depth", [18, 50])
def test_i6_the_route_of_any_kinds_equals_its_plain_resnet(depth: int) -> None:
    backbone = mixed(depth)
    outcome(backbone, controller(backbone), [X], "soft")  # running statistics move
    backbone.float().eval()
    route = [layer % 3 for layer in range(len(backbone.layer_names))]
    plain = extract_route(backbone, route)
    with torch.no_grad():
        gates = draw_gates(torch.zeros(len(route), 3), "fixed", route=route)
        found, _ = backbone([X.float()], gates, FEATURES)
        wanted = plain(X.float())
    assert type(plain) is ResNet and not any(
        isinstance(m, CrossTaskSyncBN) for m in plain.modules()
    )
    for name, value in wanted.items():
        assert torch.equal(found[0][name], value), name
    stock = BasicBlock if depth == 18 else BottleneckBlock
    kinds = [type(block) for block in plain.res2]
    assert kinds[1] is DepthwiseBlock and issubclass(kinds[0], stock) and kinds[0] is not stock
    assert all(type(block) is stock for block in backbone.build_plain().res2)


def test_deformable_units_start_as_the_stock_block() -> None:
    backbone = tiny(50, 2, units=["bottleneck", "deformable"])
    state = backbone.state_dict()
    twins = {n: state[n.replace("units.1", "units.0")] for n in state if "offset" not in n}
    backbone.load_state_dict({**state, **twins})
    backbone.eval()
    with torch.no_grad():
        one, two = (
            backbone([X], draw_gates(torch.zeros(17, 2), "fixed", route=[k] * 17), FEATURES)[0][0]
            for k in range(2)
        )
    assert_same(two, one, 1e-10)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_kinds_mix_through_one_controller_and_checkpointing_changes_nothing(mode: str) -> None:
    backbone, other = mixed(), mixed(checkpoint=True)
    assert [layer.mixing for layer in backbone.layers] == ["in_step"] + ["plain"] * 8
    logits = controller(backbone)
    found = outcome(backbone, logits, [X], mode)
    assert_same(outcome(other, logits, [X], mode), found, 1e-12)
    assert found["gradient controller"].abs().sum() > 0
    for name, gate in zip(backbone.layer_names[1:], gates_of(logits, mode)[1:]):
        for k, last in enumerate(("conv2.weight", "conv2.offset.weight", "pointwise.weight")):
            gradient = found[f"gradient {name}.units.{k}.{last}"]
            assert (gradient is not None) == (k in gate.active)
            assert gradient is None or gradient.abs().sum() > 0


def test_units_of_a_layer_may_have_different_numbers_of_norms() -> None:
    layer = mixed(50).get_submodule("res3.0")
    assert [len(norms_in_order(unit)) for unit in layer.units] == [4, 4, 3]
    depthwise = layer.units[2]
    assert norms_in_order(depthwise) == [
        depthwise.depthwise.norm, depthwise.pointwise.norm, depthwise.shortcut.norm
    ]  # fmt: skip


def test_bf16_autocast_with_channels_last_runs() -> None:
    backbone = mixed(50).float().to(memory_format=torch.channels_last)
    x = X.float().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        half = outcome(backbone, controller(backbone), [x], "soft")
    assert half["feature 0 res5"].dtype == torch.bfloat16
    assert all(torch.isfinite(value).all() for value in half.values() if value is not None)


def test_a_multi_view_batch_is_refused_without_partners_too() -> None:
    """Its views would not share their statistics; alone is how the preflight tries a task."""
    backbone = mixed()
    gates = gates_of(controller(backbone), "soft")
    with pytest.raises(ValueError, match="multi-view batch.*mixing='in_step' with stock blocks"):
        backbone([X, X[:1]], gates, FEATURES)
    features, _ = backbone.eval()([X, X[:1]], gates, FEATURES)
    assert len(features) == 2


def test_plain_weights_fill_what_the_kinds_share(tmp_path: Path) -> None:
    backbone = mixed()
    source = tiny(18, 1, seed=4).build_plain().double()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    report = load_pretrained(backbone, tmp_path / "w.pth")
    own = set(report.missing)
    assert own and all(
        ".depthwise." in name or ".pointwise." in name or ".offset." in name for name in own
    )
    state, wanted = backbone.state_dict(), source.state_dict()
    for k in (0, 1):
        name = f"res3.0.units.{k}.conv2.weight"
        assert torch.equal(state[name], wanted["res3.0.conv2.weight"])
    for name in ("res3.0.units.2.depthwise.weight", "res3.0.units.1.conv2.offset.weight"):
        assert torch.equal(state[name], before[name])


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("kinds", [None, MIXED[18]])
def test_frozen_stages_do_not_train_and_their_norms_rest(kinds, checkpoint: bool) -> None:
    units = 2 if kinds is None else 3
    backbone = tiny(18, units, units=kinds, freeze_at=2, checkpoint=checkpoint)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    found = outcome(backbone, controller(backbone), [X], "soft")
    for name, module in backbone.named_modules():
        frozen = name.startswith(("stem", "res2"))
        if isinstance(module, (CrossTaskSyncBN, FrozenBatchNorm2d)):
            assert isinstance(module, FrozenBatchNorm2d) == frozen, name
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(("stem", "res2"))
        assert parameter.requires_grad != frozen and (parameter.grad is None) == frozen, name
    assert all(
        torch.equal(value, before[name]) == name.startswith(("stem", "res2"))
        for name, value in backbone.named_buffers()
        if name.endswith("running_mean")
    )
    assert found["gradient controller"].abs().min() > 0
    plain = extract_route(backbone.eval(), [0] * 9)
    with torch.no_grad():
        gates = draw_gates(torch.zeros(9, units), "fixed", route=[0] * 9)
        features, _ = backbone([X], gates, FEATURES)
        for name, value in plain(X).items():
            torch.testing.assert_close(features[0][name], value, rtol=1e-10, atol=1e-12)


def test_kinds_that_do_not_fit_are_refused() -> None:
    for depth, num_units, units, message in [
        (18, 2, ["basic"], r"num_units=2; name 2 kinds out of basic, deformable, depthwise"),
        (18, 1, ["bottleneck"], "ResNet-18 .* out of basic, deformable, depthwise"),
        (50, 1, ["octave"], "out of bottleneck, deformable, depthwise"),
    ]:
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            LegoResNet(depth, num_units, units=units)
    with pytest.raises(ValueError, match="up to 5 for all of stem, res2, res3, res4, res5"):
        tiny(18, 1, freeze_at=7)
    assert isinstance(tiny(18, 1, freeze_at=5).stem, nn.Module)
