"""Samples for self-supervision: two views of an image, for any dataset with images.

Shapes: S, side of a view in pixels. Labels and annotations of the record stay behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gppf_d2.data.image_transforms import contrastive_view
from gppf_d2.data.mappers.reading import check_image_format, read_image

_KEPT = ("file_name", "image_id", "height", "width")


class TwoViewsMapper:
    """Read an image and transform it twice. For training; ``ClassificationMapper`` evaluates.

    Args:
        image_size: side S of the views of the default transform, in pixels.
        image_format: "RGB" or "BGR", the channel order of the views. The transform always sees RGB.
        transform: callable on uint8 RGB [3, H, W] that replaces SimCLR's
            (``image_transforms.contrastive_view``); its draws must come from the global generators,
            and its outputs must have one size.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        image_format: str = "RGB",
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.image_format = check_image_format(image_format)
        self.transform = transform or contrastive_view(image_size)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: with "file_name".

        Returns:
            "file_name", "image_id" (if given), "height" and "width" of the record, and "views"
            uint8 [2, 3, S, S].

        Raises:
            OSError: the image cannot be read.
        """
        record = dict(record)  # its size is filled in
        # copied: what PIL hands out is read-only, and in-place transforms write
        image = torch.from_numpy(read_image(record, "RGB").transpose(2, 0, 1).copy())
        views = torch.stack([self.transform(image), self.transform(image)])
        if self.image_format == "BGR":
            views = views.flip(1)
        return {key: record[key] for key in _KEPT if key in record} | {"views": views}
