"""Monocular depth: a small pixel head on a fusion of the features, depth in metres.

For tasks beside others in a joint run, where BTS (`bts`) would cost more than the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor

from gppf_d2.modeling.heads.metric_depth import MetricDepthHead
from gppf_d2.modeling.heads.pixel_decoder import PixelDecoder

SMALLEST_SHARE = 1e-3  # of the largest depth: where the geometric scale of predictions begins


class DepthHead(PixelDecoder, MetricDepthHead):
    """Pixel head: the small decoder, and a sigmoid over the logarithm of the range, since ratios
    of depths are what losses and metrics measure.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        depth_range: (smallest, largest) depth in metres.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_features: features to fuse; default all of the backbone.
        channels: of the decoder.
        loss: "silog" or "l1".
        variance_focus: f of silog, in [0, 1].
        focal_reference: see `MetricDepthHead`.
        norm: of the 3x3 convolutions, as in Detectron2.
        fusion: of the features, "top_down" or "sum" (see `pixel_decoder`).
        convs: 3x3 convolutions after the fusion.

    Raises:
        ValueError: a range, loss or fusion that cannot be.
    """

    # what it predicts depends on the range; that of a head of relative depth is something else
    prediction_layers = ("predict",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        depth_range: tuple[float, float],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_features: Sequence[str] | None = None,
        channels: int = 128,
        loss: str = "silog",
        variance_focus: float = 0.85,
        focal_reference: float | None = None,
        norm: str = "",
        fusion: str = "top_down",
        convs: int = 2,
    ) -> None:
        super().__init__(
            backbone, depth_range, pixel_mean, pixel_std, in_features=in_features, loss=loss,
            variance_focus=variance_focus, focal_reference=focal_reference,
        )  # fmt: skip
        self.add_decoder(channels, 1, norm, fusion, convs)

    def metres(self, features: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Depth in metres [B, H, W] at the size of the images."""
        share = self.decode(features).sigmoid()
        share = F.interpolate(share, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        smallest, largest = self.depth_range
        smallest = max(smallest, SMALLEST_SHARE * largest)
        return smallest * (largest / smallest) ** share
