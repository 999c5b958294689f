"""Relative inverse depth (larger = nearer), known up to scale and shift per image.

What teachers like MiDaS give (Ranftl et al., arXiv 1907.01341; MuST, section 3.1), so the loss of
a student does not depend on scale and shift. Per image, over its V valid pixels, with means <.>,
spread sigma(x) = sqrt <(x - <x>)^2>, prediction p and target t:

    T = (t - <t>) / sigma(t)                  the units of the teacher do not matter
    s = max(<(p - <p>) T> / sigma(p)^2, 1/4 / sigma(p))
    R = s (p - <p>) - T                       the aligned prediction minus the target
    loss = <|R|> + gradient_weight * sum_k 1/V_k sum (|R_k's steps to the right and down|)

The first s is the scale of least squares; centring is its shift. A fit that would turn the
prediction around (or all but ignore it) is not allowed, or every image could choose its own sign:
the scale is at least a quarter of the ratio of the spreads. R_k is R at every 2^k-th pixel; steps
count where both of their ends are valid. The loss of a batch is the mean over the images that have
a target; B images, H W their sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads.image_batch import ImageHead, at_file_size
from gppf_d2.modeling.heads.pixel_decoder import PixelDecoder

LOSSES = ("l1", "l2")
SMALLEST_SCALE = 0.25  # of an alignment, in ratios of the spreads
_SPREAD_EPS = 1e-3  # keeps the scale finite where a prediction is constant
_FLAT = 1e-5  # spread of a target over its largest value from which on it says anything


class RelativeDepthHead(PixelDecoder, ImageHead):
    """Pixel head of one channel without a range.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone with several features.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_features: features to fuse; default all of the backbone.
        channels: of the decoder.
        norm: of the 3x3 convolutions, as in Detectron2.
        fusion: of the features, "top_down" or "sum" (see `pixel_decoder`).
        convs: 3x3 convolutions after the fusion.
        loss: "l1", the mean of |R|, or "l2", of R^2 (1 - correlation^2 where the scale is free).
        gradient_weight: of the gradient matching; MiDaS has 0.5. 0 leaves it out.
        gradient_scales: sizes at which gradients are matched, each half of the one before.

    Raises:
        ValueError: a feature, fusion, loss or number that cannot be.
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
        loss: str = "l1",
        gradient_weight: float = 0.5,
        gradient_scales: int = 4,
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        if loss not in LOSSES:
            raise ValueError(f"Unknown loss {loss!r}; choose one of {', '.join(LOSSES)}.")
        if gradient_weight < 0 or gradient_scales < 1:
            raise ValueError(
                f"gradient_weight is {gradient_weight} and gradient_scales {gradient_scales}; give "
                "a weight of at least 0 and at least 1 scale."
            )
        self.in_features = self.choose_features(in_features)
        self.loss_name = loss
        self.gradient_weight, self.gradient_scales = gradient_weight, gradient_scales
        self.add_decoder(channels, 1, norm, fusion, convs)
        # a loss without a scale has gradients that go with 1 / spread: start with about 1, not 0
        nn.init.kaiming_normal_(self.predict.weight, nonlinearity="linear")

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, else a map per sample.

        Args:
            samples: with "image" [3, H, W], in training "inverse_depth" [H, W] > 0, 0 = unknown;
                "height" and "width" are the size of the result.

        Returns:
            {"loss_inverse_depth"}, or a list of {"inverse_depth": [height, width]}, any numbers.
        """
        images = self.preprocess(samples)
        raw = self.pixels(images.tensor)[:, 0]
        if self.training:
            target = self.stack_maps([sample["inverse_depth"] for sample in samples], images)
            return {"loss_inverse_depth": self.loss(raw, target)}
        return [
            {"inverse_depth": at_file_size(one[:height, :width], sample)}
            for one, sample, (height, width) in zip(raw, samples, images.image_sizes)
        ]

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean over images that have a target; a zero with a graph where none has.

        Images of fewer than two valid pixels, or whose target is flat, have none.

        Args:
            prediction: [B, H, W].
            target: [B, H, W], > 0, 0 where it is unknown.
        """
        target = target.to(prediction)
        valid = (target > 0) & target.isfinite()
        residual, has_target = aligned_residual(prediction, target, valid)
        size = residual.abs() if self.loss_name == "l1" else residual.square()
        losses = size.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
        if self.gradient_weight:
            for k in range(self.gradient_scales):
                step = 2**k
                rough = roughness(residual[:, ::step, ::step], valid[:, ::step, ::step])
                losses = losses + self.gradient_weight * rough
        return torch.where(has_target, losses, 0.0 * losses).sum() / has_target.sum().clamp(min=1)


def aligned_residual(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """R of the module's docstring.

    Args:
        prediction: [B, H, W].
        target: [B, H, W], of any scale and shift.
        valid: [B, H, W], bool.

    Returns:
        Residuals [B, H, W], 0 where not valid, and whether there is something to fit, [B].
    """
    p, t = _centred(prediction, valid), _centred(target, valid)
    count = valid.sum((1, 2), keepdim=True).clamp(min=1)
    spread = (t.square().sum((1, 2), keepdim=True) / count).sqrt()
    largest = torch.where(valid, target, 0.0).abs().amax((1, 2), keepdim=True)
    has_target = spread > _FLAT * largest
    t = t / torch.where(has_target, spread, 1.0)
    square = p.square().sum((1, 2), keepdim=True) / count + _SPREAD_EPS**2
    scale = (p * t).sum((1, 2), keepdim=True) / count / square
    scale = torch.maximum(scale, SMALLEST_SCALE * square.rsqrt())
    return scale * p - t, has_target.flatten()


def roughness(residual: Tensor, valid: Tensor) -> Tensor:
    """Sum of the steps between valid neighbours over the number of valid pixels, [B].

    Args:
        residual: [B, h, w].
        valid: [B, h, w], bool.
    """
    right = (residual[:, :, 1:] - residual[:, :, :-1]).abs() * (valid[:, :, 1:] & valid[:, :, :-1])
    down = (residual[:, 1:] - residual[:, :-1]).abs() * (valid[:, 1:] & valid[:, :-1])
    return (right.sum((1, 2)) + down.sum((1, 2))) / valid.sum((1, 2)).clamp(min=1)


def _centred(values: Tensor, valid: Tensor) -> Tensor:
    """Values minus their mean over valid pixels, 0 elsewhere."""
    values = torch.where(valid, values, 0.0)
    mean = values.sum((1, 2), keepdim=True) / valid.sum((1, 2), keepdim=True).clamp(min=1)
    return torch.where(valid, values - mean, 0.0)
