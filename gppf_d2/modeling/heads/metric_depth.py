"""What heads that predict metres share: the loss, the camera's focal length, results at file size.

Loss ``silog`` (default) is the scale-invariant log loss of BTS: with d = log(prediction) -
log(truth) over the valid pixels, 10 sqrt(mean(d^2) - f mean(d)^2), variance focus f = 0.85. ``l1``
is the mean absolute error in metres. A pixel is valid where its depth lies in ``depth_range``; 0
means "not measured".

Depth 0, "unknown", is what lies outside of the sample's "window" (`image_batch.at_file_size`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor

from gppf_d2.modeling.heads.image_batch import ImageHead, at_file_size

LOSSES = ("silog", "l1")
_SILOG_SCALE, _SILOG_EPS = 10.0, 1e-6


class MetricDepthHead(ImageHead):
    """Base of depth heads: `metres` gives the depth, this class the rest.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        depth_range: (smallest, largest) depth in metres of the pixels that are learned from.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_features: features to use; default all of the backbone.
        loss: "silog" or "l1".
        variance_focus: f of silog, in [0, 1].
        focal_reference: predictions are those of a camera with this focal length in pixels, and are
            multiplied by the sample's "focal_length" over it: twice the focal length shows the same
            picture from twice the distance. None leaves them as they are.

    Raises:
        ValueError: a range, loss, feature or focal length that cannot be.
    """

    def __init__(
        self,
        backbone: Backbone,
        depth_range: tuple[float, float],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        *,
        in_features: Sequence[str] | None = None,
        loss: str = "silog",
        variance_focus: float = 0.85,
        focal_reference: float | None = None,
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        smallest, largest = (float(value) for value in depth_range)
        if not 0 <= smallest < largest:
            raise ValueError(
                f"depth_range is {tuple(depth_range)}; give 0 <= smallest < largest, in metres."
            )
        if loss not in LOSSES:
            raise ValueError(f"Unknown depth loss {loss!r}; choose one of {', '.join(LOSSES)}.")
        if focal_reference is not None and not focal_reference > 0:
            raise ValueError(
                f"focal_reference is {focal_reference}; give a focal length in pixels, or None."
            )
        self.in_features = self.choose_features(in_features)
        self.depth_range = smallest, largest
        self.loss_name, self.variance_focus = loss, variance_focus
        self.focal_reference = focal_reference

    @abstractmethod
    def metres(self, features: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Depth in metres, before the focal length.

        Args:
            features: of the backbone, by name.
            images: normalised [B, 3, H, W].

        Returns:
            [B, H, W], float32 or better.
        """

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else a depth map per sample.

        Args:
            samples: with "image" [3, H, W], in training "depth" [H, W] in metres; "height" and
                "width" are the size of the result, "window" (x0, y0, x1, y1) the part of it that
                the image shows; with ``focal_reference`` "focal_length" in pixels of the image.

        Returns:
            {"loss_depth"}, or a list of {"depth": [height, width]} in metres, 0 = unknown.

        Raises:
            ValueError: no "focal_length" in training where it is needed.
        """
        images = self.preprocess(samples)
        depth = self.metres(self.backbone(images.tensor), images.tensor)
        if self.focal_reference is not None:
            depth = depth * self._focal_factors(samples).to(depth)
        if self.training:
            truth = self.stack_maps([sample["depth"] for sample in samples], images)
            return {"loss_depth": self.loss(depth, truth)}
        return [
            {"depth": at_file_size(one[:height, :width], sample)}
            for one, sample, (height, width) in zip(depth, samples, images.image_sizes)
        ]

    def _focal_factors(self, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """focal length / reference [B, 1, 1]; a picture of an unknown camera, which evaluation may
        bring, counts as one of the reference."""
        if self.training and not all("focal_length" in sample for sample in samples):
            raise ValueError(
                "A record has no 'focal_length' in pixels, which focal_reference needs; add it "
                "where the dataset is registered, or set focal_reference to None."
            )
        lengths = [sample.get("focal_length", self.focal_reference) for sample in samples]
        return torch.tensor(lengths).view(-1, 1, 1) / self.focal_reference

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
