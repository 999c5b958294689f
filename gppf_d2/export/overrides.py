"""What a consumer of an exported backbone must set, in the words of its own library.

Exported weights load into a stock model and are silently wrong where it strides in the other
convolution, normalises its input otherwise or takes BGR, as Detectron2's zoo configs do. So the
exporter writes beside the weights a recipe: for Detectron2 the overrides of a YAML config
(``cfg.merge_from_list``) and of a LazyConfig (``LazyConfig.apply_overrides``), for torchvision and
timm the mean and std in their scale, [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gppf_d2.modeling.layouts import depth_of, is_bottleneck


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """What a plain ResNet computes, beyond its weights.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stride_in_1x1: where bottlenecks have their stride; None for basic blocks.
        num_groups: groups of the 3x3 convolution of bottlenecks.
        width_per_group: channels of a group in res2.
        stem_channels: channels of the stem.
        res2_channels: channels of res2.
        pixel_format: "RGB" or "BGR".
        pixel_mean: per channel in that order, in grey levels 0 to 255.
        pixel_std: likewise.
    """

    depth: int
    stride_in_1x1: bool | None
    num_groups: int
    width_per_group: int
    stem_channels: int
    res2_channels: int
    pixel_format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]


def facts_of(
    tensors: Mapping[str, Tensor], stride_in_1x1: bool, pixels: Mapping[str, Any]
) -> BackboneFacts:
    """Read the structure of a plain ResNet from its tensors.

    Args:
        tensors: Detectron2's names.
        stride_in_1x1: from the config, the one thing about the structure that tensors do not show.
        pixels: ``pixel_format``, ``pixel_mean``, ``pixel_std`` of the config's ``input``.

    Raises:
        ValueError: no ResNet of a known depth, or a mean or std that is not three numbers.
    """
    bottleneck = is_bottleneck(tensors)
    conv2 = tensors["res2.0.conv2.weight"]
    groups = conv2.shape[0] // conv2.shape[1] if bottleneck else 1
    return BackboneFacts(
        depth=depth_of(tensors),
        stride_in_1x1=stride_in_1x1 if bottleneck else None,
        num_groups=groups,
        width_per_group=conv2.shape[0] // groups,
        stem_channels=tensors["stem.conv1.weight"].shape[0],
        res2_channels=tensors[f"res2.0.conv{3 if bottleneck else 2}.weight"].shape[0],
        pixel_format=str(pixels["pixel_format"]),
        pixel_mean=_three_numbers(pixels, "pixel_mean"),
        pixel_std=_three_numbers(pixels, "pixel_std"),
    )


def _three_numbers(pixels: Mapping[str, Any], key: str) -> tuple[float, ...]:
    try:
        first, second, third = (float(value) for value in pixels[key])
    except (TypeError, ValueError):
        raise ValueError(
            f"The config's input.{key} is {pixels[key]!r}; give one number per channel."
        ) from None
    return first, second, third


def overrides_for(facts: BackboneFacts, layout: str) -> dict[str, Any]:
    """The settings under which a stock model computes what the exported route computes.

    Args:
        facts: from :func:`facts_of`.
        layout: "detectron2", "torchvision" or "timm".

    Returns:
        For Detectron2 ``{"yacs": [key, value, ...], "lazy": ["key=value", ...] | None,
        "lazy_remove": [key, ...]}``; for the others ``{"mean", "std"}`` of images scaled to [0, 1].
    """
    if layout == "detectron2":
        return {
            "yacs": _yacs(facts),
            "lazy": _lazy(facts),
            "lazy_remove": _lazy_remove(facts),
        }
    return {
        "mean": [round(value / 255, 6) for value in facts.pixel_mean],
        "std": [round(value / 255, 6) for value in facts.pixel_std],
    }


def _yacs(facts: BackboneFacts) -> list[Any]:
    return [
        "MODEL.RESNETS.DEPTH", facts.depth,
        "MODEL.RESNETS.NUM_GROUPS", facts.num_groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP", facts.width_per_group,
        "MODEL.RESNETS.STEM_OUT_CHANNELS", facts.stem_channels,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", facts.res2_channels,
        "MODEL.RESNETS.STRIDE_IN_1X1", bool(facts.stride_in_1x1),
        "MODEL.RESNETS.NORM", "BN",
        "MODEL.PIXEL_MEAN", list(facts.pixel_mean),
        "MODEL.PIXEL_STD", list(facts.pixel_std),
        "INPUT.FORMAT", facts.pixel_format,
    ]  # fmt: skip


def _lazy(facts: BackboneFacts) -> list[str] | None:
    """For the zoo's ``common/models``, whose stages come from ``ResNet.make_default_stages``.

    None where that function cannot express the structure (ResNeXt widths, other stems).
    """
    bottleneck = facts.stride_in_1x1 is not None
    default = (64, 256, 64) if bottleneck else (64, 64, 64)
    width = facts.num_groups * facts.width_per_group
    if (facts.stem_channels, facts.res2_channels, width) != default:
        return None
    bottom_up = "model.backbone.bottom_up"
    values: dict[str, Any] = {f"{bottom_up}.stages.depth": facts.depth}
    if bottleneck:
        values[f"{bottom_up}.stages.stride_in_1x1"] = facts.stride_in_1x1
        values[f"{bottom_up}.stages.num_groups"] = facts.num_groups
    values |= {
        f"{bottom_up}.stem.norm": "BN",
        f"{bottom_up}.stages.norm": "BN",
        "model.pixel_mean": list(facts.pixel_mean),
        "model.pixel_std": list(facts.pixel_std),
        "model.input_format": facts.pixel_format,
        "dataloader.train.mapper.image_format": facts.pixel_format,
    }
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]


def _lazy_remove(facts: BackboneFacts) -> list[str]:
    """Keys to delete, which overrides cannot do: basic blocks do not take stride_in_1x1."""
    if facts.stride_in_1x1 is not None:
        return []
    return ["model.backbone.bottom_up.stages.stride_in_1x1"]
