"""Pixel maps as pictures: metres in a perceptual colour map, normals as colours of directions.

H, W size of a map. What is not known is grey; of labels, what is ignored is hatched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from gppf_d2.analysis.figures import LIGHT, to_array

DEPTH_COLORS = "magma_r"  # perceptually uniform, near is bright
INVERSE_DEPTH_COLORS = "magma"  # the same: large is near
UNKNOWN = (185, 190, 199)


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
) -> np.ndarray:
    """Metres as colours with a colour bar.

    Args:
        size: height and width of the picture.
        depth: [H, W] in metres; 0 and what is not finite is unknown.
        limits: metres of the bar's ends; None takes the map's own.

    Returns:
        RGB uint8 [height, width, 3].
    """
    low, high = limits or depth_limits([{"depth": depth}])
    depth = np.where((depth > 0) & np.isfinite(depth), depth, 0.0).astype(np.float32)
    depth = widened(depth)
    ends = (f"{low:.3g} m", f"{high:.3g} m")
    return _draw_map(size, depth, depth > 0, (low, high), ends, DEPTH_COLORS)


def draw_inverse_depth(size: tuple[int, int], values: np.ndarray) -> np.ndarray:
    """Relative inverse depth as colours with a colour bar from far to near.

    Args:
        size: height and width of the picture.
        values: [H, W], larger is nearer, known up to scale and shift; what is not finite is
            unknown.

    Returns:
        RGB uint8 [height, width, 3].
    """
    known = np.isfinite(values)
    values = np.where(known, values, 0.0).astype(np.float32)
    low, high = np.percentile(values[known], (2, 98)) if known.any() else (0.0, 1.0)
    limits = (float(low), float(high) if high > low else float(low) + 1.0)
    return _draw_map(size, values, known, limits, ("far", "near"), INVERSE_DEPTH_COLORS)


def _draw_map(
    size: tuple[int, int],
    values: np.ndarray,
    known: np.ndarray,
    limits: tuple[float, float],
    ends: tuple[str, str],
    colors: str,
) -> np.ndarray:
    """A map [H, W] as colours, with a colour bar whose ends have words."""
    height, width = size
    values, shown = (
        cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
        for part in (values, known.astype(np.uint8))
    )
    figure = Figure(figsize=(width / 100, height / 100))
    axes = figure.add_axes((0, 0, 1, 1), facecolor=[channel / 255 for channel in UNKNOWN])
    low, high = limits
    masked = np.ma.masked_where(shown == 0, values)
    picture = axes.imshow(masked, cmap=colors, vmin=low, vmax=high, interpolation="nearest")
    axes.set(xticks=[], yticks=[], aspect="auto")
    for spine in axes.spines.values():
        spine.set_visible(False)
    plate = figure.add_axes((0, 1 - 46 / height, 176 / width, 46 / height), facecolor="white")
    plate.set(xticks=[], yticks=[])
    scale = figure.add_axes((12 / width, 1 - 18 / height, 152 / width, 10 / height))
    color_bar = figure.colorbar(picture, cax=scale, orientation="horizontal")
    color_bar.set_ticks([low, high], labels=list(ends))
    color_bar.ax.tick_params(labelsize=11, colors=LIGHT.ink, length=0, pad=3)
    first, last = color_bar.ax.get_xticklabels()
    first.set_ha("left")
    last.set_ha("right")
    color_bar.outline.set_visible(False)
    for spine in plate.spines.values():
        spine.set_visible(False)
    return to_array(figure, dpi=100)


def widened(depth: np.ndarray) -> np.ndarray:
    """Metres [H, W] with the points of a laser wide enough to be seen: what is unknown (0) gets the
    mean of the known pixels within 1 / 500 of the width."""
    reach = depth.shape[1] // 500
    if not reach:
        return depth
    window = (2 * reach + 1, 2 * reach + 1)
    share, total = cv2.blur((depth > 0).astype(depth.dtype), window), cv2.blur(depth, window)
    around = np.divide(total, share, out=np.zeros_like(depth), where=share > 1e-6)
    return np.where(depth > 0, depth, around)


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


def draw_normals(size: tuple[int, int], normals: Any) -> np.ndarray:
    """Directions as colours; in a corner a ball that shows the colour of each.

    Args:
        size: height and width of the picture.
        normals: [3, H, W], (0, 0, 0) where there is none.

    Returns:
        RGB uint8 [height, width, 3].
    """
    colors = normal_colors(normals)
    colors = np.where(colors.any(-1, keepdims=True), colors, np.uint8(UNKNOWN))
    picture = cv2.resize(colors, size[::-1], interpolation=cv2.INTER_NEAREST)
    side = min(size) // 5
    y, x = 1.15 * np.mgrid[1 : -1 : side * 1j, -1 : 1 : side * 1j]
    radius = np.hypot(x, y)
    ball = normal_colors(np.stack([x, y, np.sqrt((1 - radius**2).clip(0))]))
    corner = picture[4 : 4 + side, 4 : 4 + side]
    corner[radius <= 1.15] = 255
    corner[radius <= 1] = ball[radius <= 1]
    return picture
