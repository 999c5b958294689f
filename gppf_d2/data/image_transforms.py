"""Train transforms of whole images, from torchvision v2's parts: classification and two views.

Both take uint8 RGB [3, H, W] and give uint8 RGB [3, S, S]; normalisation is the model's job, so a
fill that other code bases state in normalised units is stated in grey levels here. They are
functions that build a transform, for ``L(...)`` in a config::

    L(ClassificationMapper)(is_train=True, transform=L(classification_recipe)(image_size=224))

MixUp and CutMix work on batches: ``gppf_d2.data.batch_transforms``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

# of ImageNet, RGB, in grey levels
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class NoiseErasing(v2.RandomErasing):
    """Random Erasing with noise that is N(0, 1) per pixel and channel after normalisation.

    torchvision's ``value="random"`` draws N(0, 1) before normalisation, which in an image of grey
    levels is black.

    Args:
        p: probability that a rectangle of an image is erased.
        mean: of the noise, per channel, in grey levels.
        std: of the noise.
        **arguments: "scale" and "ratio" of ``torchvision.transforms.v2.RandomErasing``.
    """

    def __init__(
        self,
        p: float = 0.25,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        **arguments: Any,
    ) -> None:
        super().__init__(p=p, value="random", **arguments)
        self.mean = torch.tensor(tuple(mean)).view(-1, 1, 1)
        self.std = torch.tensor(tuple(std)).view(-1, 1, 1)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision's rectangle and noise, the noise in grey levels (rounded, 0 to 255)."""
        params = super().make_params(flat_inputs)
        if params["v"] is not None:
            params["v"] = (params["v"] * self.std + self.mean).round_().clamp_(0, 255)
        return params


def classification_recipe(
    image_size: int = 224,
    *,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    magnitude: int = 9,
    operations: int = 2,
    operation_probability: float = 0.5,
    erasing: float = 0.25,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Tensor], Tensor]:
    """Random resized crop, flip, RandAugment, Random Erasing (GPPF sections 4.1 and D.1).

    The paper's hyper-parameters are "similar to ConvNeXt's", whose RandAugment applies two
    operations of magnitude 9 out of 10, each with probability 0.5, and fills with the mean colour.
    Left out are its noise on the magnitude (0.5) and bicubic resizing: crops are bilinear, as in
    the evaluation transform.

    Args:
        image_size: side S of the output, in pixels.
        crop_scale: range of the crop's area, as a share of the image's.
        magnitude: of RandAugment, 0 to 10.
        operations: how many times RandAugment may apply an operation; 0 leaves it out.
        operation_probability: probability of each of them.
        erasing: probability of Random Erasing.
        mean: per channel, RGB, in grey levels: fill of RandAugment, mean of the erasing noise.
        std: of the erasing noise.

    Returns:
        A transform of uint8 RGB [3, H, W] to uint8 RGB [3, S, S].

    Raises:
        ValueError: a magnitude that is not in 0 to 10.
    """
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude is {magnitude}; RandAugment's strength goes from 0 to 10.")
    one_operation = v2.RandAugment(
        num_ops=1,
        magnitude=magnitude,
        num_magnitude_bins=11,
        interpolation=InterpolationMode.BILINEAR,
        fill=[round(value) for value in mean],
    )
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=tuple(crop_scale)),
            v2.RandomHorizontalFlip(),
            *(v2.RandomApply([one_operation], operation_probability) for _ in range(operations)),
            NoiseErasing(erasing, mean, std),
        ]
    )


def contrastive_view(
    image_size: int = 224,
    *,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    color_strength: float = 1.0,
    blur_probability: float = 0.5,
) -> Callable[[Tensor], Tensor]:
    """One view of SimCLR: crop, flip, colour jitter, grey, blur.

    Args:
        image_size: side S of the output, in pixels; the blur's kernel is a tenth of it.
        crop_scale: range of the crop's area, as a share of the image's.
        color_strength: 1 jitters brightness, contrast and saturation by 0.8 and hue by 0.2.
        blur_probability: probability of the blur; 0.5 for ImageNet, 0 for images of 32 pixels.

    Returns:
        A transform of uint8 RGB [3, H, W] to uint8 RGB [3, S, S].
    """
    strong, hue = 0.8 * color_strength, min(0.2 * color_strength, 0.5)
    kernel = 2 * (image_size // 20) + 1
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=tuple(crop_scale)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(strong, strong, strong, hue)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], blur_probability),
        ]
    )
