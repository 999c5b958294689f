"""Small lego backbones and gates for the tests of this room."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gppf_d2.modeling.lego import Gate, LegoResNet, LegoSwin, draw_gates
from gppf_d2.modeling.lego.backbone import LegoBackbone

FEATURES = ["stem", "res2", "res3", "res4", "res5"]


def tiny(depth: int = 18, num_units: int = 2, seed: int = 0, **options) -> LegoResNet:
    """A narrow float64 lego ResNet whose norms are not trivial."""
    torch.manual_seed(seed)
    width = {"stem_out_channels": 4, "res2_out_channels": 8, "width_per_group": 4}
    backbone = LegoResNet(depth, num_units, **{**width, **options}).double()
    with torch.no_grad():
        for name, value in [*backbone.named_parameters(), *backbone.named_buffers()]:
            if "norm" in name and value.is_floating_point():
                value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.normal_(
                    0, 0.3
                )
    return backbone


def tiny_swin(units: int = 2, seed: int = 0, **options) -> LegoSwin:
    """A small float64 lego Swin of 6 layers whose norms and position tables are not trivial."""
    torch.manual_seed(seed)
    sizes = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
    backbone = LegoSwin("T", units, **{**sizes, "drop_path_rate": 0.0, **options}).double()
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if value.dim() == 1 or "position" in name or "absolute" in name:
                value.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.3)
            elif value.dim() == 2:
                value.mul_(4)
    return backbone


def copied(backbone: LegoResNet, **options) -> LegoResNet:
    """A backbone with other options and the same weights."""
    other = tiny(backbone.depth, backbone.num_units, **options)
    other.load_state_dict(backbone.state_dict())
    return other


def controller(backbone: LegoBackbone, seed: int = 1) -> nn.Parameter:
    torch.manual_seed(seed)
    return nn.Parameter(torch.randn(len(backbone.layer_names), backbone.num_units).double())


def gates_of(
    logits: Tensor, mode: str, seed: int = 2, route: Sequence[int] | None = None
) -> list[Gate]:
    return draw_gates(logits, mode, 0.7, torch.Generator().manual_seed(seed), route)


def loss_of(features: list[dict[str, Tensor]]) -> Tensor:
    """A scalar that depends on every value of every feature."""
    total = 0
    for i, one in enumerate(features):
        for j, x in enumerate(one.values()):
            wave = torch.linspace(0, 3 + i + j, x.numel(), dtype=x.dtype).view_as(x).cos()
            total = total + (x * wave).mean()
    return total


def outcome(
    backbone: LegoBackbone,
    logits: nn.Parameter,
    xs: list[Tensor],
    mode: str,
    out_features: Sequence[str] = FEATURES,
    route: Sequence[int] | None = None,
) -> dict[str, Tensor | None]:
    """Features and all gradients of one training call, by name."""
    xs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in xs]
    backbone.zero_grad()
    logits.grad = None
    features, _ = backbone(xs, gates_of(logits, mode, route=route), out_features)
    loss_of(features).backward()
    found: dict[str, Tensor | None] = {
        f"feature {i} {k}": v.detach() for i, one in enumerate(features) for k, v in one.items()
    }
    found |= {f"input {i}": x.grad for i, x in enumerate(xs)}
    found |= {f"gradient {name}": p.grad for name, p in backbone.named_parameters()}
    found |= {f"buffer {name}": b.clone() for name, b in backbone.named_buffers()}
    return {**found, "gradient controller": logits.grad}


def assert_same(
    found: dict[str, Tensor | None], wanted: dict[str, Tensor | None], tolerance: float = 1e-10
) -> None:
    """Same names, None in the same places, values equal up to ``tolerance`` (0: bit for bit)."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        other = found[name]
        assert (value is None) == (other is None), f"{name}: {other} instead of {value}"
        if value is None:
            continue
        if tolerance == 0 or not value.is_floating_point():
            assert torch.equal(other, value), f"{name} is not equal"
        else:
            error = (other - value).abs().max() / value.abs().max().clamp(min=1e-3)
            assert error <= tolerance, f"{name} differs by {error:.1e}"
