"""Detectron2 augmentations that the training settings of MMSegmentation need (GPPF section 4.1).

With Detectron2's own, a 512 x 512 train sample of ADE20K is::

    ResizeByRatio((2048, 512), (0.5, 2.0))
    T.RandomCrop_CategoryAreaConstraint("absolute", (512, 512), 0.75, 255)
    T.RandomFlip()
    PhotometricDistortion(image_format="RGB")
    PadToSize((512, 512), pad_value=pixel_mean)

All draw from numpy's global generator, as Detectron2's do. Images are uint8 [H, W, 3].
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

from gppf_d2.data.mappers.reading import check_image_format


class ResizeByRatio(T.Augmentation):
    """Resize to a random multiple of a base size, keeping the aspect ratio.

    The image becomes as large as fits: its longer side at most the longer one of base size x
    ratio, its shorter side at most the shorter one.

    Args:
        base_size: two sides in pixels, in any order.
        ratio_range: smallest and largest ratio, drawn uniformly; equal ones make a plain resize.

    Raises:
        ValueError: sides or ratios that are not positive, or a range upside down.
    """

    def __init__(
        self,
        base_size: Sequence[int] = (2048, 512),
        ratio_range: Sequence[float] = (0.5, 2.0),
    ) -> None:
        super().__init__()
        if len(base_size) != 2 or min(base_size) < 1:
            raise ValueError(f"base_size is {tuple(base_size)}; give two sides in pixels.")
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ValueError(
                f"ratio_range is {tuple(ratio_range)}; give the smallest and the largest ratio."
            )
        self.base_size, self.ratio_range = tuple(base_size), tuple(ratio_range)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The resize of one image."""
        height, width = image.shape[:2]
        ratio = np.random.uniform(*self.ratio_range)
        shorter, longer = sorted(int(side * ratio) for side in self.base_size)
        scale = min(longer / max(height, width), shorter / min(height, width))
        size = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, *size)


class PhotometricDistortion(T.Augmentation):
    """Brightness, contrast, saturation and hue, each changed with probability 0.5.

    Contrast comes before or after saturation and hue, with equal probability. After every step the
    image is uint8 again.

    Args:
        brightness: largest change, in grey levels.
        contrast: range of the factor on the pixels.
        saturation: range of the factor on the saturation.
        hue: largest change, in steps of 2 degrees.
        image_format: "RGB" or "BGR", the channel order of the images.
    """

    def __init__(
        self,
        brightness: float = 32,
        contrast: Sequence[float] = (0.5, 1.5),
        saturation: Sequence[float] = (0.5, 1.5),
        hue: int = 18,
        image_format: str = "RGB",
    ) -> None:
        super().__init__()
        self.brightness, self.hue = brightness, hue
        self.contrast, self.saturation = tuple(contrast), tuple(saturation)
        if check_image_format(image_format) == "RGB":
            self._codes = cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB
        else:
            self._codes = cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The changes of one image; geometry and labels stay."""
        levels = np.arange(256, dtype=np.float64)
        before: list[np.ndarray] = []
        after: list[np.ndarray] = []
        if _coin():
            before.append(levels + np.random.uniform(-self.brightness, self.brightness))
        side = before if _coin() else after
        if _coin():
            side.append(levels * np.random.uniform(*self.contrast))
        saturation = np.random.uniform(*self.saturation) if _coin() else 1.0
        hue = np.random.randint(-self.hue, self.hue + 1) if _coin() else 0

        def distort(pixels: np.ndarray) -> np.ndarray:
            for table in before:
                pixels = _looked_up(pixels, table)
            if saturation != 1 or hue:
                pixels = self._recoloured(pixels, saturation, hue)
            for table in after:
                pixels = _looked_up(pixels, table)
            return pixels

        return T.ColorTransform(distort)

    def _recoloured(self, pixels: np.ndarray, saturation: float, hue: int) -> np.ndarray:
        to_hsv, from_hsv = self._codes
        hsv = cv2.cvtColor(np.ascontiguousarray(pixels), to_hsv)
        levels = np.arange(256, dtype=np.float64)
        hsv[..., 0] = _looked_up(hsv[..., 0], (levels + hue) % 180)
        hsv[..., 1] = _looked_up(hsv[..., 1], levels * saturation)
        return cv2.cvtColor(hsv, from_hsv)


class PadToSize(T.Augmentation):
    """Pad at the right and at the bottom up to a size; larger images stay as they are.

    Args:
        size: (height, width) in pixels.
        pad_value: of the image, one number or one per channel in the image's order; with the pixel
            mean the padding is 0 after normalisation, as MMSegmentation's is.
        ignore_value: of the label map.
    """

    def __init__(
        self,
        size: Sequence[int],
        pad_value: float | Sequence[float] = 0,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        self.size, self.ignore_value = tuple(size), ignore_value
        self.pad_value = np.round(np.asarray(pad_value, dtype=np.float64))

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """The padding of one image."""
        height, width = image.shape[:2]
        bottom, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        if not bottom and not right:
            return T.NoOpTransform()
        return _Pad(
            0, 0, right, bottom, width, height, self.pad_value, seg_pad_value=self.ignore_value
        )


class _Pad(T.PadTransform):
    """Detectron2's padding, with one value per channel."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        height, width = img.shape[:2]
        shape = (height + self.y0 + self.y1, width + self.x0 + self.x1, *img.shape[2:])
        padded = np.empty(shape, dtype=img.dtype)
        padded[...] = self.pad_value
        padded[self.y0 : self.y0 + height, self.x0 : self.x0 + width] = img
        return padded


def _coin() -> bool:
    return bool(np.random.randint(2))


def _looked_up(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Every grey level replaced by its entry [256], rounded and clipped."""
    table = table.round().clip(0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(pixels), table)
