"""Detectron2 augmentations of BTS' settings for KITTI depth (GPPF sections 4.3.1 and D.2).

With Detectron2's own, a 352 x 704 train sample is::

    BottomCenterCrop((352, 1216))
    T.RandomRotation([-1.0, 1.0], expand=False)
    T.RandomCrop("absolute", (352, 704))
    T.RandomFlip()
    GammaAndColor()

and an evaluation sample ``BottomCenterCrop((352, 1216))``, the part of a picture that KITTI's
benchmark takes. Images are uint8 [H, W, 3]; depth maps go the same way without being interpolated
(`gppf_d2.data.mappers.depth`).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T


class BottomCenterCrop(T.Augmentation):
    """The bottom of an image, in the middle from left to right; smaller sides stay as they are.

    Args:
        size: (height, width) in pixels.

    Raises:
        ValueError: a side that is not positive.
    """

    def __init__(self, size: Sequence[int] = (352, 1216)) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size is {tuple(size)}; give height and width in pixels.")
        self.size = tuple(size)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The crop of one image."""
        height, width = image.shape[:2]
        tall, wide = min(self.size[0], height), min(self.size[1], width)
        return T.CropTransform((width - wide) // 2, height - tall, wide, tall, width, height)


class GammaAndColor(T.Augmentation):
    """Gamma, brightness and a factor on each channel, all together with a probability.

    A grey level v becomes  255 (v / 255)^gamma x brightness x color_c,  rounded and clipped once.

    Args:
        probability: that an image is changed.
        gamma: range of the exponent.
        brightness: range of the factor on all channels.
        color: range of the factor on each channel.
    """

    def __init__(
        self,
        probability: float = 0.5,
        gamma: Sequence[float] = (0.9, 1.1),
        brightness: Sequence[float] = (0.9, 1.1),
        color: Sequence[float] = (0.9, 1.1),
    ) -> None:
        super().__init__()
        self.probability = probability
        self.gamma, self.brightness, self.color = tuple(gamma), tuple(brightness), tuple(color)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The change of one image; geometry and depth stay."""
        if np.random.rand() >= self.probability:
            return T.NoOpTransform()
        levels = np.linspace(0, 1, 256) ** np.random.uniform(*self.gamma)
        factors = np.random.uniform(*self.brightness) * np.random.uniform(*self.color, size=3)
        table = (255 * levels[:, None] * factors).round().clip(0, 255).astype(np.uint8)[None]
        return T.ColorTransform(lambda pixels: cv2.LUT(np.ascontiguousarray(pixels), table))
