"""Monocular depth: a small pixel head on a top-down fusion of the features, depth in metres.

Loss ``silog`` (default) is the scale-invariant log loss of BTS: with d = log(prediction) -
log(truth) over the valid pixels, 10 sqrt(mean(d^2) - f mean(d)^2), variance focus f = 0.85. ``l1``
is the mean absolute error in metres. A pixel is valid where its depth lies in ``depth_range``; 0
means "not measured".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads.image_batch import ImageHead

LOSSES = ("silog", "l1")
SMALLEST_SHARE = 1e-3  # of the largest depth: where the geometric scale of predictions begins
_SILOG_SCALE, _SILOG_EPS = 10.0, 1e-6


class DepthHead(ImageHead):
    """Pixel head: lateral 1x1 convolutions, top-down sum, two 3x3 convolutions, and a sigmoid over
    the logarithm of the range, since ratios of depths are what losses and metrics measure.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        depth_range: (smallest, largest) depth in metres.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_features: features to fuse; default all of the backbone.
        channels: of the fused feature.
        loss: "silog" or "l1".
        variance_focus: f of silog, in [0, 1].
        norm: of the 3x3 convolutions, as in Detectron2.

    Raises:
        ValueError: a range or loss that cannot be.
    """

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
        norm: str = "",
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        smallest, largest = (float(value) for value in depth_range)
        if not 0 <= smallest < largest:
            raise ValueError(
                f"depth_range is {tuple(depth_range)}; give 0 <= smallest < largest, in metres."
            )
        if loss not in LOSSES:
            raise ValueError(f"Unknown depth loss {loss!r}; choose one of {', '.join(LOSSES)}.")
        shapes = backbone.output_shape()
        names = list(in_features or shapes)
        if not set(names) <= set(shapes):
            raise ValueError(f"in_features={names}: the backbone gives {', '.join(shapes)}.")
        self.in_features = sorted(names, key=lambda name: shapes[name].stride)
        self.depth_range = smallest, largest
        self.loss_name, self.variance_focus = loss, variance_focus
        self.lateral = nn.ModuleDict(
            {name: nn.Conv2d(shapes[name].channels, channels, 1) for name in self.in_features}
        )
        self.fuse = nn.Sequential(
            *(
                Conv2d(
                    channels, channels, 3, padding=1, bias=not norm,
                    norm=get_norm(norm, channels), activation=F.relu,
                )
                for _ in range(2)
            )
        )  # fmt: skip
        self.predict = nn.Conv2d(channels, 1, 3, padding=1)
        for conv in [*self.lateral.values(), *self.fuse]:
            weight_init.c2_msra_fill(conv)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else a depth map per sample.

        Args:
            samples: with "image" [3, H, W], in training "depth" [H, W] in metres; "height" and
                "width" are the size of the result.

        Returns:
            {"loss_depth"}, or a list of {"depth": [height, width]} in metres.
        """
        images = self.preprocess(samples)
        depth = self.depth(self.backbone(images.tensor), images.tensor.shape[-2:])
        if self.training:
            truth = self.stack_maps([sample["depth"] for sample in samples], images)
            return {"loss_depth": self.loss(depth, truth)}
        results = []
        for one, sample, (height, width) in zip(depth, samples, images.image_sizes):
            size = (sample.get("height", height), sample.get("width", width))
            one = F.interpolate(
                one[None, None, :height, :width], size, mode="bilinear", align_corners=False
            )
            results.append({"depth": one[0, 0]})
        return results

    def depth(self, features: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Depth in metres [B, H, W] at the size of the images."""
        fused = None
        for name in reversed(self.in_features):
            lateral = self.lateral[name](features[name])
            if fused is not None:
                lateral = lateral + F.interpolate(
                    fused, lateral.shape[-2:], mode="bilinear", align_corners=False
                )
            fused = lateral
        share = self.predict(self.fuse(fused)).float().sigmoid()
        share = F.interpolate(share, tuple(size), mode="bilinear", align_corners=False)[:, 0]
        smallest, largest = self.depth_range
        smallest = max(smallest, SMALLEST_SHARE * largest)
        return smallest * (largest / smallest) ** share

    def loss(self, depth: Tensor, truth: Tensor) -> Tensor:
        """The loss over valid pixels; a zero with a graph where there is none.

        Args:
            depth: predictions [B, H, W] in metres.
            truth: measurements [B, H, W] in metres, 0 where there is none.
        """
        smallest, largest = self.depth_range
        truth = truth.to(depth)
        valid = (truth > 0) & (truth >= smallest) & (truth <= largest)
        count = valid.sum().clamp(min=1)
        if self.loss_name == "l1":
            return torch.where(valid, (depth - truth).abs(), 0.0).sum() / count
        log_ratio = depth.clamp(min=_SILOG_EPS).log() - torch.where(valid, truth, 1.0).log()
        log_ratio = torch.where(valid, log_ratio, 0.0)
        mean = log_ratio.sum() / count
        spread = log_ratio.square().sum() / count - self.variance_focus * mean.square()
        loss = _SILOG_SCALE * (spread.clamp(min=0) + _SILOG_EPS**2).sqrt()
        return torch.where(valid.any(), loss, 0.0 * loss)
