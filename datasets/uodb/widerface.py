"""WiderFace: faces, 12,880 images to train; its validation set, 3,226 images, tests.

The labels of the official test set are not public, so UODB tests on the validation set. Faces that
WiderFace marks as invalid are difficult; all others count, however small (the three levels of its
own evaluation are not applied). A few faces have no width or height and are dropped, and a few
images have no face: they stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing import need, read_text

from .boxes_json import BoxesJson, image_sizes, output

FOLDER = "widerface"
CLASSES = ("face",)
SOURCE = (
    "unpack WIDER_train.zip, WIDER_val.zip and wider_face_split.zip "
    "(http://shuoyang1213.me/WIDERFACE/) there"
)
FIELDS, INVALID = 10, 7
Faces = list[tuple[float, float, float, float, bool]]


def read_list(path: Path) -> dict[str, Faces]:
    """Path of every image -> its faces as (x, y, width, height, whether it is invalid).

    An image is a line with its path, one with the number of faces and one for every face; without
    a face there is a line of zeros.

    Raises:
        ValueError: the list is damaged or ends too early.
    """
    lines = read_text(path).splitlines()
    found: dict[str, Faces] = {}
    at = 0
    try:
        while at < len(lines):
            name, count = lines[at].strip(), int(lines[at + 1])
            rows = [_face(line) for line in lines[at + 2 : at + 2 + max(count, 1)]]
            if not name.endswith(".jpg") or len(rows) < max(count, 1):
                raise ValueError
            found[name] = rows[:count]
            at += 2 + len(rows)
    except (IndexError, ValueError):
        raise ValueError(
            f"'{path}' is damaged near line {min(at + 1, len(lines))}, expected an image, the "
            f"number of its faces and {FIELDS} numbers for each; {SOURCE}"
        ) from None
    return found


def _face(line: str) -> tuple[float, float, float, float, bool]:
    values = [float(value) for value in line.split()]
    if len(values) != FIELDS:
        raise ValueError
    return (*values[:4], values[INVALID] == 1)


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    home = need(chosen.root / FOLDER, SOURCE)
    for split, name in (("train", "train"), ("test", "val")):
        path = home / "wider_face_split" / f"wider_face_{name}_bbx_gt.txt"
        faces = read_list(need(path, SOURCE))
        images = f"WIDER_{name}/images"
        sizes = image_sizes(home / images, list(faces), chosen.workers, chosen.partial)
        content = BoxesJson(CLASSES)
        for file, size in sizes.items():
            image_id = content.add_image(f"{FOLDER}/{images}/{file}", *size)
            for x, y, width, height, invalid in faces[file]:
                content.add_box(image_id, 0, x, y, x + width, y + height, difficult=invalid)
        content.write(output(chosen.root, "widerface", split))
