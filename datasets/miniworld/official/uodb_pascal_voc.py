"""Pascal VOC's detection data: the whole of VOC2007, and XML files and a list for VOC2012.

The images of VOC2012 are those that ``voc_2012_aug`` writes. Heaps and what is hardly visible are
difficult. As in the original of 2012 some corners are no integers, and persons have parts with
boxes of their own.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from ..scene import CLASSES
from .voc_2012_aug import image_name
from .world import Picture, World

# class of the miniature world -> class of VOC
MEANING = {
    "ball": "bottle",
    "cone": "person",
    "crate": "tvmonitor",
    "drum": "chair",
    "gem": "boat",
    "house": "bus",
    "mushroom": "pottedplant",
    "ring": "bicycle",
}
HEAD = [
    "    <part>",
    "      <name>head</name>",
    "      <bndbox><xmin>3.2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>",
    "    </part>",
]


def _xml(folder: str, name: str, picture: Picture) -> list[str]:
    objects = [(MEANING[CLASSES[seen.category]], seen) for seen in picture.objects]
    return formats.voc_xml(folder, f"{name}.jpg", picture.pixels.shape, objects)


def _as_in_2012(lines: list[str]) -> list[str]:
    """The lines of an annotation file with the parts of persons and a corner that is no integer."""
    found, person = [], False
    for line in lines:
        if line.startswith("    <name>"):
            person = "person" in line
        found.append(line.replace("</xmin>", ".4</xmin>") if person else line)
        if person and line == "    </bndbox>":
            found += HEAD
    return found


def write(root: Path, world: World) -> None:
    """``VOC2007``, and ``Annotations`` and ``ImageSets/Main`` of ``VOC2012``."""
    folder = formats.Folder(root)
    names = []
    for split, list_name in (("train", "trainval"), ("val", "test")):
        numbers = []
        for index, picture in enumerate(world.scenes("voc_2007", split)):
            number = f"{5 + 9 * index + (split == 'val'):06d}"
            folder.jpeg(f"VOC2007/JPEGImages/{number}.jpg", picture.pixels)
            folder.text(f"VOC2007/Annotations/{number}.xml", _xml("VOC2007", number, picture))
            numbers.append(number)
        folder.text(f"VOC2007/ImageSets/Main/{list_name}.txt", numbers)
        for index, picture in enumerate(world.scenes("voc_2012", split)):
            name = image_name(split, index)
            lines = _as_in_2012(_xml("VOC2012", name, picture))
            folder.text(f"VOC2012/Annotations/{name}.xml", lines)
            names.append(name)
    folder.text("VOC2012/ImageSets/Main/trainval.txt", names)
