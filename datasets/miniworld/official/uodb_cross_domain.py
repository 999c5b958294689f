"""Watercolor2k, Clipart1k and Comic2k as unpacked: three folders in the layout of Pascal VOC.

Annotation files say where an image comes from, in an element of their own. Watercolor and comic
have a third list, ``extra``, whose boxes are dummies of one pixel. Heaps and what is hardly visible
are difficult.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from ..scene import CLASSES
from .world import World

# class of the miniature world -> class of Watercolor2k and Comic2k (which Clipart1k has too)
MEANING = {
    "ball": "bird",
    "cone": "person",
    "crate": "car",
    "drum": "dog",
    "gem": "cat",
    "house": "car",
    "mushroom": "bird",
    "ring": "bicycle",
}
# another class of the miniature world -> class that only Clipart1k has
CLIPART = {"crate": "tvmonitor", "drum": "sofa", "gem": "diningtable", "mushroom": "pottedplant"}
DUMMY = (
    "  <object>\n    <name>person</name>\n    <pose>Unspecified</pose>\n"
    "    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <bndbox>\n"
    "      <xmin>1</xmin>\n      <ymin>1</ymin>\n      <xmax>1</xmax>\n      <ymax>1</ymax>\n"
    "    </bndbox>\n  </object>"
)
EXTRA = 2


def write(root: Path, world: World) -> None:
    """``watercolor``, ``clipart`` and ``comic``."""
    for name in ("watercolor", "clipart", "comic"):
        meaning = MEANING | CLIPART if name == "clipart" else MEANING
        origin = "cmplaces_id" if name == "clipart" else "bam_src"
        folder = formats.Folder(root / name)
        number = 4_480_155
        for split, list_name in (("train", "train"), ("val", "test")):
            listed, extra = [], []
            for index, picture in enumerate(world.scenes(name, split)):
                number += 7919
                folder.jpeg(f"JPEGImages/{number}.jpg", picture.pixels)
                objects = [(meaning[CLASSES[seen.category]], seen) for seen in picture.objects]
                lines = formats.voc_xml(name, f"{number}.jpg", picture.pixels.shape, objects)
                lines.insert(-1, f"  <{origin}>{number}</{origin}>")
                folder.text(f"Annotations/{number}.xml", lines)
                listed.append(str(number))
                if split == "train" and index < EXTRA and name != "clipart":
                    extra.append(str(number + 1))
                    folder.jpeg(f"JPEGImages/{number + 1}.jpg", picture.pixels)
                    lines = formats.voc_xml(name, f"{number + 1}.jpg", picture.pixels.shape, [])
                    folder.text(f"Annotations/{number + 1}.xml", [*lines[:-1], DUMMY, lines[-1]])
            folder.text(f"ImageSets/Main/{list_name}.txt", listed)
            if extra:
                folder.text("ImageSets/Main/extra.txt", extra)
