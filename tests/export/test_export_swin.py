"""A task's route leaves a lego Swin for the real libraries, plain Swins come in (I6)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from detectron2 import model_zoo
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone.swin import SwinTransformer
from omegaconf import OmegaConf
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from torch import Tensor, nn

from gppf_d2.export.backbone import export_backbone
from gppf_d2.modeling.layouts import to_layout
from gppf_d2.modeling.lego import LegoResNet, LegoSwin, draw_gates
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.pretrained import load_pretrained
from gppf_d2.tools.export_backbone import main
from tests.export.test_export_backbone import INPUT, backbone_mismatches, overrides
from tests.modeling.lego_models import tiny, tiny_swin

FEATURES = ["p0", "p1", "p2", "p3"]
TINY = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}
ROUTE = [1, 0, 1, 1, 0, 1]


def save_run(folder: Path, backbone: nn.Module, route: list[int], config: dict[str, Any]) -> Path:
    """A checkpoint as a run writes it, whose task "parsing" has decided."""
    model = MultiTaskModel(backbone, ["parsing", "scenes"])
    model.controllers["parsing"].data[range(len(route)), route] = 4.0
    text = OmegaConf.to_yaml(OmegaConf.create({"input": INPUT, "backbone": config}))
    path = folder / "model_0000005.pth"
    torch.save({"model": model.state_dict(), "iteration": 5, "config": text}, path)
    return path


@pytest.fixture(scope="module")
def lego() -> LegoSwin:
    return tiny_swin(2).float().eval()


@pytest.fixture(scope="module")
def run(lego: LegoSwin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("swin"), lego, ROUTE, {"size": "T", **TINY})


def routed(lego: LegoSwin, x: Tensor, route: list[int] = ROUTE) -> dict[str, Tensor]:
    with torch.no_grad():
        gates = draw_gates(torch.zeros(len(route), lego.num_units), "fixed", route=route)
        return lego([x], gates, FEATURES)[0][0]


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_i6_route_equals_export_in_a_lazy_zoo_config(
    suffix: str, lego: LegoSwin, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"backbone{suffix}"
    report = export_backbone(run, "parsing", "detectron2", path)
    recipe = overrides(path)
    assert recipe["yacs"] is None and report.metadata["norm"] == "LN"
    assert report.metadata["left_out"] == [] and "Swin-1-1-2-1 of task 'parsing'" in str(report)
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    for key in recipe["lazy_remove"]:
        parent, _, leaf = key.rpartition(".")
        del OmegaConf.select(cfg, parent)[leaf]
    cfg = LazyConfig.apply_overrides(cfg, recipe["lazy"])
    model = nn.ModuleDict({"backbone": instantiate(cfg.model.backbone)}).eval()
    assert type(model["backbone"].bottom_up) is SwinTransformer
    assert backbone_mismatches(model, path) == []
    x = torch.randn(2, 3, 70, 101)
    with torch.no_grad():
        given = model["backbone"].bottom_up(x)
        assert list(model["backbone"](x[..., :64, :96])) == ["p2", "p3", "p4", "p5", "p6"]
    for name, wanted in routed(lego, x).items():
        assert torch.equal(given[name], wanted), name
    assert cfg.model.input_format == "RGB" and cfg.model.pixel_mean == INPUT["pixel_mean"]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_i6_route_equals_export_in_timm_and_torchvision(
    library: str, lego: LegoSwin, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    report = export_backbone(run, "parsing", library, path)
    recipe = report.metadata["overrides"]
    sizes = {key: value for key, value in TINY.items() if key != "window_size"}
    if library == "timm":
        model = TimmSwin(window_size=4, num_classes=0, **recipe["model_args"], **sizes).eval()
        assert not any(model.load_state_dict(load_file(path), strict=True))
        assert recipe["equal_for_image_sides"] == "multiples of 128"
        x, features = torch.randn(1, 3, 128, 256), model.forward_features
    else:
        model = torchvision.models.SwinTransformer([4, 4], window_size=[4, 4], **sizes).eval()
        found = model.load_state_dict(load_file(path), strict=False)
        assert found.missing_keys == ["head.weight", "head.bias"] and not found.unexpected_keys
        assert recipe["equal_for_image_sides"] == "more than 128"
        x, features = torch.randn(1, 3, 140, 200), lambda x: model.norm(model.features(x))
    with torch.no_grad():
        given = features(x).permute(0, 3, 1, 2)
    torch.testing.assert_close(given, routed(lego, x)["p3"], rtol=1e-5, atol=1e-5)
    left = [f"norm{i}.{leaf}" for i in range(3) for leaf in ("weight", "bias")]
    assert sorted(report.metadata["left_out"]) == sorted(left) and "left out" in str(report)
    assert recipe["mean"] == pytest.approx([value / 255 for value in INPUT["pixel_mean"]], abs=1e-6)


def official(state: dict[str, Tensor]) -> dict[str, Any]:
    """As the authors publish it: one norm, a classifier, constants, under "model"."""
    named = {re.sub(r"^norm3\.", "norm.", n): t for n, t in state.items()}
    named = {n: t for n, t in named.items() if not re.match(r"norm\d", n)}
    masks = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16), "head.weight": torch.ones(2, 2)}
    return {"model": {**named, **masks}}


def renamed(layout: str) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    def save(state: dict[str, Tensor]) -> dict[str, Any]:
        named = {to_layout(n, layout): t for n, t in state.items()}
        return {**{n: t for n, t in named.items() if n}, "head.weight": torch.ones(2, 2)}

    return save


@pytest.mark.parametrize(
    "save, last_norm_alone",
    [
        (lambda state: {f"backbone.bottom_up.{n}": t for n, t in state.items()}, False),
        (official, True),
        (renamed("timm"), True),
        (renamed("torchvision"), True),
    ],
    ids=["detectron2", "official", "timm", "torchvision"],
)
def test_every_layout_fills_all_units(
    save: Callable, last_norm_alone: bool, lego: LegoSwin, tmp_path: Path
) -> None:
    source = tiny_swin(1, seed=3).float()
    state = {
        n.replace(".units.0", ""): t for n, t in source.state_dict().items() if "index" not in n
    }
    export = save_run(tmp_path, source, [0] * 6, {**TINY})
    export_backbone(export, "parsing", "detectron2", tmp_path / "plain.pth")
    stock = torch.load(tmp_path / "plain.pth", weights_only=True)["model"]
    torch.save(save(stock), tmp_path / "w.pth")
    target = tiny_swin(2, seed=1).float()
    before = {n: t.clone() for n, t in target.state_dict().items()}
    report = load_pretrained(target, tmp_path / "w.pth")
    assert report.architecture == "Swin-1-1-2-1" and report.unexpected == ()
    fresh = {f"norm{i}.{leaf}" for i in range(3) for leaf in ("weight", "bias")}
    assert set(report.missing) == (fresh if last_norm_alone else set())
    assert report.ignored == (("head.weight",) if last_norm_alone else ())
    for name, tensor in target.state_dict().items():
        plain = re.sub(r"\.units\.\d", "", name)
        if plain in report.missing:
            assert torch.equal(tensor, before[name]), name
        elif "index" not in name:
            assert torch.equal(tensor, state[plain]), name
    assert "patch_embed" in str(report) and "layers.3" in str(report)


def test_swin_tiny_of_timm_gives_the_same_features_through_any_route(tmp_path: Path) -> None:
    source = timm.create_model(
        "swin_tiny_patch4_window7_224", always_partition=True, strict_img_size=False
    ).eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    lego = LegoSwin("T", 1).eval()
    report = load_pretrained(lego, tmp_path / "w.pth")
    assert report.unexpected == () and report.pixel_format == "RGB"
    assert report.architecture == "Swin-2-2-6-2"
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = source.forward_features(x).permute(0, 3, 1, 2)
    given = routed(lego, x, [0] * 13)["p3"]
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)


def test_noise_separates_the_units_and_leaves_norms_and_biases(tmp_path: Path) -> None:
    lego = tiny_swin(2)
    torch.save(tiny_swin(1).build_plain().double().state_dict(), tmp_path / "w.pth")
    load_pretrained(lego, tmp_path / "w.pth", noise=0.1)
    for name, tensor in lego.state_dict().items():
        if ".units.1." in name and "index" not in name:
            noisy = tensor.dim() > 1
            assert torch.equal(tensor, lego.state_dict()[name.replace("s.1.", "s.0.")]) != noisy, (
                name
            )


def test_what_does_not_fit_is_refused_with_one_sentence(
    run: Path, lego: LegoSwin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.pth"
    wider = {"input": INPUT, "backbone": {"size": "T", "num_units": 2}}
    with pytest.raises(ValueError, match="Swin with embed_dim=96 and the checkpoint's .*=16"):
        export_backbone(run, "parsing", "timm", out, wider)
    ape = tiny_swin(1, ape=True, pretrain_img_size=64).float()
    checkpoint = save_run(tmp_path, ape, [0] * 6, {**TINY, "ape": True})
    with pytest.raises(ValueError, match="ape=True, and timm's Swin"):
        export_backbone(checkpoint, "parsing", "timm", out)
    export_backbone(checkpoint, "parsing", "detectron2", tmp_path / "ape.pth")
    lazy = json.loads((tmp_path / "ape.pth.json").read_text())["overrides"]["lazy"]
    assert "model.backbone.bottom_up.pretrain_img_size=64" in lazy
    assert main(["--checkpoint", str(run), "--task", "scenes", "--format", "torchvision",
                 "--output", str(out)]) == 0  # fmt: skip
    assert "UNDECIDED in 6 of 6 layers" in capsys.readouterr().out

    torch.save(lego.build_plain().state_dict(), tmp_path / "swin.pth")
    v2 = {n: t for n, t in lego.build_plain().state_dict().items() if "bias_table" not in n}
    torch.save(v2, tmp_path / "v2.pth")
    deeper = LegoSwin("T", 1, **{**TINY, "depths": [1, 1, 3, 1]})
    window = LegoSwin("T", 1, **{**TINY, "window_size": 3})
    for target, name, message in [
        (LegoResNet(18, 1), "swin.pth", "a Swin-1-1-2-1 and the lego is a ResNet-18; give weights"),
        (deeper, "swin.pth", r"is a Swin-1-1-3-1; set backbone.depths=\(1, 1, 2, 1\) or"),
        (window, "swin.pth", "relative_position_bias_table' has the shape .* windows"),
        (lego, "v2.pth", "no table of relative positions"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            load_pretrained(target, tmp_path / name)
        assert "\n" not in str(caught.value)


def test_routes_of_stock_units_alone_leave_a_mixed_resnet(tmp_path: Path) -> None:
    units = ["basic", "deformable", "depthwise"]
    backbone = tiny(18, 3, units=units, stem_out_channels=8).float()
    config = {"depth": 18, "num_units": 3, "units": units}
    mixed = save_run(tmp_path, backbone, [0, 0, 1, 2, 0, 0, 0, 0, 0], config)
    for layout in ("detectron2", "torchvision", "timm"):
        with pytest.raises(ValueError, match="no plain ResNet has .* in res2.1, res3.0;") as caught:
            export_backbone(mixed, "parsing", layout, tmp_path / "x.pth")
        assert "\n" not in str(caught.value)
    stock = save_run(tmp_path, backbone, [1, 0, 0, 0, 0, 0, 0, 0, 0], config)
    report = export_backbone(stock, "parsing", "timm", tmp_path / "x.pth")
    assert report.metadata["architecture"] == "ResNet-18"
    names = torch.load(tmp_path / "x.pth", weights_only=True)
    assert set(names) == set(timm.create_model("resnet18", num_classes=0).state_dict())
