"""Pixel maps as pictures: metres in a perceptual colour map, normals as colours of directions.

H, W size of a map. What is not known is grey; of labels, what is ignored is hatched. A map covers
its picture wholly; the key to its colours is handed over beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import torch

from gppf_d2.analysis.predictions.keys import UNKNOWN, Scale
from gppf_d2.analysis.predictions.pictures import Drawn

DEPTH_COLORS = "magma_r"  # perceptually uniform, near is bright
INVERSE_DEPTH_COLORS = "magma"  # the same: large is near
BALL = 44  # pixels of the ball of all directions


def as_array(value: Any) -> np.ndarray:
    """A tensor or an array as an array on the CPU; tensors become float32."""
    return (
        value.detach().cpu().float().numpy()
        if isinstance(value, torch.Tensor)
        else np.asarray(value)
    )


def depth_limits(outputs: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """One scale for several depth maps: the 2nd and 98th percentile of all known metres."""
    known = [
        array[(array > 0) & np.isfinite(array)] for array in (as_array(o["depth"]) for o in outputs)
    ]
    values = np.concatenate([part.ravel() for part in known]) if known else np.empty(0)
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (2, 98))
    return float(low), float(max(high, low + 1e-3))


def draw_depth(
    size: tuple[int, int], depth: np.ndarray, limits: tuple[float, float] | None
) -> Drawn:
    """Metres as colours.

    Args:
        size: height and width of the picture.
        depth: [H, W] in metres; 0 and what is not finite is unknown.
        limits: metres of the scale's ends; None takes the map's own.

    Returns:
        RGB uint8 [height, width, 3] with its scale.
    """
    low, high = limits or depth_limits([{"depth": depth}])
    scale = Scale(low, high, (f"{low:.3g} m", f"{high:.3g} m"), DEPTH_COLORS)
    return Drawn(draw_map(size, depth, (depth > 0) & np.isfinite(depth), scale), scale)


def draw_inverse_depth(size: tuple[int, int], values: np.ndarray) -> Drawn:
    """Relative inverse depth as colours from far to near.

    Args:
        size: height and width of the picture.
        values: [H, W], larger is nearer, known up to scale and shift; what is not finite is
            unknown.

    Returns:
        RGB uint8 [height, width, 3] with its scale.
    """
    known = np.isfinite(values)
    low, high = np.percentile(values[known], (2, 98)) if known.any() else (0.0, 1.0)
    high = high if high > low else low + 1.0
    scale = Scale(float(low), float(high), ("far", "near"), INVERSE_DEPTH_COLORS)
    return Drawn(draw_map(size, values, known, scale), scale)


def draw_map(
    size: tuple[int, int], values: np.ndarray, known: np.ndarray, scale: Scale
) -> np.ndarray:
    """A map as colours.

    Args:
        size: height and width of the picture.
        values: [H, W]; single points of large maps are widened.
        known: where they are to be seen, bool [H, W].
        scale: their colours.

    Returns:
        RGB uint8 [height, width, 3].
    """
    values, known = widened(np.where(known, values, 0).astype(np.float32), known)
    values, known = (
        cv2.resize(part, size[::-1], interpolation=cv2.INTER_NEAREST)
        for part in (values, known.astype(np.uint8))
    )
    return scale.paint(values, known > 0)


def widened(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values [H, W] with the points of a laser wide enough to be seen: what is not known gets the
    mean of the known pixels within 1 / 500 of the width.

    Args:
        values: 0 where they are not known.
        known: bool [H, W].

    Returns:
        Values and known, both [H, W].
    """
    reach = values.shape[1] // 500
    if not reach:
        return values, known
    window = (2 * reach + 1, 2 * reach + 1)
    share, total = cv2.blur(known.astype(values.dtype), window), cv2.blur(values, window)
    near = share > 1e-6
    around = np.divide(total, share, out=np.zeros_like(values), where=near)
    return np.where(known, values, around), known | near


def hatched(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] whose masked pixels [H, W] are darkened under diagonal stripes."""
    rows, columns = np.nonzero(mask)
    stripes = ((rows + columns) // 4 % 3 == 0)[:, None]
    dark = (0.25 * picture[mask]).astype(np.uint8)
    result = picture.copy()
    result[mask] = np.where(stripes, np.uint8(UNKNOWN) // 2 + dark, dark)
    return result


def normal_colors(normals: Any) -> np.ndarray:
    """Unit vectors [3, H, W] as uint8 [H, W, 3]: (n + 1) / 2 x 255, black where there is none."""
    vectors = np.nan_to_num(np.moveaxis(as_array(normals), 0, -1))
    colors = ((vectors + 1) * 127.5).round().clip(0, 255)
    return np.where(vectors.any(-1, keepdims=True), colors, 0).astype(np.uint8)


def draw_normals(size: tuple[int, int], normals: Any) -> Drawn:
    """Directions as colours; the key is a ball that shows the colour of each.

    Args:
        size: height and width of the picture.
        normals: [3, H, W], (0, 0, 0) where there is none.

    Returns:
        RGB uint8 [height, width, 3] with its key.
    """
    colors = normal_colors(normals)
    colors = np.where(colors.any(-1, keepdims=True), colors, np.uint8(UNKNOWN))
    picture = cv2.resize(colors, size[::-1], interpolation=cv2.INTER_NEAREST)
    y, x = np.mgrid[1 : -1 : BALL * 1j, -1 : 1 : BALL * 1j]
    inside = np.hypot(x, y) <= 1
    ball = normal_colors(np.stack([x, y, np.sqrt((1 - x**2 - y**2).clip(0))]))
    return Drawn(picture, (np.dstack([ball, np.uint8(255) * inside]), "directions"))
