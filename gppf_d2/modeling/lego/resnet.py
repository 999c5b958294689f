"""Lego ResNet: Detectron2's own stem and residual blocks as units (GPPF section 3.2).

L = 17 layers for ResNet-50, the stem and 16 bottlenecks; the projection shortcut is part of its
unit. A route therefore maps one to one onto a stock ResNet. The stride sits in the 3x3 convolution
by default, which is what torchvision and timm have (Detectron2's default is the 1x1). With
``units`` the candidates of a residual layer are of different architectures (`units`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.layer import LegoLayer
from gppf_d2.modeling.lego.stochastic_depth import drop_branch, linear_rates
from gppf_d2.modeling.lego.units import DepthwiseBlock, unit_kinds

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STAGES = ("res2", "res3", "res4", "res5")
Norm = str | Callable[[int], nn.Module]


class LegoResNet(LegoBackbone):
    """A ResNet with N candidate units in every layer.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_units: N.
        norm: "CrossTaskSyncBN", another norm that Detectron2 knows ("BN", "FrozenBN", "GN", ""),
            or a callable from channels to a norm.
        units: the kind of each candidate unit of the residual layers, num_units names: the stock
            "bottleneck" ("basic" for 18 and 34), "deformable", "depthwise"; None for all stock.
            Layers of several kinds run in the plain form, which synchronises no multi-view batch.
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
        drop_path_rate: stochastic depth, 0 in the first residual block to this value in the last,
            linear.
        freeze_at: number of parts at the beginning that do not train, as in Detectron2: 1 the stem,
            2 also res2, ...; their BatchNorm becomes FrozenBatchNorm.
        checkpoint: recompute each layer in backward (activation checkpointing).
        mixing: "in_step", or "plain" (slower, the reference).

    Attributes:
        units: the kind of each candidate unit.
        drop_path_rates: of the residual layers, in order.

    Raises:
        ValueError: unknown depth, norm or kind of unit, num_units < 1, or a drop_path_rate that is
            no probability below 1.
    """

    def __init__(
        self,
        depth: int = 50,
        num_units: int = 2,
        norm: Norm = "CrossTaskSyncBN",
        *,
        units: Sequence[str] | None = None,
        stride_in_1x1: bool = False,
        stem_out_channels: int = 64,
        res2_out_channels: int | None = None,
        num_groups: int = 1,
        width_per_group: int = 64,
        in_channels: int = 3,
        weighting: str = "equal",
        momentum: float = 0.1,
        eps: float = 1e-5,
        drop_path_rate: float = 0.0,
        freeze_at: int = 0,
        checkpoint: bool = False,
        mixing: str = "in_step",
    ) -> None:
        super().__init__(num_units, checkpointing=checkpoint)
        if depth not in BLOCKS:
            raise ValueError(
                f"No ResNet of depth {depth}; choose one of {', '.join(map(str, BLOCKS))}."
            )
        self.depth = depth
        self.units = _check_units(units, depth, num_units)
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
        candidates = [
            build_blocks(norm=make_norm, kind=kind, **self._architecture) for kind in self.units
        ]

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
        self.drop_path_rates = linear_rates(drop_path_rate, len(names) - 1)
        for layer, rate in zip(self.layers[1:], self.drop_path_rates):
            for unit in layer.units:
                drop_branch(unit, rate)
        self.freeze(freeze_at)

    def build_plain(self, norm: Norm = "BN", out_features: Sequence[str] | None = None) -> ResNet:
        """A stock ResNet of this depth and these widths, freshly initialised.

        Args:
            norm: of the stock ResNet; eps and momentum are this backbone's.
            out_features: of the stock ResNet; default res2 to res5.
        """
        kind = next(iter(unit_kinds(self.depth)))
        return self._build([kind] * len(self.layer_names), norm, out_features)

    def build_route(
        self, route: Sequence[int], out_features: Sequence[str] | None = None
    ) -> ResNet:
        """A ResNet with BatchNorm and the kinds of units that a route passes, freshly initialised.

        Args:
            route: one unit per layer.
            out_features: of the ResNet; default res2 to res5.
        """
        return self._build([self.units[unit] for unit in route], "BN", out_features)

    def _build(
        self, kinds: Sequence[str], norm: Norm, out_features: Sequence[str] | None
    ) -> ResNet:
        make_norm = norm_factory(norm, eps=self._eps, momentum=self._momentum)
        made = {
            kind: build_blocks(norm=make_norm, kind=kind, **self._architecture)
            for kind in dict.fromkeys(kinds)
        }
        stem, _ = made[kinds[0]]
        rest = iter(kinds[1:])
        stages = [
            [made[next(rest)][1][stage][block] for block in range(count)]
            for stage, count in enumerate(BLOCKS[self.depth])
        ]
        return ResNet(stem, stages, out_features=list(out_features or STAGES))


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
    kind: str,
    norm: Callable[[int], nn.Module | None],
    stride_in_1x1: bool,
    stem_out_channels: int,
    res2_out_channels: int,
    bottleneck_channels: int,
    num_groups: int,
    in_channels: int,
) -> tuple[BasicStem, list[list[nn.Module]]]:
    """One stem and the blocks of res2 to res5: Detectron2's own, initial weights included, or those
    of another kind."""
    stem = BasicStem(in_channels=in_channels, out_channels=stem_out_channels, norm=norm)
    stages = []
    channels, out_channels = stem_out_channels, res2_out_channels
    for i, count in enumerate(BLOCKS[depth]):
        options: dict = {"block_class": unit_kinds(depth)[kind]}
        if depth >= 50 and options["block_class"] is not DepthwiseBlock:
            options |= {
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


def _check_units(units: Sequence[str] | None, depth: int, num_units: int) -> tuple[str, ...]:
    known = tuple(unit_kinds(depth))
    units = known[:1] * num_units if units is None else tuple(units)
    if len(units) != num_units or not set(units) <= set(known):
        raise ValueError(
            f"units={list(units)} does not fit a ResNet-{depth} with num_units={num_units}; name "
            f"{num_units} kinds out of {', '.join(known)}."
        )
    return units
