"""A plain ResNet leaves: where its stride is, what its norms need, the recipe for its consumer.

For Detectron2 the recipe has the overrides of a YAML config (``cfg.merge_from_list``) and of a
LazyConfig (``LazyConfig.apply_overrides``).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gppf_d2.export.facts import BackboneFacts, as_overrides
from gppf_d2.modeling.layouts import depth_of, is_bottleneck
from gppf_d2.modeling.lego.resnet import BLOCKS, LegoResNet

STOCK_EPS = 1e-5  # of every norm in a stock ResNet of the three libraries


@dataclass(frozen=True, kw_only=True)
class ResNetFacts(BackboneFacts):
    """What a plain ResNet computes, beyond its weights.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stride_in_1x1: where bottlenecks have their stride; None for basic blocks.
        num_groups: groups of the 3x3 convolution of bottlenecks.
        width_per_group: channels of a group in res2.
        stem_channels: channels of the stem.
        res2_channels: channels of res2.
        lego_eps: of the lego's norms; `fit` moves what it differs from the stock one into the
            running variances.
    """

    depth: int
    stride_in_1x1: bool | None
    num_groups: int
    width_per_group: int
    stem_channels: int
    res2_channels: int
    lego_eps: float

    @classmethod
    def read(
        cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], pixels: Mapping[str, Any]
    ) -> ResNetFacts:
        """See `BackboneFacts.read`."""
        if "stem.conv1.norm.running_mean" not in tensors:
            raise ValueError(
                "The backbone has no running statistics; only one with batch norm can be exported."
            )
        defaults = inspect.signature(LegoResNet).parameters
        depth, stride, eps = (
            settings.get(key, defaults[key].default) for key in ("depth", "stride_in_1x1", "eps")
        )
        if depth != depth_of(tensors):
            raise ValueError(
                f"The config's backbone is a ResNet-{depth} and the checkpoint's a "
                f"ResNet-{depth_of(tensors)}; give the config of the same run."
            )
        bottleneck = is_bottleneck(tensors)
        conv2 = tensors["res2.0.conv2.weight"]
        groups = conv2.shape[0] // conv2.shape[1] if bottleneck else 1
        return cls(
            depth=depth,
            stride_in_1x1=bool(stride) if bottleneck else None,
            num_groups=groups,
            width_per_group=conv2.shape[0] // groups,
            stem_channels=tensors["stem.conv1.weight"].shape[0],
            res2_channels=tensors[f"res2.0.conv{3 if bottleneck else 2}.weight"].shape[0],
            lego_eps=float(eps),
            **pixels,
        )

    @property
    def title(self) -> str:
        return f"ResNet-{self.depth}"

    @property
    def norm(self) -> str:
        return "BN"

    def fit(self, tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
        """Variances for the stock eps, and counters for norms that lack them (FrozenBN).

        Raises:
            ValueError: a stride that the layout cannot have.
        """
        if self.stride_in_1x1 and layout != "detectron2":
            raise ValueError(
                f"The backbone was built with stride_in_1x1=True, and {layout}'s ResNet has its "
                "stride in the 3x3 convolution; export with --format detectron2."
            )
        fitted = dict(tensors)
        for name, tensor in tensors.items():
            if name.endswith(".running_var") and self.lego_eps != STOCK_EPS:
                fitted[name] = tensor + (self.lego_eps - STOCK_EPS)
            if name.endswith(".running_mean"):
                counter = name.removesuffix("running_mean") + "num_batches_tracked"
                fitted.setdefault(counter, torch.zeros((), dtype=torch.long))
        return fitted

    def detectron2_recipe(self) -> dict[str, Any]:
        """See `BackboneFacts.detectron2_recipe`; basic blocks do not take ``stride_in_1x1``."""
        basic = self.stride_in_1x1 is None
        return {
            "yacs": self._yacs(),
            "lazy": self._lazy(),
            "lazy_remove": ["model.backbone.bottom_up.stages.stride_in_1x1"] if basic else [],
        }

    def stock_model(self, library: str) -> str | None:
        """See `BackboneFacts.stock_model`; widths of the stem and res2 are fixed in both."""
        bottleneck = self.stride_in_1x1 is not None
        if self.stem_channels != 64 or self.res2_channels != (256 if bottleneck else 64):
            return None
        blocks, groups, width = list(BLOCKS[self.depth]), self.num_groups, self.width_per_group
        plain = groups == 1 and width == 64  # else bottlenecks, as of a ResNeXt
        if library == "timm":
            if plain:
                return (
                    f'import timm\n\nmodel = timm.create_model("resnet{self.depth}", num_classes=0)'
                )
            return (
                "from timm.models.resnet import Bottleneck, ResNet\n\n"
                f"model = ResNet(\n    Bottleneck, {blocks}, cardinality={groups}, "
                f"base_width={width}, num_classes=0\n)"
            )
        arguments = f"\n    Bottleneck, {blocks}, groups={groups}, width_per_group={width}\n"
        return (
            f"from torchvision.models import resnet{self.depth}\n\nmodel = resnet{self.depth}()"
            if plain
            else "from torchvision.models.resnet import Bottleneck, ResNet\n\n"
            f"model = ResNet({arguments})"
        ) + "\nmodel.fc = torch.nn.Identity()"

    def _yacs(self) -> list[Any]:
        return [
            "MODEL.RESNETS.DEPTH", self.depth,
            "MODEL.RESNETS.NUM_GROUPS", self.num_groups,
            "MODEL.RESNETS.WIDTH_PER_GROUP", self.width_per_group,
            "MODEL.RESNETS.STEM_OUT_CHANNELS", self.stem_channels,
            "MODEL.RESNETS.RES2_OUT_CHANNELS", self.res2_channels,
            "MODEL.RESNETS.STRIDE_IN_1X1", bool(self.stride_in_1x1),
            "MODEL.RESNETS.NORM", self.norm,
            "MODEL.PIXEL_MEAN", list(self.pixel_mean),
            "MODEL.PIXEL_STD", list(self.pixel_std),
            "INPUT.FORMAT", self.pixel_format,
        ]  # fmt: skip

    def _lazy(self) -> list[str] | None:
        """For the zoo's ``common/models``, whose stages come from ``ResNet.make_default_stages``.

        None where that function cannot express the structure (ResNeXt widths, other stems).
        """
        bottleneck = self.stride_in_1x1 is not None
        default = (64, 256, 64) if bottleneck else (64, 64, 64)
        width = self.num_groups * self.width_per_group
        if (self.stem_channels, self.res2_channels, width) != default:
            return None
        bottom_up = "model.backbone.bottom_up"
        values: dict[str, Any] = {f"{bottom_up}.stages.depth": self.depth}
        if bottleneck:
            values[f"{bottom_up}.stages.stride_in_1x1"] = self.stride_in_1x1
            values[f"{bottom_up}.stages.num_groups"] = self.num_groups
        values |= {f"{bottom_up}.stem.norm": self.norm, f"{bottom_up}.stages.norm": self.norm}
        return as_overrides(values | self.lazy_input())
