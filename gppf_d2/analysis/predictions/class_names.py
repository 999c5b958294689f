"""Names and colours of classes, from the metadata of a dataset."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from detectron2.data import Metadata

# where the names of a kind's classes are looked for first
NAMES = {"instances": "thing_classes", "sem_seg": "stuff_classes"}


def class_name(metadata: Metadata, index: int, kind: str = "") -> str:
    """The name of a class, or "class 7" where the metadata has none; ``kind`` of the output tells
    which list of several is meant."""
    first = NAMES.get(kind, "classes")
    for key in sorted(("classes", "thing_classes", "stuff_classes"), key=lambda key: key != first):
        names = metadata.get(key) or ()
        if 0 <= index < len(names):
            return str(names[index])
    return f"class {index}"


def class_colors(count: int, given: Sequence[Sequence[int]] | None = None) -> list[tuple]:
    """RGB colours in [0, 1] for ``count`` classes: the given ones (0 to 255), or well-spread ones.

    Hues advance by the golden ratio and lightness takes three steps, so that neighbours differ in
    both.
    """
    if given and len(given) >= count:
        return [tuple(channel / 255 for channel in color) for color in given[:count]]
    return [
        colorsys.hls_to_rgb((0.58 + index * 0.618034) % 1, (0.52, 0.66, 0.38)[index % 3], 0.72)
        for index in range(count)
    ]
