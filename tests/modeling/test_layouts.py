"""Names of plain ResNets, against the real models of Detectron2, torchvision and timm."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from gppf_d2.modeling.layouts import depth_of, detect_layout, from_layout, is_bottleneck, to_layout

DEPTHS = (18, 34, 50, 101, 152)


def real_model(layout: str, depth: int) -> nn.Module:
    """A real model without memory: only names and shapes matter here."""
    with torch.device("meta"):
        if layout == "torchvision":
            return getattr(torchvision.models, f"resnet{depth}")()
        if layout == "timm":
            return timm.create_model(f"resnet{depth}", pretrained=False)
        stages = ResNet.make_default_stages(depth=depth, norm="BN")
        return ResNet(BasicStem(norm="BN"), stages)


def shapes(layout: str, depth: int) -> dict[str, torch.Size]:
    state = real_model(layout, depth).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("depth", DEPTHS)
def test_names_are_a_bijection_between_the_real_models(depth: int) -> None:
    ours = shapes("detectron2", depth)
    for layout in ("torchvision", "timm"):
        theirs = shapes(layout, depth)
        assert {to_layout(name, layout): shape for name, shape in ours.items()} == theirs
        assert {from_layout(name, layout): shape for name, shape in theirs.items()} == ours


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_and_layout_are_read_from_the_names(depth: int) -> None:
    names = shapes("detectron2", depth)
    assert depth_of(names) == depth
    assert is_bottleneck(names) == (depth >= 50)
    assert detect_layout({f"module.backbone.{name}" for name in names} | {"fc.weight"}) == (
        "detectron2",
        "module.backbone.",
    )
    assert detect_layout(shapes("timm", depth)) == ("torchvision", "")


def test_heads_have_no_name_in_a_plain_resnet() -> None:
    for name in ("fc.weight", "conv2.weight", "layer5.0.conv1.weight", "layer1.0.se.weight"):
        assert from_layout(name, "torchvision") is None
    for name in ("linear.weight", "stem.shortcut.weight", "stem.conv2.weight", "fpn_lateral2.bias"):
        assert from_layout(name, "detectron2") is None
        with pytest.raises(ValueError, match="not a tensor of a Detectron2 ResNet"):
            to_layout(name, "torchvision")


def test_unknown_layouts_and_strange_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="'keras'.*detectron2, torchvision, timm"):
        to_layout("stem.conv1.weight", "keras")
    with pytest.raises(ValueError, match="no plain ResNet.*features.0.weight"):
        detect_layout({"features.0.weight"})
    names = shapes("torchvision", 18)
    with pytest.raises(ValueError, match="several ResNets.*'a.', 'b.'"):
        detect_layout({f"{prefix}.{name}" for prefix in "ab" for name in names})
    with pytest.raises(ValueError, match=r"\(1, 0, 0, 0\) basic blocks"):
        depth_of({"res2.0.conv1.weight"})
