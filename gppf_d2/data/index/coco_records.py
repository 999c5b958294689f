"""From the columns of a COCO JSON to records; the reading half of ``coco``.

One slice per column and record, turned into Python objects at once: that is what makes a record of
fifteen boxes cheaper than unpickling it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.structures import BoxMode

from gppf_d2.data.index.coco_columns import ABSENT, Form
from gppf_d2.data.index.json_stream import loads
from gppf_d2.data.index.source import Columns, RecordOf

XYWH = BoxMode.XYWH_ABS
EXTRA = ":extra"


def decode(
    columns: Columns, image_root: str, category_lists: Sequence[str], annotation_keys: Sequence[str]
) -> RecordOf:
    """Prepare decoding; see ``Source.decoder``.

    Args:
        columns: of an index that ``CocoJsonSource`` wrote.
        image_root: folder of the images.
        category_lists: as the source has them.
        annotation_keys: as the source has them.
    """
    heights, widths = memoryview(columns["images.height"]), memoryview(columns["images.width"])
    root = os.path.join(image_root, "")
    file_name = columns.texts("images.file_name")
    ids = memoryview(columns["images.image_id"])
    textual = "images.image_id:offsets" in columns
    image_id = columns.texts("images.image_id") if textual else ids.__getitem__
    lists = [(key, *columns.ragged(f"images.{key}")) for key in category_lists]
    rest = _rest(columns, "images.rest")
    objects = _objects(columns, annotation_keys)

    def record(index: int) -> dict[str, Any]:
        name = file_name(index)
        found = {
            "file_name": name if name.startswith(os.sep) else root + name,  # os.path.join, faster
            "height": heights[index],
            "width": widths[index],
            "image_id": image_id(index),
        }
        for key, offsets, values in lists:
            found[key] = values[offsets[index] : offsets[index + 1]].tolist()
        if rest is not None:
            found.update(rest(index))
        found["annotations"] = objects(index)
        return found

    return record


def _rest(columns: Columns, name: str) -> Callable[[int], dict] | None:
    """Row -> what its columns could not hold; None where no row has any."""
    if name not in columns:
        return None
    offsets, values = columns.ragged(name)
    data = memoryview(values)

    def rest(row: int) -> dict:
        begin, end = offsets[row : row + 2].tolist()
        return loads(bytes(data[begin:end])) if end > begin else {}

    return rest


def _objects(columns: Columns, extra_keys: Sequence[str]) -> Callable[[int], list[dict]]:
    """Index of a record -> its annotations."""
    starts, crowds = memoryview(columns["annotations"]), columns["annotations.iscrowd"]
    usual = "annotations.form" not in columns
    forms = None if usual else columns["annotations.form"]
    boxes, categories = columns["annotations.bbox"], columns["annotations.category_id"]
    extras = [(key, columns[f"annotations.{key}{EXTRA}"]) for key in extra_keys]
    rest = _rest(columns, "annotations.rest")
    masks = _masks(columns)

    def objects(index: int) -> list[dict]:
        begin, end = starts[index], starts[index + 1]
        rows = slice(begin, end)
        found = [
            {"iscrowd": crowd, "bbox": box, "category_id": category, "bbox_mode": XYWH}
            for crowd, box, category in zip(
                crowds[rows].tolist(), boxes[rows].tolist(), categories[rows].tolist()
            )
        ]
        for key, column in extras:
            for one, value in zip(found, column[rows].tolist()):
                if value != ABSENT:
                    one[key] = value
        if forms is not None:
            rows_forms = zip(range(begin, end), found, forms[rows].tolist(), masks(begin, end))
            for row, one, form, polygons in rows_forms:
                if form:
                    _amend(one, form, polygons, rest, row)
        return found

    return objects


def _amend(
    one: dict, form: int, polygons: list, rest: Callable[[int], dict] | None, row: int
) -> None:
    """Make an annotation what its form says."""
    if form & NO_CROWD:
        del one["iscrowd"]
    if form & NO_BOX:
        del one["bbox"]
    if form & POLYGONS:
        one["segmentation"] = polygons
    if form & REST:
        assert rest is not None, "an annotation with a rest has one"
        one.update(rest(row))
        if form & BYTES:
            mask = one["segmentation"]
            mask["counts"] = mask["counts"].encode("ascii")


# plain integers: a test with an enum's member is several times slower
NO_CROWD, NO_BOX, POLYGONS = int(Form.NO_CROWD), int(Form.NO_BOX), int(Form.POLYGONS)
REST, BYTES = int(Form.REST), int(Form.BYTES)


def _masks(columns: Columns) -> Callable[[int, int], list[list[list[float]]]]:
    """Range of annotations -> the polygons of each."""
    if "annotations.xy" not in columns:
        return lambda begin, end: [[]] * (end - begin)
    number_starts, numbers = columns.ragged("annotations.xy")
    size_starts, sizes = columns.ragged("annotations.polygons")

    def masks(begin: int, end: int) -> list[list[list[float]]]:
        stops = size_starts[begin : end + 1]
        values = numbers[number_starts[begin] : number_starts[end]].tolist()
        polygons, place = [], 0
        for size in sizes[stops[0] : stops[-1]].tolist():
            polygons.append(values[place : place + size])
            place += size
        cuts = (stops - stops[0]).tolist()
        return [polygons[a:b] for a, b in zip(cuts, cuts[1:])]

    return masks
