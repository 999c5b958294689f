"""Run-length encoding of predicted masks inside their windows.

R masks of H x W pixels, most of them zero outside a small window. COCO's RLE counts along columns,
so encoding a whole mask costs a transposed copy of the image; here only the smallest window that
holds a mask is transposed, and its runs are shifted to their place in the image. The result is the
bytes that pycocotools writes, for masks of any model: the window is read from the mask, not from
the predicted box.
"""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util


def encode_masks(masks: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Encode binary masks as COCO's compressed RLE.

    Args:
        masks: bool, or uint8 with 0 and 1, [R, H, W].

    Returns:
        The "counts" of every mask, and the masks' areas in pixels, int64 [R].
    """
    masks = masks.view(np.uint8)
    height, width = masks.shape[1:]
    areas = np.zeros(len(masks), dtype=np.int64)
    encoded = []
    for index, (mask, rows) in enumerate(zip(masks, masks.max(axis=2))):
        changes = _changes(mask, np.flatnonzero(rows))
        areas[index] = changes[1::2].sum() - changes[0::2].sum()
        counts = np.diff(changes, prepend=0, append=height * width)
        if len(counts) > 1 and counts[-1] == 0:  # the last run reaches the last pixel
            counts = counts[:-1]
        runs = {"size": [height, width], "counts": counts.tolist()}
        encoded.append(mask_util.frPyObjects(runs, height, width)["counts"])
    return encoded, areas


def _changes(mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Positions, counted along columns, at which runs of ones start and end, in turn.

    Args:
        mask: uint8 [H, W].
        rows: the rows that are not all zero, ascending.
    """
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].max(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    # columns of the window as rows, with a zero before and after each
    window = np.zeros((right - left, bottom - top + 2), dtype=np.uint8)
    window[:, 1:-1] = mask[top:bottom, left:right].T
    changes = np.flatnonzero(window[:, 1:] != window[:, :-1])
    # a column has one place more for changes than rows in the window
    changes += changes // (bottom - top + 1) * (mask.shape[0] - (bottom - top + 1))
    changes += left * mask.shape[0] + top
    if bottom - top == mask.shape[0]:
        # a run that ends a column and one that starts the next are one run
        same = changes[1:] == changes[:-1]
        changes = changes[~(np.append(same, False) | np.insert(same, 0, False))]
    return changes
