"""The lego Swin: its routes are stock Swins, its gates, stochastic depth and checkpointing."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torchvision
from detectron2.modeling.backbone.swin import SwinTransformer
from torch import nn
from torchvision.ops import StochasticDepth

from gppf_d2.engine.optimizer import parameter_groups
from gppf_d2.modeling.layouts import CONSTANTS, stock_name, to_layout
from gppf_d2.modeling.lego import LegoSwin, draw_gates, extract_route, route_state_dict
from gppf_d2.modeling.lego.swin import shifted_window_mask
from gppf_d2.modeling.multitask import MultiTaskModel
from tests.modeling.lego_models import (
    assert_same,
    controller,
    gates_of,
    loss_of,
    outcome,
    tiny_swin,
)

FEATURES = ["p0", "p1", "p2", "p3"]
ROUTE = [0, 1, 1, 0, 1, 0]
X = torch.randn(2, 3, 70, 101, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.parametrize("size", [(64, 64), (70, 101), (128, 160)])
@pytest.mark.parametrize("ape", [False, True])
def test_i6_route_equals_export(size: tuple[int, int], ape: bool) -> None:
    backbone = tiny_swin(ape=ape, pretrain_img_size=64, drop_path_rate=0.5).float().eval()
    plain = extract_route(backbone, ROUTE)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        found, _ = backbone([x], draw_gates(torch.zeros(6, 2), "fixed", route=ROUTE), FEATURES)
        wanted = plain(x)
        part = extract_route(backbone, ROUTE, ["p2"])(x)
    assert type(plain) is SwinTransformer and not plain.training
    assert list(wanted) == FEATURES and list(part) == ["p2"]
    for name, value in wanted.items():
        assert torch.equal(found[0][name], value), name
    assert torch.equal(part["p2"], wanted["p2"])


def test_keys_of_a_route_are_those_of_the_stock_swin() -> None:
    backbone = tiny_swin(ape=True)
    state, own = route_state_dict(backbone.state_dict(), ROUTE), backbone.state_dict()
    assert set(state) == set(backbone.build_plain().state_dict())
    for stock, name in {
        "patch_embed.proj.weight": "stem.units.0.proj.weight",
        "absolute_pos_embed": "stem.units.0.absolute_pos_embed",
        "layers.0.downsample.reduction.weight": "p1.0.units.1.downsample.reduction.weight",
        "layers.1.blocks.0.attn.qkv.bias": "p1.0.units.1.attn.qkv.bias",
        "layers.2.blocks.1.mlp.fc1.weight": "p2.1.units.1.mlp.fc1.weight",
        "norm2.weight": "norm2.weight",
    }.items():
        assert torch.equal(state[stock], own[name]), stock


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_i4_one_unit_alone_is_the_stock_swin_in_training_too(drop_path_rate: float) -> None:
    backbone = tiny_swin(1, drop_path_rate=drop_path_rate).float()
    stock = extract_route(backbone, [0] * 6)
    logits = controller(backbone)
    torch.manual_seed(11)
    found = outcome(backbone, logits, [X.float()], "soft", FEATURES)
    x = X.float().requires_grad_()
    torch.manual_seed(11)
    features = stock(x)
    loss_of([features]).backward()
    for name in FEATURES:
        assert torch.equal(found[f"feature 0 {name}"], features[name]), name
    torch.testing.assert_close(found["input 0"], x.grad, rtol=1e-5, atol=1e-7)
    gradients = {
        stock_name(name.removeprefix("gradient ").replace(".units.0", "")): value
        for name, value in found.items()
        if name.startswith("gradient ") and "controller" not in name
    }
    assert set(gradients) == {name for name, _ in stock.named_parameters()}
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_units_of_equal_weights_mix_to_the_plain_network() -> None:
    backbone = tiny_swin(3)
    state = backbone.state_dict()
    backbone.load_state_dict({n: state[re.sub(r"units\.\d", "units.0", n)] for n in state})
    plain = extract_route(backbone, [0] * 6)
    for mode in ("soft", "mean", "hard", "argmax"):
        with torch.no_grad():
            features, _ = backbone([X], gates_of(controller(backbone), mode), FEATURES)
            wanted = plain(X)
        for name in FEATURES:
            torch.testing.assert_close(features[0][name], wanted[name], rtol=1e-9, atol=1e-10)


def test_gates_get_the_gradient_of_the_mixture() -> None:
    """Soft against a difference quotient; hard leaves the units that do not run alone."""
    backbone, x = tiny_swin(2), X[:1, :, :40, :40]
    logits = controller(backbone)
    found = outcome(backbone, logits, [x], "soft", FEATURES)["gradient controller"]

    def loss() -> float:
        with torch.no_grad():
            return float(loss_of(backbone([x], gates_of(logits, "soft"), FEATURES)[0]))

    for layer in (0, 1, 3, 5):
        with torch.no_grad():
            logits[layer, 0] += 1e-5
            high = loss()
            logits[layer, 0] -= 2e-5
            low = loss()
            logits[layer, 0] += 1e-5
        assert float(found[layer, 0]) == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-8)
    found = outcome(backbone, logits, [x], "hard", FEATURES)
    assert found["gradient controller"].abs().sum() > 0
    for name, gate in zip(backbone.layer_names, gates_of(logits, "hard")):
        for k in range(2):
            last = f"{name}.units.{k}." + ("proj.weight" if name == "stem" else "mlp.fc2.weight")
            assert (found[f"gradient {last}"] is None) == (k != gate.only), last


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_checkpointing_recomputes_with_the_same_stochastic_depth(mode: str) -> None:
    backbone = tiny_swin(drop_path_rate=0.5)
    other = tiny_swin(drop_path_rate=0.5, checkpoint=True)
    logits = controller(backbone)
    results = []
    for model in (backbone, other, backbone):
        torch.manual_seed(3 if len(results) < 2 else 4)
        results.append(outcome(model, logits, [X], mode, FEATURES))
    assert_same(results[1], results[0], 1e-12)
    assert not torch.equal(results[2]["feature 0 p3"], results[0]["feature 0 p3"])


def test_stochastic_depth_grows_linearly_and_rests_in_evaluation() -> None:
    backbone = tiny_swin(drop_path_rate=0.4)
    found = [
        [unit.drop_path.p if isinstance(unit.drop_path, StochasticDepth) else 0.0]
        for layer in backbone.layers[1:]
        for unit in layer.units[:1]
    ]
    assert torch.tensor(found).flatten().tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    backbone.eval()
    gates = draw_gates(torch.zeros(6, 2), "mean")
    with torch.no_grad():
        one, two = (backbone([X], gates, ["p3"])[0][0]["p3"] for _ in range(2))
    assert torch.equal(one, two)


def test_masks_are_made_once_per_stage_and_size_and_views_may_differ_in_size() -> None:
    backbone = tiny_swin(depths=(2, 2, 2, 2)).eval()
    gates = draw_gates(torch.zeros(9, 2), "mean")
    shifted_window_mask.cache_clear()
    views = [X, X[:1, :, :64, :80]]
    distinct = 7  # windows 5x7, 3x4, 2x2, 1x1 in one view and 4x5, 2x3, 1x2, 1x1 in the other
    with torch.no_grad():
        both, _ = backbone(views, gates, FEATURES)
        assert shifted_window_mask.cache_info().misses == distinct
        for view, features in zip(views, both):
            alone, _ = backbone([view], gates, FEATURES)
            assert_same(features, alone[0], 0)
    assert shifted_window_mask.cache_info().misses == distinct
    mask = shifted_window_mask((2, 1), 4, 2, torch.device("cpu"), torch.float32)
    assert mask.shape == (2, 16, 16) and set(mask.unique().tolist()) == {-100.0, 0.0}
    assert (mask[0] == 0).sum() == 2 * 8 * 8 and (mask[1] == 0).sum() == 4 * 4 * 4


def test_bf16_autocast_with_channels_last_and_checkpointing_trains() -> None:
    backbone = tiny_swin(drop_path_rate=0.1, checkpoint=True).float()
    backbone.to(memory_format=torch.channels_last)
    logits = controller(backbone).float()
    x = X.float().contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    exact = outcome(backbone, nn.Parameter(logits), [x], "soft", FEATURES)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        half = outcome(backbone, nn.Parameter(logits), [x], "soft", FEATURES)
    for name, value in half.items():
        assert value is None or torch.isfinite(value).all(), name
        if name.startswith("feature"):
            torch.testing.assert_close(value.float(), exact[name], rtol=0.1, atol=0.1)


def meta_names(backbone: LegoSwin, layout: str) -> dict[str, torch.Size]:
    """Names and shapes of a route in another layout."""
    state = route_state_dict(backbone.state_dict(), [0] * len(backbone.layer_names))
    named = {to_layout(name, layout): t.shape for name, t in state.items()}
    return {name: shape for name, shape in named.items() if name and not name.endswith(CONSTANTS)}


@pytest.mark.parametrize("size", ["T", "S", "B", "L"])
def test_sizes_are_those_of_the_real_models(size: str) -> None:
    word = {"T": "tiny", "S": "small", "B": "base", "L": "large"}[size]

    def shapes(model: nn.Module) -> dict[str, torch.Size]:
        return {
            name: tensor.shape
            for name, tensor in model.state_dict().items()
            if not name.startswith("head.") and not name.endswith(CONSTANTS)
        }

    with torch.device("meta"):
        backbone = LegoSwin(size, num_units=1)
        theirs = timm.create_model(f"swin_{word}_patch4_window7_224")
        assert meta_names(backbone, "timm") == shapes(theirs)
        if size != "L":
            theirs = getattr(torchvision.models, f"swin_{size.lower()}")()
            assert meta_names(backbone, "torchvision") == shapes(theirs)
    assert len(backbone.layer_names) == (13 if size == "T" else 25)
    strides = {name: shape.stride for name, shape in backbone.output_shape().items()}
    assert strides == {"p0": 4, "p1": 8, "p2": 16, "p3": 32}
    channels = [shape.channels for shape in backbone.output_shape().values()]
    assert channels == [theirs.norm.weight.numel() // 2**i for i in (3, 2, 1, 0)]


def test_initial_weights_are_drawn_as_in_the_stock_swin() -> None:
    backbone = LegoSwin("T", 2, embed_dim=48, depths=(1, 1, 1, 1))
    for name, value in backbone.named_parameters():
        if value.dim() == 1 and "stem" not in name:
            assert value.unique().tolist() == [1.0 if "norm" in name and "weight" in name else 0.0]
        elif value.dim() == 2:
            assert 0.017 < float(value.detach().std()) < 0.023, name
    one, two = (backbone.p0[0].units[k].mlp.fc1.weight for k in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("freeze_at", [0, 2])
def test_frozen_stages_do_not_train(freeze_at: int) -> None:
    backbone = tiny_swin(freeze_at=freeze_at)
    found = outcome(backbone, controller(backbone), [X], "soft", FEATURES)
    for name, parameter in backbone.named_parameters():
        frozen = freeze_at == 2 and name.startswith(("stem.", "p0."))
        assert parameter.requires_grad != frozen and (parameter.grad is None) == frozen, name
    assert found["gradient controller"].abs().min() > 0


def test_position_tables_and_norms_can_be_spared_from_weight_decay() -> None:
    model = MultiTaskModel(tiny_swin(ape=True), ["a"])
    spared = {"relative_position_bias_table": 0.0, "absolute_pos_embed": 0.0}
    groups = parameter_groups(
        model, weight_decay=0.05, weight_decay_norm=0.0, weight_decay_by_name=spared
    )
    decayed = {n for g in groups if g["weight_decay"] == 0.05 for n in g["param_names"]}
    parameters = {name for name, _ in model.named_parameters()}
    assert decayed and parameters == {n for g in groups for n in g["param_names"]}
    for name in parameters:
        exempt = "norm" in name or "position" in name or "absolute" in name or "contr" in name
        assert (name in decayed) != exempt, name


def test_sizes_that_cannot_be_built_are_refused() -> None:
    for options, message in [
        ({"size": "XL"}, "size 'XL'; choose one of T, S, B, L"),
        ({"num_units": 0}, "num_units is 0"),
        ({"depths": (1, 1, 1)}, "4 positive depths"),
        ({"num_heads": (5, 5, 5, 5)}, "divide embed_dim"),
        ({"depths": (1, 1, 1, 1), "freeze_at": 6}, "up to 5 for all of stem, p0, p1, p2, p3"),
    ]:
        with pytest.raises(ValueError, match=message) as caught, torch.device("meta"):
            LegoSwin(**options)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="choose one or more of p0, p1, p2, p3"):
        tiny_swin(1).check_features(["res5"])
