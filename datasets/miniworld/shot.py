"""One picture with its ground truth: draw a scene, drop what is hidden, render, list what is seen.

``shoot`` is the only place where geometry, style and annotation meet; ``formats`` writes its
results and knows nothing of rays.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from . import render, styles
from .render import GROUND, SKY, WALL
from .scene import CLASSES, STUFF, Scene, draw_scene

LEAST_VISIBLE = 0.35
LEAST_AREA = 0.004
OTHER = 255


@dataclasses.dataclass
class Seen:
    """An object as it appears in a picture."""

    category: int  # index into CLASSES
    mask: np.ndarray  # bool [H, W], its visible part
    box: tuple[int, int, int, int]  # (x0, y0, x1, y1) around the mask, x1 and y1 exclusive
    visible: float  # share that no other object hides
    crowd: bool = False  # a heap that is annotated as one

    @property
    def truncated(self) -> bool:
        """True where the object reaches the border of the picture."""
        height, width = self.mask.shape
        x0, y0, x1, y1 = self.box
        return x0 == 0 or y0 == 0 or x1 == width or y1 == height


@dataclasses.dataclass
class Shot:
    """A picture uint8 [H, W, 3] and its truth; ``focal`` in pixels."""

    picture: np.ndarray
    truth: render.Truth
    objects: list[Seen]
    focal: float

    @property
    def semantic(self) -> np.ndarray:
        """Class ids uint8 [H, W] in the order of ``STUFF``; 255 for the far hills."""
        surface = self.truth.surface
        result = np.full(surface.shape, OTHER, dtype=np.uint8)
        for value, name in ((GROUND, "ground"), (SKY, "sky"), (WALL, "wall")):
            result[surface == value] = STUFF.index(name)
        for seen in self.objects:
            result[seen.mask] = STUFF.index(CLASSES[seen.category])
        return result


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _seen(scene: Scene, truth: render.Truth) -> list[Seen]:
    objects = []
    heap = np.zeros(truth.surface.shape, dtype=bool)
    heap_category = 0
    for index, toy in enumerate(scene.toys):
        mask = truth.surface == index
        if toy.pile:
            heap |= mask
            heap_category = CLASSES.index(toy.shape)
        elif mask.any():
            category = CLASSES.index(toy.shape)
            objects.append(Seen(category, mask, _box(mask), truth.visible[index]))
    if heap.any():
        objects.append(Seen(heap_category, heap, _box(heap), 1.0, crowd=True))
    return objects


def _drop_hidden(scene: Scene) -> render.Truth:
    """Take toys that are hardly visible out of the scene; the truth of what is left."""
    truth = render.truth(scene)
    least = LEAST_AREA * truth.surface.size
    keep = [
        toy
        for index, toy in enumerate(scene.toys)
        if toy.pile
        or (
            truth.visible[index] >= LEAST_VISIBLE
            and np.count_nonzero(truth.surface == index) >= least
        )
    ]
    if len(keep) == len(scene.toys):
        return truth
    scene.toys = keep
    return render.truth(scene)


def shoot(
    rng: np.random.Generator,
    view: str,
    style: str,
    size: tuple[int, int],
    shapes: list[str],
    pile: bool = False,
) -> Shot:
    """Draw and render one scene.

    Args:
        rng: generator that belongs to this picture alone.
        view: "street", "road", "aerial" or "crop".
        style: a key of ``styles.STYLES``.
        size: width and height in pixels.
        shapes: classes of the toys; at least one of them is visible unless the list is empty.
        pile: also a heap of small toys.
    """
    for _ in range(50):
        scene = draw_scene(rng, view, *size, shapes, pile)
        truth = _drop_hidden(scene)
        if not shapes or any(not toy.pile for toy in scene.toys):
            break
    else:
        raise ValueError(
            f"no place for {shapes} in a picture of {size[0]} x {size[1]}; use a larger --size"
        )
    picture = styles.STYLES[style](render.light(scene), rng)
    return Shot(picture, truth, _seen(scene, truth), scene.camera.focal)
