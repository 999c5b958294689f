"""What an exported backbone computes beyond its weights, and what its consumer must set for it.

Exported weights load into a stock model and are silently wrong where it normalises its input
otherwise, takes BGR, or, a ResNet, strides in the other convolution. So the exporter writes the
facts beside the weights, and a recipe in the words of each library. A family of backbones
(`resnet`, `swin`, `timm`) says how its facts are read from tensors and config, and what follows
from them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class BackboneFacts(ABC):
    """Facts of every family; a family adds those of its structure.

    Args:
        pixel_format: "RGB" or "BGR".
        pixel_mean: per channel in that order, in grey levels 0 to 255.
        pixel_std: likewise.
    """

    pixel_format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    @property
    def wrapper(self) -> str:
        """The class of this package that Detectron2 needs for the backbone; "" where it has one of
        its own."""
        return ""

    @classmethod
    @abstractmethod
    def read(
        cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], pixels: Mapping[str, Any]
    ) -> BackboneFacts:
        """Read the facts.

        Args:
            tensors: of the plain backbone, Detectron2's names.
            settings: the config's ``backbone``.
            pixels: `pixel_facts` of the config's ``input``.

        Raises:
            ValueError: a backbone that cannot be exported, or the config of another one.
        """

    @property
    @abstractmethod
    def title(self) -> str:
        """Such as "ResNet-50"."""

    @property
    @abstractmethod
    def norm(self) -> str:
        """Of the plain backbone."""

    @abstractmethod
    def fit(self, tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
        """The tensors that a stock backbone of a layout expects, still under Detectron2's names.

        Raises:
            ValueError: the layout has no such backbone.
        """

    @abstractmethod
    def detectron2_recipe(self) -> dict[str, Any]:
        """``{"yacs": [key, value, ...] | None, "lazy": ["key=value", ...] | None,
        "lazy_remove": [key, ...]}``; keys to remove, where they are there, go first."""

    @abstractmethod
    def stock_model(self, library: str) -> str | None:
        """Python that builds the library's own model without a classifier as ``model``; None where
        the library has no such model.

        Args:
            library: "torchvision" or "timm".
        """

    def load_into_stock(self, library: str, read: str) -> str:
        """Python that loads the weights into the `stock_model`.

        Args:
            library: "torchvision" or "timm".
            read: Python that reads them.
        """
        return f"model.load_state_dict({read})  # strict: every tensor has its place"

    def recipe(self, layout: str) -> dict[str, Any]:
        """The settings under which a stock model computes what the exported route computes.

        Args:
            layout: "detectron2", "torchvision" or "timm".

        Returns:
            For Detectron2 see `detectron2_recipe`; for the others "mean" and "std" of images scaled
            to [0, 1], and what the family adds.
        """
        if layout == "detectron2":
            return self.detectron2_recipe()
        return {
            "mean": [round(value / 255, 6) for value in self.pixel_mean],
            "std": [round(value / 255, 6) for value in self.pixel_std],
        }

    def lazy_input(self) -> dict[str, Any]:
        """LazyConfig overrides of what a model does to its pixels."""
        return {
            "model.pixel_mean": list(self.pixel_mean),
            "model.pixel_std": list(self.pixel_std),
            "model.input_format": self.pixel_format,
            "dataloader.train.mapper.image_format": self.pixel_format,
        }


def pixel_facts(section: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the config's ``input``.

    Raises:
        ValueError: one is missing, or a mean or std is not three numbers.
    """
    keys = ("pixel_format", "pixel_mean", "pixel_std")
    lacking = [key for key in keys if key not in section]
    if lacking:
        raise ValueError(f"The config's input has no {', '.join(lacking)}; give each of them.")
    return {
        "pixel_format": str(section["pixel_format"]),
        "pixel_mean": _three_numbers(section, "pixel_mean"),
        "pixel_std": _three_numbers(section, "pixel_std"),
    }


def _three_numbers(section: Mapping[str, Any], key: str) -> tuple[float, ...]:
    try:
        first, second, third = (float(value) for value in section[key])
    except (TypeError, ValueError):
        raise ValueError(
            f"The config's input.{key} is {section[key]!r}; give one number per channel."
        ) from None
    return first, second, third


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """LazyConfig overrides ``key=value``, for ``LazyConfig.apply_overrides``."""
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
    ]


def check_same_size(title: str, wanted: Any, given: Any, key: str) -> None:
    """Refuse the config of another backbone.

    Args:
        title: of the family.
        wanted: the config's value, an int or a sequence.
        given: the checkpoint's.
        key: of the config's ``backbone``.

    Raises:
        ValueError: they differ.
    """
    if isinstance(wanted, Sequence):
        wanted = tuple(wanted)
    if wanted != given:
        raise ValueError(
            f"The config's backbone is a {title} with {key}={wanted} and the checkpoint's one with "
            f"{key}={given}; give the config of the same run."
        )
