"""WiderFace as unpacked: images by event, and a text file of all faces of a split.

What is round is a face. Heaps are invalid; the first image has a face without width, one that
leaves the image, and lines end in a space; an image without a face has a line of zeros: as in the
original.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from ..scene import CLASSES
from .world import Picture, World

FACES = ("ball", "drum", "gem", "mushroom", "ring")
EVENTS = ("0--Parade", "1--Handshaking")


def _faces(picture: Picture, first: bool) -> list[str]:
    height, width = picture.pixels.shape[:2]
    lines = []
    for seen in picture.objects:
        if seen.crowd or CLASSES[seen.category] in FACES:
            x0, y0, x1, y1 = seen.box
            state = f"1 0 0 {int(seen.crowd)} {int(seen.visible < 0.95)} 0 "
            lines.append(f"{x0} {y0} {x1 - x0} {y1 - y0} {state}")
    if first:
        lines.append(f"{width // 2} 7 0 13 2 0 0 1 2 0 ")
        lines.append(f"{width - 9} {height - 11} 20 16 0 0 0 0 0 0 ")
    return lines


def write(root: Path, world: World) -> None:
    """``widerface``."""
    folder = formats.Folder(root / "widerface")
    for split in ("train", "val"):
        lines = []
        for index, picture in enumerate(world.scenes("widerface", split)):
            event = EVENTS[index % len(EVENTS)]
            number, _, name = event.partition("--")
            name = f"{event}/{number}_{name}_marchingband_1_{17 * index + 5}.jpg"
            folder.jpeg(f"WIDER_{split}/images/{name}", picture.pixels)
            faces = _faces(picture, index == 0)
            lines += [name, str(len(faces)), *(faces or ["0 0 0 0 0 0 0 0 0 0 "])]
        folder.text(f"wider_face_split/wider_face_{split}_bbx_gt.txt", lines)
