"""What a classifier says of an image: bars of the five most probable classes.

K classes. The true class is green and ticked; where it is not among the five it follows as a sixth
bar with its rank, so that a miss shows how far off it was.
"""

from __future__ import annotations

import numpy as np
from detectron2.data import Metadata
from matplotlib.axes import Axes

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure, style_axes, to_array
from gppf_d2.analysis.predictions.class_names import class_name

SHOWN = 5
ROWS = SHOWN + 1
LONGEST = 26  # letters of a name


def rank_of(scores: np.ndarray, label: int) -> int:
    """Place of a class among all, from 1; as in the evaluation, the lower index is ahead of equal
    scores, and NaN of everything."""
    others = np.delete(scores, label)
    ahead = (~(others <= scores[label])).sum() + (scores[:label] == scores[label]).sum()
    return int(ahead) + 1


def shortened(name: str, most: int = LONGEST) -> str:
    """A name of at most ``most`` letters."""
    return name if len(name) <= most else name[: most - 1].rstrip(" ,") + "…"


def bars_on(
    axes: Axes,
    scores: np.ndarray,
    metadata: Metadata,
    true_label: int | None = None,
    theme: Theme = LIGHT,
    size: float = 9,
) -> None:
    """Draw the bars.

    Args:
        axes: takes them, whatever its shape.
        scores: probabilities [K].
        metadata: names of the classes.
        true_label: class that is marked, if it is known.
        theme: colours.
        size: of the letters in points.
    """
    style_axes(axes, theme)
    shown = [int(index) for index in np.argsort(-scores, kind="stable")[:SHOWN]]
    if true_label is not None and true_label not in shown:
        shown.append(true_label)
    for row, index in enumerate(shown):
        true = index == true_label
        axes.barh(row, scores[index], height=0.36, color=theme.palette[2 if true else 0])
        rank = f" · rank {rank_of(scores, index):,}" if row == SHOWN else ""
        words = f"{shortened(class_name(metadata, index, 'classes'))}{' ✓' * true}{rank}"
        axes.text(0, row - 0.24, words, va="bottom", fontsize=size, color=theme.ink)
        axes.text(
            1, row - 0.24, f"{scores[index]:.1%}", va="bottom", ha="right", fontsize=size,
            color=theme.muted,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(ROWS - 0.75, -0.85), xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_classes(
    size: tuple[int, int], scores: np.ndarray, metadata: Metadata, true_label: int | None = None
) -> np.ndarray:
    """The bars as a picture, RGB uint8 of about ``size`` (height, width)."""
    height, width = _inches(size)
    figure = new_figure(width, height, LIGHT)
    bars_on(figure.add_subplot(), scores, metadata, true_label)
    return to_array(figure, dpi=100)


def draw_label(size: tuple[int, int], label: int, metadata: Metadata) -> np.ndarray:
    """The name of a class alone as a picture, RGB uint8 of about ``size`` (height, width)."""
    height, width = _inches(size)
    figure = new_figure(width, height, LIGHT)
    name = class_name(metadata, label)
    points = min(20.0, 72 * width / (0.72 * max(len(name), 1)))
    figure.text(0.5, 0.5, name, ha="center", va="center", fontsize=points, color=LIGHT.ink)
    return to_array(figure, dpi=100)


def _inches(size: tuple[int, int]) -> tuple[float, float]:
    return max(size[0] / 100, 2.2), max(size[1] / 100, 2.2)
