"""Bit masks that hold each object's window instead of the whole image.

A 1024 x 1024 bit mask is one megabyte; an object covers a few per cent of it. ``WindowMasks`` is a
``BitMasks`` for whoever trains with it (Detectron2's ROI heads index, move, concatenate and crop
it), made of the tight windows alone: that is what a worker writes, sends to the training process
and copies to the device. Indexing selects rows and copies no pixel, so the repeated ground truth of
a hundred proposals costs a hundred integers, and ``crop_and_resize`` pastes every object once. Its
result is the one of ``BitMasks``, bit for bit. ``tensor`` pastes the full masks for code that asks
for them.

Shapes: N masks, G stored windows (N rows point into them), H W of the image, S a mask's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes
from torch import Tensor

# windows pasted at a time: 128 MB of float32 for 1024 x 1024
PASTED = 32


class Window(NamedTuple):
    """A small mask at an integer position of an image; empty ones have no pixels.

    Args:
        x: column of the window's left edge.
        y: row of its upper edge.
        mask: bool or 0/1 uint8 [h, w].
    """

    x: int
    y: int
    mask: np.ndarray

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the window covers."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def tight(window: Window) -> Window:
    """The same mask in the smallest window, contiguous and bool; [0, 0] where no pixel is set."""
    mask = np.ascontiguousarray(window.mask).view(np.uint8)
    x, y, w, h = cv2.boundingRect(mask) if mask.size else (0, 0, 0, 0)
    mask = np.ascontiguousarray(mask[y : y + h, x : x + w]).view(np.bool_)
    return Window(window.x + x, window.y + y, mask)


class WindowMasks(BitMasks):
    """The masks of the objects of one image, as windows.

    Args:
        windows: one per object, inside the image; they are made tight.
        image_size: (H, W) in pixels.
    """

    def __init__(self, windows: Sequence[Window], image_size: tuple[int, int]) -> None:
        windows = [tight(window) for window in windows]
        self.image_size = torch.Size(image_size)
        # [G, 4]: x, y, w, h; stays in the host's memory, as sizes are needed there
        self._table = np.array(
            [(x, y, m.shape[1], m.shape[0]) for x, y, m in windows], dtype=np.int64
        ).reshape(-1, 4)
        flat = [window.mask.ravel() for window in windows]
        self._pixels = torch.from_numpy(np.concatenate(flat or [np.zeros(0, np.bool_)]))
        self._rows = torch.arange(len(windows))

    @classmethod
    def from_bitmasks(cls, masks: BitMasks) -> WindowMasks:
        """The windows of full masks; ``WindowMasks`` come back as they are."""
        if isinstance(masks, WindowMasks):
            return masks
        windows = [Window(0, 0, mask) for mask in masks.tensor.cpu().numpy()]
        return cls(windows, tuple(masks.image_size)).to(masks.device)

    def _twin(self, pixels: Tensor, rows: Tensor) -> WindowMasks:
        """The same table of windows with other tensors."""
        twin = object.__new__(type(self))
        twin.image_size, twin._table = self.image_size, self._table
        twin._pixels, twin._rows = pixels, rows
        return twin

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> WindowMasks:
        """The same masks with a function applied to the tensors inside (pinning, copying)."""
        return self._twin(function(self._pixels), function(self._rows))

    def to(self, *args: Any, **kwargs: Any) -> WindowMasks:
        """The same masks on another device; arguments as of ``torch.Tensor.to``."""
        pixels = self._pixels.to(*args, **kwargs).to(torch.bool)
        return self._twin(pixels, self._rows.to(pixels.device))

    @property
    def device(self) -> torch.device:
        return self._pixels.device

    @property
    def tensor(self) -> Tensor:
        """The full masks, bool [N, H, W], pasted anew at every call."""
        full = self._paste(range(len(self._table)), tuple(self.image_size), torch.bool)
        return full[self._rows]

    def windows(self) -> Iterator[Window]:
        """The tight windows of the N masks, in order; the pixels are shared, not copied."""
        starts = self._starts
        pixels = self._pixels.cpu().numpy()
        for row in self._rows.tolist():
            x, y, w, h = self._table[row].tolist()
            yield Window(x, y, pixels[starts[row] : starts[row] + w * h].reshape(h, w))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def __getitem__(self, item: Any) -> WindowMasks:
        rows = self._rows[item]
        rows = rows[None] if isinstance(item, int) else rows
        assert rows.dim() == 1, f"indexing with {item} gives rows of shape {tuple(rows.shape)}"
        return self._twin(self._pixels, rows)

    def nonempty(self) -> Tensor:
        """Which masks have a pixel, bool [N]."""
        return torch.from_numpy(self._table[:, 2] > 0).to(self.device)[self._rows]

    def get_bounding_boxes(self) -> Boxes:
        """Tight boxes [N, 4] in the host's memory, as ``BitMasks`` gives them; 0 for empty ones."""
        corners = np.concatenate([self._table[:, :2], self._table[:, :2] + self._table[:, 2:]], 1)
        corners[self._table[:, 2] == 0] = 0
        return Boxes(torch.from_numpy(corners)[self._rows.cpu()].float())

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop each mask by its box and resize it, as the targets of a mask head.

        Only what lies above and left of the objects' far corners is pasted, each object once: the
        coordinates are the image's, so every number is the one that ``BitMasks`` computes.

        Args:
            boxes: float [N, 4], one per mask.
            mask_size: side S of the result.

        Returns:
            bool [N, S, S].
        """
        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        boxes = boxes.to(self.device)
        used, place = self._rows.unique(return_inverse=True)
        used = used.tolist()
        result = torch.zeros(len(self), mask_size, mask_size, dtype=torch.bool, device=self.device)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        for first in range(0, len(used), PASTED):
            group = used[first : first + PASTED]
            mine = ((place >= first) & (place < first + PASTED)).nonzero()[:, 0]
            corners = self._table[group, :2] + self._table[group, 2:]
            # one empty row and column where there is one: bilinear samples reach that far
            width, height = np.minimum(corners.max(0) + 1, self.image_size[::-1]).tolist()
            canvas = self._paste(group, (height, width), torch.float32)
            index = (place[mine] - first).to(boxes.dtype)[:, None]
            rois = torch.cat([index, boxes[mine]], dim=1)
            result[mine] = align(canvas[:, None], rois)[:, 0] >= 0.5
        return result

    def _paste(self, group: Sequence[int], size: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Some of the stored windows on canvases [len(group), *size]."""
        canvas = torch.zeros((len(group), *size), dtype=dtype, device=self.device)
        starts = self._starts
        for place, row in enumerate(group):
            x, y, w, h = self._table[row].tolist()
            pixels = self._pixels[starts[row] : starts[row] + w * h]
            canvas[place, y : y + h, x : x + w] = pixels.view(h, w)
        return canvas

    @property
    def _starts(self) -> np.ndarray:
        """Where each stored window begins in the pixels, [G]."""
        areas = self._table[:, 2] * self._table[:, 3]
        return np.cumsum(areas) - areas

    @staticmethod
    def cat(bitmasks_list: Sequence[BitMasks]) -> WindowMasks:
        """One after the other; all of one image size and on one device."""
        masks = [WindowMasks.from_bitmasks(one) for one in bitmasks_list]
        sizes = {tuple(one.image_size) for one in masks}
        assert len(sizes) == 1, f"masks of images of one size expected, got {sorted(sizes)}"
        firsts = np.cumsum([0, *(len(one._table) for one in masks)]).tolist()
        joined = masks[0]._twin(
            torch.cat([one._pixels for one in masks]),
            torch.cat([one._rows + first for one, first in zip(masks, firsts)]),
        )
        joined._table = np.concatenate([one._table for one in masks])
        return joined
