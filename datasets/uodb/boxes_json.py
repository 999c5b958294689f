"""What the sets of UODB have in common: boxes as a JSON in COCO's layout, VOC's XML, image sizes.

Boxes are (x0, y0, x1, y1) in pixels from the upper left corner of the image, edges rather than
pixels: x1 - x0 is the width. In the JSON a file name is relative to the folder of the datasets and
category ids are 1 to K in the order of the classes. Every annotation has ``difficult``; what is
difficult is neither trained on nor counted and has ``iscrowd`` 1 as well, which is what readers of
COCO's layout go by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from downloads import judge_missing
from PIL import Image
from preparing import spread, whole_file

Box = tuple[str, float, float, float, float, bool]


class BoxesJson:
    """Images and their boxes, gathered in memory and written at once.

    ``counts`` says how many boxes were kept, are difficult, were clipped or dropped; a module may
    count what else it left out.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.counts: Counter[str] = Counter()
        self._images: list[dict] = []
        self._annotations: list[dict] = []

    def add_image(self, file_name: str, width: int, height: int) -> int:
        """Add an image; its file name is relative to the folder of the datasets.

        Returns:
            The id for ``add_box``: 1 for the first image, and so on.
        """
        number = len(self._images) + 1
        self._images.append(
            {"id": number, "file_name": file_name, "width": width, "height": height}
        )
        return number

    def add_box(
        self,
        image_id: int,
        category_index: int,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        difficult: bool = False,
    ) -> None:
        """Add an object; its box is clipped to the image, and dropped where no area is left.

        Args:
            image_id: what ``add_image`` returned.
            category_index: position in ``classes``.
            x0, y0, x1, y1: edges in pixels, from 0.
            difficult: neither train on it nor count it.
        """
        assert 0 <= category_index < len(self.classes), f"no class {category_index}"
        image = self._images[image_id - 1]
        edges = (max(x0, 0), max(y0, 0), min(x1, image["width"]), min(y1, image["height"]))
        # in hundredths of a pixel, so that no edge leaves the image by rounding
        left, top, right, low = (round(edge, 2) for edge in edges)
        if not (left < right and top < low):
            self.counts["dropped, without area"] += 1
            return
        self.counts["boxes"] += 1
        self.counts["of them difficult"] += difficult
        self.counts["clipped to their image"] += edges != (x0, y0, x1, y1)
        box = [left, top, round(right - left, 2), round(low - top, 2)]
        self._annotations.append(
            {
                "id": len(self._annotations) + 1,
                "image_id": image_id,
                "category_id": category_index + 1,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": int(difficult),
                "difficult": int(difficult),
            }
        )

    def write(self, path: Path) -> None:
        """Write the JSON, or leave the file alone where it holds the same; print what is in it.

        Raises:
            ValueError: there is no image.
        """
        if not self._images:
            raise ValueError(f"there is no image for '{path}'; complete the download")
        categories = [{"id": k, "name": name} for k, name in enumerate(self.classes, start=1)]
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        text = json.dumps(content, separators=(",", ":"))
        same = path.is_file() and path.read_text() == text
        if not same:
            with whole_file(path) as part:
                part.write_text(text)
        facts = [f"{len(self._images):,} images", f"{self.counts['boxes']:,} boxes"]
        facts += [f"{n:,} {what}" for what, n in self.counts.items() if n and what != "boxes"]
        print(f"'{path}'{' is up to date' if same else ''}: {', '.join(facts)}")


def output(root: Path, name: str, split: str) -> Path:
    """Path of the JSON of a set, ``split`` is "train" or "test"."""
    assert split in ("train", "test"), split
    return root / "uodb" / "annotations" / f"{name}_{split}.json"


def read_voc_xml(path: Path) -> tuple[int, int, list[Box]]:
    """An annotation file of Pascal VOC.

    VOC counts pixels from 1 and names the last one of a box; the boxes returned are edges from 0.

    Returns:
        Width and height of the image in pixels, and of every object
        (name, x0, y0, x1, y1, difficult).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or lacks a size, a name or a box.
    """
    try:
        tree = ElementTree.parse(path)
        width, height = (int(float(tree.findtext(f"size/{key}"))) for key in ("width", "height"))
        boxes = []
        for entry in tree.findall("object"):
            name = entry.findtext("name").strip()
            x0, y0, x1, y1 = (
                float(entry.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            difficult = bool(int(entry.findtext("difficult", "0")))
            boxes.append((name, x0 - 1, y0 - 1, x1, y1, difficult))
    except (ElementTree.ParseError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no annotation file of VOC ({error}); restore the original"
        ) from error
    return width, height, boxes


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the head of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"'{path}' is damaged ({error}); restore the original") from error


def present(folder: Path, names: Sequence[str], partial: bool) -> list[str]:
    """The images that are there, in the order of their names.

    Args:
        folder: where the images are.
        names: paths below ``folder``.
        partial: accept any number of missing images short of all.

    Raises:
        ValueError: an image is missing without ``partial``; or all are.
    """
    there = [name for name in names if (folder / name).is_file()]
    known = set(there)
    if names:
        judge_missing([name for name in names if name not in known], len(names), folder, partial)
    return there


def image_sizes(
    folder: Path, names: Sequence[str], workers: int, partial: bool
) -> dict[str, tuple[int, int]]:
    """Sizes of the images that are there, in the order of their names.

    Args:
        folder, names, partial: see ``present``.
        workers: processes that read.

    Returns:
        name -> (width, height) in pixels, without the images that are missing.

    Raises:
        ValueError: an image is damaged or, without ``partial``, missing; or all are.
    """
    there = present(folder, names, partial)
    paths = [folder / name for name in there]
    sizes = spread(image_size, paths, workers, "image sizes")
    return dict(zip(there, sizes, strict=True))
