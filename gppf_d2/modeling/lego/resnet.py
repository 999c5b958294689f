"""Lego ResNet: Detectron2's own stem and residual blocks as units (GPPF section 3.2).

L = 17 layers for ResNet-50, the stem and 16 bottlenecks; the projection shortcut is part of its
unit. A route therefore maps one to one onto a stock ResNet. The stride sits in the 3x3 convolution
by default, which is what torchvision and timm have (Detectron2's default is the 1x1).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.layer import LegoLayer

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
Norm = str | Callable[[int], nn.Module]


class LegoResNet(LegoBackbone):
    """A ResNet with N candidate units in every layer.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_units: N.
        norm: "CrossTaskSyncBN", another norm that Detectron2 knows ("BN", "FrozenBN", "GN", ""),
            or a callable from channels to a norm.
        stride_in_1x1: put the stride of bottlenecks into the first convolution.
        stem_out_channels: channels after the stem.
        res2_out_channels: channels after res2, doubled by each later stage; default 64 (18, 34) or
            256.
        num_groups: groups of the 3x3 convolutions of bottlenecks.
        width_per_group: channels per group in res2.
        in_channels: channels of the images.
        weighting: of CrossTaskSyncBN: "equal", "n" or "nhw".
        momentum: of the running statistics.
        eps: added to variances.
        checkpoint: recompute each layer in backward (activation checkpointing).
        mixing: "in_step", or "plain" (slower, the reference).

    Raises:
        ValueError: unknown depth or norm, or num_units < 1.
    """

    def __init__(
        self,
        depth: int = 50,
        num_units: int = 2,
        norm: Norm = "CrossTaskSyncBN",
        *,
        stride_in_1x1: bool = False,
        stem_out_channels: int = 64,
        res2_out_channels: int | None = None,
        num_groups: int = 1,
        width_per_group: int = 64,
        in_channels: int = 3,
        weighting: str = "equal",
        momentum: float = 0.1,
        eps: float = 1e-5,
        checkpoint: bool = False,
        mixing: str = "in_step",
    ) -> None:
        super().__init__(num_units, checkpointing=checkpoint)
        if depth not in BLOCKS:
            raise ValueError(
                f"No ResNet of depth {depth}; choose one of {', '.join(map(str, BLOCKS))}."
            )
        self.depth = depth
        self._architecture = {
            "depth": depth,
            "stride_in_1x1": stride_in_1x1,
            "stem_out_channels": stem_out_channels,
            "res2_out_channels": res2_out_channels or (64 if depth < 50 else 256),
            "bottleneck_channels": num_groups * width_per_group,
            "num_groups": num_groups,
            "in_channels": in_channels,
        }
        self._eps, self._momentum = eps, momentum
        make_norm = norm_factory(norm, eps=eps, momentum=momentum, weighting=weighting)
        candidates = [build_blocks(norm=make_norm, **self._architecture) for _ in range(num_units)]

        stems, stages = zip(*candidates)
        self.stem = LegoLayer(stems, mixing)
        stride = self.stem.units[0].stride
        features = {"stem": ("stem", ShapeSpec(channels=stem_out_channels, stride=stride))}
        names = ["stem"]
        for number, alternatives in enumerate(zip(*stages), start=2):
            stage = f"res{number}"
            layers = nn.ModuleList(LegoLayer(units, mixing) for units in zip(*alternatives))
            self.add_module(stage, layers)
            names += [f"{stage}.{i}" for i in range(len(layers))]
            stride *= layers[0].units[0].stride
            channels = layers[0].units[0].out_channels
            features[stage] = (names[-1], ShapeSpec(channels=channels, stride=stride))
        self.set_layers(names, features)

    def build_plain(self, norm: Norm = "BN", out_features: list[str] | None = None) -> ResNet:
        """A stock ResNet of one route's architecture, freshly initialised.

        Args:
            norm: of the stock ResNet; eps and momentum are this backbone's.
            out_features: of the stock ResNet; default res2 to res5.
        """
        make_norm = norm_factory(norm, eps=self._eps, momentum=self._momentum)
        stem, stages = build_blocks(norm=make_norm, **self._architecture)
        return ResNet(stem, stages, out_features=out_features or ["res2", "res3", "res4", "res5"])


def norm_factory(
    norm: Norm, *, eps: float = 1e-5, momentum: float = 0.1, weighting: str = "equal"
) -> Callable[[int], nn.Module | None]:
    """From channels to a norm layer with the given eps and momentum.

    Raises:
        ValueError: a name that is unknown, or of a norm that would synchronise on its own.
    """
    if norm == "CrossTaskSyncBN":
        return partial(CrossTaskSyncBN, eps=eps, momentum=momentum, weighting=weighting)
    if not isinstance(norm, str) and norm is not None:
        return norm
    if norm not in (None, "", "BN", "FrozenBN", "GN", "LN"):
        raise ValueError(
            f"Norm {norm!r} cannot be used in the shared backbone; choose CrossTaskSyncBN, BN, "
            "FrozenBN, GN, LN or ''."
        )

    def make(channels: int) -> nn.Module | None:
        layer = get_norm(norm, channels)
        for name, value in (("eps", eps), ("momentum", momentum)):
            if hasattr(layer, name):
                setattr(layer, name, value)
        return layer

    return make


def build_blocks(
    *,
    depth: int,
    norm: Callable[[int], nn.Module | None],
    stride_in_1x1: bool,
    stem_out_channels: int,
    res2_out_channels: int,
    bottleneck_channels: int,
    num_groups: int,
    in_channels: int,
) -> tuple[BasicStem, list[list[nn.Module]]]:
    """One stem and the blocks of res2 to res5: Detectron2's own, initial weights included."""
    stem = BasicStem(in_channels=in_channels, out_channels=stem_out_channels, norm=norm)
    stages = []
    channels, out_channels = stem_out_channels, res2_out_channels
    for i, count in enumerate(BLOCKS[depth]):
        options: dict = {"block_class": BasicBlock}
        if depth >= 50:
            options = {
                "block_class": BottleneckBlock,
                "bottleneck_channels": bottleneck_channels * 2**i,
                "num_groups": num_groups,
                "stride_in_1x1": stride_in_1x1,
            }
        stages.append(
            ResNet.make_stage(
                num_blocks=count,
                stride_per_block=[1 if i == 0 else 2] + [1] * (count - 1),
                in_channels=channels,
                out_channels=out_channels,
                norm=norm,
                **options,
            )
        )
        channels, out_channels = out_channels, out_channels * 2
    return stem, stages
