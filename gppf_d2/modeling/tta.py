"""Test-time augmentation of semantic segmentation: probabilities averaged over scales and flips.

An augmentation is a callable (inference, samples) -> outputs, inference being samples -> outputs of
a head; ``Evaluation.tta`` of a task takes the lazy config of any. Scales multiply the size that the
evaluation mapper gave the image, and each output comes back at the size of the file, so that the
head does not know about it. With k scales and flips an image costs about 2 sum(scale^2) images: 23
for the six scales of the default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Samples = list[dict[str, Any]]
Inference = Callable[[Samples], list[dict[str, Any]]]


def augmented(
    inference: Inference, tta: Callable[[Inference, Samples], list[dict[str, Any]]] | None
) -> Inference:
    """A head's inference under a test-time augmentation; None leaves it as it is."""
    return inference if tta is None else functools.partial(tta, inference)


class SemanticTTA:
    """The mean class probabilities over scaled and mirrored copies of an image.

    Args:
        scales: factors on the image's sides.
        flip: also take each copy's mirror image.

    Raises:
        ValueError: no scale, or one that is not positive.
    """

    def __init__(
        self, scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip: bool = True
    ) -> None:
        if not len(scales) or min(scales) <= 0:
            raise ValueError(f"scales is {tuple(scales)}; give one or more positive factors.")
        self.scales, self.flip = tuple(scales), flip

    @torch.no_grad()
    def __call__(self, inference: Inference, samples: Sequence[Mapping[str, Any]]) -> list[dict]:
        """Run a head several times and average.

        Args:
            inference: samples -> outputs with logits "sem_seg" [K, height, width].
            samples: with "image" [3, H, W]; "height" and "width" are the size of the result, H and
                W where they are not given.

        Returns:
            Per sample {"sem_seg": probabilities [K, height, width]}, float32.

        Raises:
            ValueError: outputs of another kind.
        """
        sums: list[Tensor | None] = [None] * len(samples)
        for scale in self.scales:
            scaled = [_scaled(sample, scale) for sample in samples]
            for mirrored in (False, True) if self.flip else (False,):
                if mirrored:
                    scaled = [{**one, "image": one["image"].flip(-1)} for one in scaled]
                for index, output in enumerate(inference(scaled)):
                    probabilities = _probabilities(output)
                    if mirrored:
                        probabilities = probabilities.flip(-1)
                    total = sums[index]
                    sums[index] = probabilities if total is None else total.add_(probabilities)
        count = len(self.scales) * (1 + self.flip)
        return [{"sem_seg": total / count} for total in sums]


def _scaled(sample: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The image at another size, and what the result's size depends on."""
    image = sample["image"]
    height, width = image.shape[-2:]
    size = {"height": sample.get("height", height), "width": sample.get("width", width)}
    if scale != 1:
        image = F.interpolate(
            image[None].float(),
            [max(1, round(side * scale)) for side in (height, width)],
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )[0]
    return {"image": image, **size}


def _probabilities(output: Mapping[str, Any]) -> Tensor:
    if set(output) != {"sem_seg"}:
        raise ValueError(
            f"SemanticTTA averages outputs with 'sem_seg' alone, this head gives {sorted(output)}; "
            "leave tta out of its evaluation."
        )
    return output["sem_seg"].float().softmax(dim=0)
