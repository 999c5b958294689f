"""MixUp and CutMix of a classification batch (GPPF sections 4.1 and D.1), by torchvision v2.

Shapes: B samples, images [3, S, S]. torchvision mixes labels as one-hot vectors [B, K], for
ImageNet-21K 4 MB a batch. Here it is given the sample's number as its label and B as the number of
classes: what comes back is the exact mixing matrix [B, B], of which two entries a row are not 0. A
mixed sample has, in place of "label", plain numbers:

    labels          (first, second), the labels of the two samples
    label_weights   (w, 1 - w), their shares
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2


class MixUpCutMix:
    """Mix every sample of a batch with its neighbour, by MixUp or by CutMix.

    One kind and one strength is drawn per batch, from torch's global generator. Images stay uint8
    (MixUp rounds to the nearest grey level), so that a batch crosses processes at a byte a value.

    Args:
        mixup_alpha: both parameters of the Beta distribution of MixUp's share; 0 is no MixUp.
        cutmix_alpha: the same for the area that CutMix leaves; 0 is no CutMix.
        switch_probability: probability of CutMix where both are on.
        probability: that a batch is mixed at all.

    Raises:
        ValueError: a negative alpha, both 0, or a probability that is none.
    """

    def __init__(
        self,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        switch_probability: float = 0.5,
        probability: float = 1.0,
    ) -> None:
        if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
            raise ValueError(
                f"mixup_alpha is {mixup_alpha} and cutmix_alpha {cutmix_alpha}; none may be "
                "negative and one must be positive, leave the batch transform out to mix nothing."
            )
        for name, value in (
            ("switch_probability", switch_probability),
            ("probability", probability),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be from 0 to 1.")
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.switch_probability, self.probability = switch_probability, probability

    def __call__(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Mix a batch.

        Args:
            samples: with "image" [3, S, S] of one size and dtype, and "label", a whole number (-1
                for "no label").

        Returns:
            The samples with "image", "labels" and "label_weights" (see the module); the samples as
            they are where nothing is mixed, and a batch of one.

        Raises:
            ValueError: images of different sizes, a label that is missing or not a number.
        """
        labels = [_label(sample) for sample in samples]
        images = _stack([sample["image"] for sample in samples])
        if len(samples) < 2 or float(torch.rand(())) >= self.probability:
            return list(samples)
        images, matrix = mix(self._draw(len(samples)), images)
        weights, partners = matrix.topk(2, dim=1)
        mixed = []
        for sample, image, row, pair in zip(samples, images, weights.tolist(), partners.tolist()):
            rest = {key: value for key, value in sample.items() if key != "label"}
            mixed.append(
                {
                    **rest,
                    "image": image,
                    "labels": tuple(labels[index] for index in pair),
                    "label_weights": tuple(row),
                }
            )
        return mixed

    def _draw(self, count: int) -> v2.MixUp | v2.CutMix:
        """The kind for this batch of ``count`` samples."""
        cut = self.cutmix_alpha > 0 and (
            self.mixup_alpha == 0 or float(torch.rand(())) < self.switch_probability
        )
        if cut:
            return v2.CutMix(alpha=self.cutmix_alpha, num_classes=count)
        return v2.MixUp(alpha=self.mixup_alpha, num_classes=count)


def mix(kind: v2.MixUp | v2.CutMix, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mix a batch of images and keep track of who is in whom.

    Args:
        kind: with B as its number of classes.
        images: [B, 3, S, S].

    Returns:
        Images [B, 3, S, S] of the same dtype, and the mixing matrix [B, B]: row i holds the share
        of every sample in image i.
    """
    numbers = torch.arange(len(images))
    if images.is_floating_point() or isinstance(kind, v2.CutMix):
        return kind(images, numbers)
    mixed, matrix = kind(images.float(), numbers)
    return mixed.round_().to(images.dtype), matrix


def _label(sample: dict[str, Any]) -> int:
    label = sample.get("label")
    if isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(
            f"'{sample.get('file_name')}' has label {label!r}; MixUp and CutMix mix samples of "
            "classification, whose label is one whole number"
        )
    return label


def _stack(images: Sequence[Tensor]) -> Tensor:
    kinds = sorted({(tuple(image.shape), str(image.dtype)) for image in images})
    if len(kinds) > 1:
        (one, kind), (other, other_kind) = kinds[0], kinds[-1]
        raise ValueError(
            f"MixUp and CutMix got images {list(one)} ({kind}) and {list(other)} ({other_kind}) in "
            "one batch; let the mapper's transform end in a crop to one size"
        )
    return torch.stack(list(images))
