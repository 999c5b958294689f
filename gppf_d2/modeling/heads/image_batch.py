"""From samples to the one normalised batch that a head of our own hands to its backbone, and from a
map of the image to one of its file.

Where an evaluation mapper cropped, the sample's "window" says which part of the file the image is
(see `gppf_d2.data.mappers.measurements`); a map of the file is 0 outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn


def normalised_batch(
    samples: Sequence[Mapping[str, Any]],
    backbone: Backbone,
    pixel_mean: Tensor,
    pixel_std: Tensor,
    size_divisibility: int = 1,
) -> ImageList:
    """Normalise images and pad them at the right and bottom to one size.

    Args:
        samples: with "image" [3, H_i, W_i].
        backbone: what the batch is for; sides are multiples of what it asks for.
        pixel_mean: [3, 1, 1], on the batch's device.
        pixel_std: [3, 1, 1].
        size_divisibility: what else sides are multiples of.

    Returns:
        The batch [B, 3, H, W] with the images' own sizes.
    """
    images = [sample["image"].to(pixel_mean.device, non_blocking=True) for sample in samples]
    images = [(image - pixel_mean) / pixel_std for image in images]
    constraints = dict(backbone.padding_constraints)
    side = constraints.pop("size_divisibility", backbone.size_divisibility)
    side = math.lcm(max(side, 1), size_divisibility)
    return ImageList.from_tensors(images, side, padding_constraints=constraints)


class ImageHead(nn.Module):
    """Base of heads on images: keeps the view and normalises like Detectron2's meta-architectures.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.

    Attributes:
        size_divisibility: sides of a batch are multiples of it, and of the backbone's own.
    """

    size_divisibility = 1

    def __init__(
        self, backbone: Backbone, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    def choose_feature(self, name: str | None) -> tuple[str, int]:
        """A feature of the backbone, the deepest one for None, and its channels.

        Raises:
            ValueError: the backbone does not give it.
        """
        shapes = self.backbone.output_shape()
        chosen = name or max(shapes, key=lambda feature: shapes[feature].stride)
        if chosen not in shapes:
            raise ValueError(f"in_feature={name!r}: the backbone gives {', '.join(shapes)}.")
        return chosen, shapes[chosen].channels

    def choose_features(self, names: Sequence[str] | None) -> list[str]:
        """Features of the backbone, all for None, finest first.

        Raises:
            ValueError: the backbone does not give them.
        """
        shapes = self.backbone.output_shape()
        chosen = list(names or shapes)
        if not set(chosen) <= set(shapes):
            raise ValueError(f"in_features={chosen}: the backbone gives {', '.join(shapes)}.")
        return sorted(chosen, key=lambda name: shapes[name].stride)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess(self, samples: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalise images [3, H_i, W_i] and pad them at the right and bottom to one size."""
        return normalised_batch(
            samples, self.backbone, self.pixel_mean, self.pixel_std, self.size_divisibility
        )

    def stack_maps(self, maps: Sequence[Tensor], images: ImageList, fill: float = 0.0) -> Tensor:
        """Pad maps [..., H_i, W_i] with ``fill`` to the size of the batch: [B, ..., H, W] of the
        images' type."""
        height, width = images.tensor.shape[-2:]
        shape = (len(maps), *maps[0].shape[:-2], height, width)
        padded = images.tensor.new_full(shape, fill)
        for row, one in zip(padded, maps):
            row[..., : one.shape[-2], : one.shape[-1]] = one.to(row)
        return padded


def at_file_size(maps: Tensor, sample: Mapping[str, Any]) -> Tensor:
    """A prediction brought to the size of the file, into the sample's "window" where there is one.

    Args:
        maps: [H', W'] or [C, H', W'].
        sample: "height" and "width" are the size of the file; without them that of ``maps``.

    Returns:
        [height, width] or [C, height, width], bilinear, 0 outside of the window.
    """
    rows, columns = maps.shape[-2:]
    height, width = sample.get("height", rows), sample.get("width", columns)
    x0, y0, x1, y1 = sample.get("window", (0, 0, width, height))
    part = F.interpolate(
        maps.reshape(1, -1, rows, columns), (y1 - y0, x1 - x0), mode="bilinear", align_corners=False
    )
    part = part.reshape(*maps.shape[:-2], y1 - y0, x1 - x0)
    whole = part.new_zeros(*maps.shape[:-2], height, width)
    top, left = max(y0, 0), max(x0, 0)
    inside = part[..., top - y0 : height - y0, left - x0 : width - x0]
    whole[..., top : top + inside.shape[-2], left : left + inside.shape[-1]] = inside
    return whole
