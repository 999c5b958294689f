"""Semantic segmentation as one of our pixel heads: a class for every pixel (MuST, section 3.2).

The loss is the cross entropy at the size of the images, the mean over labelled pixels; the output
has Detectron2's convention, logits [K, H, W] at the size of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor

from gppf_d2.modeling.heads.image_batch import ImageHead, at_file_size
from gppf_d2.modeling.heads.pixel_decoder import PixelDecoder


class SemanticHead(PixelDecoder, ImageHead):
    """Pixel head of K channels.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        num_classes: K.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_features: features to fuse; default all of the backbone.
        channels: of the decoder.
        norm: of the 3x3 convolutions, as in Detectron2.
        fusion: of the features, "top_down" or "sum" (see `pixel_decoder`).
        convs: 3x3 convolutions after the fusion.
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: a feature that the backbone does not give, or a fusion that cannot be.
    """

    prediction_layers = ("predict",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_features: Sequence[str] | None = None,
        channels: int = 128,
        norm: str = "",
        fusion: str = "top_down",
        convs: int = 2,
        ignore_value: int = 255,
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        self.in_features = self.choose_features(in_features)
        self.ignore_value = ignore_value
        self.add_decoder(channels, num_classes, norm, fusion, convs)

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else scores per sample.

        Args:
            samples: with "image" [3, H, W], in training "sem_seg" [H, W], classes or
                ``ignore_value``; "height" and "width" are the size of the result.

        Returns:
            {"loss_sem_seg"}, or a list of {"sem_seg": logits [K, height, width]}.
        """
        images = self.preprocess(samples)
        logits = self.pixels(images.tensor)
        if self.training:
            maps = [sample["sem_seg"] for sample in samples]
            truth = self.stack_maps(maps, images, fill=self.ignore_value).long()
            return {"loss_sem_seg": labelled_cross_entropy(logits, truth, self.ignore_value)}
        return [
            {"sem_seg": at_file_size(one[:, :height, :width], sample)}
            for one, sample, (height, width) in zip(logits, samples, images.image_sizes)
        ]


def labelled_cross_entropy(logits: Tensor, targets: Tensor, ignore_value: int) -> Tensor:
    """Cross entropy, the mean over labelled pixels; a zero with a graph where there is none.

    Args:
        logits: [B, K, H, W].
        targets: labels [B, H, W], int64.
        ignore_value: label of pixels that do not count.
    """
    total = F.cross_entropy(logits, targets, ignore_index=ignore_value, reduction="sum")
    return total / (targets != ignore_value).sum().clamp(min=1)
