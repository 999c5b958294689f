"""A model of timm as a lego: cut into layers, synchronised norms, weights in; refusals."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from detectron2.modeling.backbone import FPN
from safetensors.torch import save_file
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN
from gppf_d2.modeling.lego import (
    LegoResNet,
    LegoTimm,
    TimmBackbone,
    draw_gates,
    extract_route,
    timm_cut,
)
from gppf_d2.modeling.lego.chain import norms_in_order
from gppf_d2.modeling.lego.timm_cut import STRIDES
from gppf_d2.modeling.pretrained import load_pretrained
from tests.modeling.lego_models import assert_same, controller, gates_of, loss_of

FEATURES = list(STRIDES)
MODELS = ["test_efficientnet", "test_convnext", "test_resnet"]


def lego_timm(model: str = "test_efficientnet", units: int = 2, **options) -> LegoTimm:
    """A small float64 lego whose norms are not trivial."""
    torch.manual_seed(0)
    backbone = LegoTimm(model, units, **options).double()
    randomise(backbone)
    return backbone


def randomise(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dim() == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else value.normal_()
    return model


def routed(backbone: LegoTimm, route: list[int], x: Tensor) -> dict[str, Tensor]:
    logits = torch.zeros(len(route), backbone.num_units)
    with torch.no_grad():
        return backbone([x], draw_gates(logits, "fixed", route=route), FEATURES)[0][0]


def trained(backbone: LegoTimm, mode: str = "soft", seed: int = 5) -> dict[str, Tensor | None]:
    """Loss, gradients and buffers of one training call."""
    logits = controller(backbone)
    torch.manual_seed(seed)
    x = torch.randn(3, 3, 64, 64).double()
    features, _ = backbone.train()([x], gates_of(logits, mode), FEATURES)
    loss = loss_of(features)
    loss.backward()
    found = {n: p.grad for n, p in backbone.named_parameters()}
    found |= {n: b.clone() for n, b in backbone.named_buffers()}
    return {**found, "loss": loss.detach(), "controller": logits.grad}


@pytest.mark.parametrize("model", MODELS)
def test_i6_route_equals_plain_and_timm_bit_for_bit(model: str) -> None:
    lego = lego_timm(model).float().eval()
    route = [i % 2 for i in range(len(lego.layer_names))]
    plain = extract_route(lego, route)
    assert isinstance(plain, TimmBackbone) and not plain.training
    source = timm.create_model(model, num_classes=0).eval()
    state = {name.removeprefix("timm."): value for name, value in plain.state_dict().items()}
    assert not source.load_state_dict(state, strict=False).unexpected_keys
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        given = plain(x)
        wanted = source.forward_intermediates(x, intermediates_only=True)
    wanted = {info["reduction"]: value for info, value in zip(source.feature_info, wanted)}
    found = routed(lego, route, x)
    for name, shape in lego.output_shape().items():
        assert torch.equal(found[name], given[name]) and torch.equal(
            given[name], wanted[shape.stride]
        )
        assert given[name].shape == (2, shape.channels, 96 // shape.stride, 64 // shape.stride)
    assert plain.output_shape() == lego.output_shape()
    assert {name: shape.stride for name, shape in lego.output_shape().items()} == STRIDES


def test_layers_are_the_stem_and_the_blocks_with_what_stands_before_them() -> None:
    backbone = LegoTimm("efficientnet_b0", 1)
    count = {stage: sum(n.startswith(stage) for n in backbone.layer_names) for stage in FEATURES}
    assert backbone.layer_names[:3] == ("stem", "res2.0", "res2.1")
    assert count == {"res2": 3, "res3": 2, "res4": 6, "res5": 5}
    assert [s.channels for s in backbone.output_shape().values()] == [24, 40, 112, 320]
    names = set(backbone.state_dict())
    assert "stem.units.0.timm.conv_stem.weight" in names
    assert "res4.3.units.0.timm.blocks.4.0.conv_pwl.weight" in names
    assert not any("conv_head" in name or "classifier" in name for name in names)
    convnext = lego_timm("test_convnext", 1)
    first = [n for n in convnext.state_dict() if n.startswith("res3.0.")]
    assert "res3.0.units.0.timm.stages.1.downsample.1.weight" in first
    assert any(".stages.1.blocks.0." in name for name in first)


def test_the_plain_backbone_is_the_bottom_up_of_a_stock_fpn() -> None:
    fpn = FPN(TimmBackbone("test_efficientnet"), FEATURES, 8)
    assert [p.shape[-1] for p in fpn(torch.zeros(1, 3, 64, 64)).values()] == [16, 8, 4, 2]
    shallow = TimmBackbone("test_efficientnet", ["res3"])
    assert list(shallow(torch.zeros(1, 3, 64, 64))) == ["res3"]
    assert not any(name.startswith("timm.blocks.3") for name in shallow.state_dict())
    with pytest.raises(ValueError, match="choose one or more of res2, res3, res4, res5"):
        TimmBackbone("test_efficientnet", ["res6"])


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_i4_alone_synchronised_norms_are_plain_ones(mode: str) -> None:
    synced, plain = lego_timm(), lego_timm(norm="BN")
    plain.load_state_dict(synced.state_dict())
    norms = [m for m in synced.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(isinstance(norm, CrossTaskSyncBN) for norm in norms)
    assert not any(isinstance(m, CrossTaskSyncBN) for m in plain.modules())
    assert_same(trained(synced, mode), trained(plain, mode), 1e-9)


def test_soft_gates_mix_the_units() -> None:
    lego = lego_timm("test_convnext", norm="BN")
    gates = gates_of(controller(lego), "soft")
    x = wanted = torch.randn(1, 3, 64, 64).double()
    for layer, gate in zip(lego.layers, gates):
        wanted = sum(u * unit(wanted) for u, unit in zip(gate.weights, layer.units))
    torch.testing.assert_close(lego.train()([x], gates, ["res5"])[0][0]["res5"], wanted)


def test_norms_are_listed_in_the_order_of_their_calls() -> None:
    lego, called = lego_timm("test_resnet", 1), []
    listed = [norm for layer in lego.layers for norm in norms_in_order(layer.units[0])]
    for norm in listed:
        norm.register_forward_hook(lambda norm, *_: called.append(norm))
    trained(lego)
    assert called == listed == [m for m in lego.modules() if isinstance(m, nn.BatchNorm2d)]


def test_checkpointing_and_stochastic_depth_change_neither_gradients_nor_statistics() -> None:
    rate = {"drop_path_rate": 0.4}
    kept = trained(lego_timm("test_resnet", **rate))
    assert_same(trained(lego_timm("test_resnet", **rate, checkpoint=True)), kept, 1e-12)
    assert trained(lego_timm("test_resnet"))["loss"] != kept["loss"]


def test_stochastic_depth_grows_as_timm_has_it() -> None:
    lego = LegoTimm("efficientnet_b0", 1, drop_path_rate=0.2)
    source = timm.create_model("efficientnet_b0", drop_path_rate=0.2)
    wanted = [m.drop_prob for m in source.modules() if type(m).__name__ == "DropPath"]
    plain = lego.build_route([0] * 17)
    for model in (lego, plain):
        found = [m.p for m in model.modules() if type(m).__name__ == "StochasticDepth"]
        assert found == pytest.approx(wanted) and found[-1] > 0.1
    frozen = LegoTimm("efficientnet_b0", 1, drop_path_rate=0.2, freeze_at=5)
    assert not any(getattr(m, "p", 0) for m in frozen.modules())


def test_frozen_parts_keep_weights_and_statistics() -> None:
    lego = lego_timm(freeze_at=2)
    before = {name: value.clone() for name, value in lego.state_dict().items()}
    found = trained(lego)
    for name, parameter in lego.named_parameters():
        frozen = name.startswith(("stem.", "res2."))
        assert parameter.requires_grad != frozen and (found[name] is None) == frozen, name
    for name, value in lego.named_buffers():
        moved = not torch.equal(value, before[name])
        assert moved != name.startswith(("stem.", "res2.")), name


def save_pth(state: dict[str, Tensor], path: Path) -> Path:
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, path / "w.pth")
    return path / "w.pth"


def save_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path / "w.safetensors")
    return path / "w.safetensors"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("save", [save_pth, save_safetensors])
def test_a_file_of_timm_fills_all_units(model: str, save, tmp_path: Path) -> None:
    source = randomise(timm.create_model(model)).eval()
    path = save(source.state_dict(), tmp_path)
    lego = LegoTimm(model, 2).eval()
    report = load_pretrained(lego, path)
    assert report.missing == report.unexpected == () and report.architecture == model
    assert any("fc" in n or "classifier" in n for n in report.ignored)
    assert report.layout == "timm" and report.pixel_format == "RGB"
    assert len(report.matched) == len(lego.build_route([]).state_dict())
    mean = [round(255 * value, 3) for value in source.default_cfg["mean"]]
    text = str(report)
    assert f"word of timm the weights expect input.pixel_mean={mean}" in text
    assert re.search(rf"{report.stages[0]} +[1-9]", text) and "stride" not in text
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = source.forward_intermediates(x, intermediates_only=True)[-1]
    for route in ([0] * len(lego.layers), [1] * len(lego.layers)):
        assert torch.equal(routed(lego, route, x)["res5"], wanted)


def test_noise_separates_units_and_the_wrappers_own_file_loads(tmp_path: Path) -> None:
    plain = TimmBackbone("test_convnext")
    state = {f"backbone.bottom_up.{name}": value for name, value in plain.state_dict().items()}
    torch.save({"model": {**state, "proposal_generator.x": torch.ones(2)}}, tmp_path / "w.pth")
    lego = LegoTimm("test_convnext", 2)
    report = load_pretrained(lego, tmp_path / "w.pth", noise=0.1)
    assert report.ignored == ("proposal_generator.x",) and "noise 0.1" in str(report)
    for name, value in lego.state_dict().items():
        if ".units.1." in name:
            other = lego.state_dict()[name.replace(".units.1.", ".units.0.")]
            assert torch.equal(value, other) == (value.dim() < 2), name


def test_weights_of_another_model_are_refused_with_one_sentence(tmp_path: Path) -> None:
    for model in ("test_efficientnet", "test_convnext", "test_convnext2", "test_resnet"):
        torch.save(timm.create_model(model).state_dict(), tmp_path / f"{model}.pth")
    twice = timm.create_model("test_efficientnet").state_dict()
    twice = {f"{prefix}.{name}": value for prefix in "ab" for name, value in twice.items()}
    torch.save(twice, tmp_path / "twice.pth")
    deeper = LegoTimm("test_convnext", 1, model_args={"depths": (1, 2, 4, 3)})
    wider = LegoTimm("test_convnext", 1, model_args={"dims": (24, 32, 48, 72)})
    lego = LegoTimm("test_efficientnet", 1)
    for target, name, message in [
        (lego, "test_convnext", "no 'conv_stem.weight', .* give timm's weights of the model"),
        (lego, "twice", "several timm models, under the prefixes 'a.', 'b.'"),
        (deeper, "test_convnext", r"than the lego's test_convnext: it lacks \d+ of .* more"),
        (LegoTimm("test_convnext2", 1), "test_convnext", "has the shape|another model of timm"),
        (wider, "test_convnext", "has the shape"),
        (LegoResNet(18, 1), "test_efficientnet", "no plain ResNet or Swin .* fit a LegoTimm"),
    ]:
        before = {n: value.clone() for n, value in target.state_dict().items()}
        with pytest.raises(ValueError, match=message) as caught:
            load_pretrained(target, tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
        assert_same(target.state_dict(), before, 0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"model": "test_vit"},
            "'test_vit' cannot be the backbone: its features have the strides 16; .* as",
        ),
        ({"model": "test_maxvit"}, "takes no image of 64 x 64 .* such as efficientnet_b0"),
        ({"model": "test_byobnet"}, "features are those of .*final_conv.* such as efficientnet_b0"),
        ({"model": "test_mambaout"}, r"gives \(1, 8, 8, 32\)"),
        ({"model": "densenet121"}, "features is not just its stages"),
        ({"model": "efficentnet_b0"}, "no model 'efficentnet_b0'; close to it are efficientnet_b0"),
        ({"model": "hf-hub:timm/efficientnet_b0.ra_in1k"}, "has no model 'hf-hub:"),
        ({"model_args": {"nonsense": 1}}, "cannot build 'test_efficientnet' with .*nonsense"),
        ({"norm": "FrozenBN"}, "Norm 'FrozenBN' of a LegoTimm is unknown; choose CrossTaskSyncBN"),
        ({"weighting": "x"}, "weighting 'x'"),
        ({"num_units": 0}, "num_units is 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
        ({"freeze_at": 9}, "freeze_at is 9"),
    ],
)
def test_what_does_not_fit_is_refused_with_one_sentence(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        LegoTimm(**{"model": "test_efficientnet", "num_units": 1, **arguments})
    assert "\n" not in str(caught.value)


class Toy(nn.Module):
    """A chain of a stem and four stages of two convolutions, with something wrong in it or not."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong, self.stem = wrong, nn.Conv2d(3, 4, 3, 2, 1)
        first = nn.ReLU(inplace=True) if wrong == "writes" else nn.BatchNorm2d(4)
        for stage in range(4):
            parts = [nn.Identity(), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1)]
            if stage == 1:
                parts = [first, *parts, *([first] if wrong == "twice" else [])]
            self.add_module(f"s{stage}", nn.Sequential(*parts))
        self.feature_info = [{"reduction": 4 * 2**i, "module": f"s{i}"} for i in range(4)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.s1(self.s0(self.stem(x)))
        x = self.s2(x * 2 if self.wrong == "between" else x)
        return self.s3[2](self.s3[1](x)) if self.wrong == "stage" else self.s3(x)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ("between", "its stages do not simply follow one another"),
        ("stage", "its stages do not simply follow one another"),
        ("writes", r"s1.0 writes into the feature that it takes"),
        ("twice", "the batch norms of s1 do not run once each"),
    ],
)
def test_a_model_that_is_no_chain_is_refused(wrong: str, message: str) -> None:
    layers = ["stem", "res2.0", "res2.1", "res3.0", "res3.1", "res3.2", "res4.0", "res4.1"]
    assert list(timm_cut.cut("toy", Toy("")).layers) == [*layers, "res5.0", "res5.1"]
    with pytest.raises(ValueError, match=message):
        timm_cut.cut("toy", Toy(wrong))


def test_without_timm_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="cannot be imported .* `pip install timm`"):
        LegoTimm("test_efficientnet")
