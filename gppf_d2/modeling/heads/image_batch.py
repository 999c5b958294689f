"""From samples to the one normalised batch that a head of our own hands to its backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn


class ImageHead(nn.Module):
    """Base of heads on images: keeps the view and normalises like Detectron2's meta-architectures.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
    """

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

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def preprocess(self, samples: Sequence[Mapping[str, Any]]) -> ImageList:
        """Normalise images [3, H_i, W_i] and pad them at the right and bottom to one size."""
        images = [sample["image"].to(self.device, non_blocking=True) for sample in samples]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def stack_maps(self, maps: Sequence[Tensor], images: ImageList) -> Tensor:
        """Pad maps [H_i, W_i] with zeros to the size of the batch: [B, H, W]."""
        height, width = images.tensor.shape[-2:]
        padded = images.tensor.new_zeros(len(maps), height, width)
        for row, one in zip(padded, maps):
            row[: one.shape[0], : one.shape[1]] = one.to(row)
        return padded
