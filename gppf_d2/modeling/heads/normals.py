"""Surface normals: unit vectors for every pixel, x right, y up, z towards the viewer.

The loss is the cosine loss: 1 - <prediction, truth>, the mean over the pixels with a truth. Samples
have "normals" [3, H, W], (0, 0, 0) where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor

from gppf_d2.modeling.heads.image_batch import ImageHead, at_file_size
from gppf_d2.modeling.heads.pixel_decoder import PixelDecoder


class NormalsHead(PixelDecoder, ImageHead):
    """Pixel head of three channels, scaled to unit length; it starts by facing the viewer.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_features: features to fuse; default all of the backbone.
        channels: of the decoder.
        norm: of the 3x3 convolutions, as in Detectron2.
        fusion: of the features, "top_down" or "sum" (see `pixel_decoder`).
        convs: 3x3 convolutions after the fusion.

    Raises:
        ValueError: a feature that the backbone does not give, or a fusion that cannot be.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_features: Sequence[str] | None = None,
        channels: int = 128,
        norm: str = "",
        fusion: str = "top_down",
        convs: int = 2,
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        self.in_features = self.choose_features(in_features)
        self.add_decoder(channels, 3, norm, fusion, convs)
        with torch.no_grad():
            self.predict.bias[2] = 1.0

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else a map of normals per sample.

        Args:
            samples: with "image" [3, H, W], in training "normals" [3, H, W]; "height" and "width"
                are the size of the result.

        Returns:
            {"loss_normals"}, or a list of {"normals": [3, height, width]} of unit length, (0, 0, 0)
            outside of the sample's "window" (`at_file_size`).
        """
        images = self.preprocess(samples)
        raw = self.pixels(images.tensor)
        if self.training:
            truth = self.stack_maps([sample["normals"] for sample in samples], images)
            return {"loss_normals": self.loss(raw, truth)}
        return [
            {"normals": F.normalize(at_file_size(one[:, :height, :width], sample), dim=0)}
            for one, sample, (height, width) in zip(raw, samples, images.image_sizes)
        ]

    def loss(self, raw: Tensor, truth: Tensor) -> Tensor:
        """The mean of 1 - cosine over pixels with a truth; a zero with a graph where there is none.

        Args:
            raw: predictions [B, 3, H, W] of any length.
            truth: [B, 3, H, W] of unit length, (0, 0, 0) where there is none.
        """
        truth = truth.to(raw)
        valid = truth.square().sum(1) > 0
        cosine = F.cosine_similarity(raw, truth, dim=1)
        return torch.where(valid, 1 - cosine, 0.0 * cosine).sum() / valid.sum().clamp(min=1)
