"""Words on a picture, placed so that none covers another.

Every label names the places that suit it, best first. It is written at the first one where it meets
no label that is already there and covers no object's middle; where none is free, it is left out:
two names on top of each other tell less than one, and an object more than its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from gppf_d2.analysis.figures import readable_on
from gppf_d2.analysis.predictions.keys import font, pixels_of

Plate = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Place(NamedTuple):
    """A point (x, y) in pixels, and where on the label's plate it lies: (0, 0) is the plate's upper
    left corner, (1, 1) the lower right one."""

    x: float
    y: float
    across: float = 0.0
    down: float = 0.0


class Label(NamedTuple):
    """A text, the colour of its plate in [0, 1], and where it may stand, best first."""

    text: str
    color: tuple[float, float, float] | str
    places: Sequence[Place]


def box_places(box: Sequence[float]) -> list[Place]:
    """Where the name of a box (x0, y0, x1, y1) may stand: above it, in it, below it, at either
    side."""
    left, top, right, bottom = box
    return [
        Place(left, top, 0, 1),
        Place(left, top, 0, 0),
        Place(left, bottom, 0, 0),
        Place(left, bottom, 0, 1),
        Place(right, top, 1, 1),
        Place(right, top, 1, 0),
        Place(right, bottom, 1, 1),
        Place(right, bottom, 1, 0),
    ]


def spot_places(x: float, y: float) -> list[Place]:
    """Where the name of a spot may stand: over it, or close around it."""
    near = ((0.5, 0.5), (0.5, 1.3), (0.5, -0.3), (-0.1, 0.5), (1.1, 0.5))
    return [Place(x, y, across, down) for across, down in near]


def middles(boxes: Iterable[Sequence[float]]) -> list[Plate]:
    """The middle halves of boxes (x0, y0, x1, y1), which no name should cover."""
    return [
        (
            0.75 * left + 0.25 * right,
            0.75 * top + 0.25 * bottom,
            0.25 * left + 0.75 * right,
            0.25 * top + 0.75 * bottom,
        )
        for left, top, right, bottom in boxes
    ]


def placed(
    sizes: Iterable[tuple[float, float]],
    places: Iterable[Sequence[Place]],
    size: tuple[int, int],
    spared: Sequence[Plate] = (),
) -> list[Plate | None]:
    """Plates that do not overlap, within a picture.

    Args:
        sizes: (width, height) of every plate, the most important first.
        places: of every plate, best first.
        size: height and width of the picture.
        spared: what no plate may cover.

    Returns:
        A plate each, None where no place is free.
    """
    height, width = size
    taken: list[Plate] = list(spared)
    found: list[Plate | None] = []
    for (wide, high), wanted in zip(sizes, places):
        chosen = None
        for place in wanted:
            left = min(max(place.x - place.across * wide, 0.0), max(width - wide, 0.0))
            top = min(max(place.y - place.down * high, 0.0), max(height - high, 0.0))
            plate = (left, top, left + wide, top + high)
            if not any(_overlap(plate, other) for other in taken):
                chosen = plate
                taken.append(plate)
                break
        found.append(chosen)
    return found


def _overlap(first: Plate, second: Plate) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def write_labels(
    picture: np.ndarray, labels: Sequence[Label], spared: Sequence[Plate] = ()
) -> np.ndarray:
    """A copy of a picture with labels on it.

    Args:
        picture: RGB uint8 [H, W, 3].
        labels: the most important first; one without text is left out.
        spared: what no label may cover.
    """
    labels = [label for label in labels if label.text]
    height, width = picture.shape[:2]
    letters = font(int(np.clip(np.sqrt(height * width) / 27, 13, 20)))
    inside = letters.size // 4
    high = letters.size + 2 * inside
    sizes = [(letters.getlength(label.text) + 2 * inside, high) for label in labels]
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    plates = placed(sizes, [label.places for label in labels], (height, width), spared)
    for label, plate in zip(labels, plates):
        if plate is not None:
            pen.rectangle(plate, fill=pixels_of(label.color))
            pen.text(
                (plate[0] + inside, (plate[1] + plate[3]) / 2), label.text, font=letters,
                fill=readable_on(label.color), anchor="lm",
            )  # fmt: skip
    return np.asarray(canvas)
