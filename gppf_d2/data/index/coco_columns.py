"""From the entries of a COCO JSON to columns, piece by piece; the writing half of ``coco``.

``annotations.form`` says what is unusual about an annotation (``Form``), so that a record whose
annotations are all usual is decoded without looking at each.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pycocotools.mask as mask_util

from gppf_d2.data.index.source import Writer

# In a column of ``annotation_keys``: not there, or in the rest.
ABSENT, LARGEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max


class Form(enum.IntFlag):
    """What an annotation has or lacks; 0 is a box, a category and an iscrowd of 0 or 1."""

    NO_CROWD = 1  # no "iscrowd", or one of another kind in the rest
    NO_BOX = 2  # no "bbox", or one of another kind in the rest
    POLYGONS = 4
    REST = 8
    BYTES = 16  # the counts of the RLE in the rest are bytes in the record


class IdCodes:
    """Image ids as integers: themselves, or numbers in order of appearance for texts."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._codes: dict[str, int] = {}
        self.kind: type | None = None

    def __call__(self, ids: list) -> np.ndarray:
        """int64 [len(ids)]."""
        kinds = set(map(type, ids)) | ({self.kind} if self.kind else set())
        if kinds not in (set(), {int}, {str}):
            raise ValueError(
                f"'{self._path}' has image ids of the types "
                f"{', '.join(sorted(kind.__name__ for kind in kinds))}; use integers or texts only"
            )
        self.kind = kinds.pop() if kinds else None
        if self.kind is not str:
            return np.array(ids, np.int64)
        codes = self._codes
        return np.array([codes.setdefault(key, len(codes)) for key in ids], np.int64)

    def in_order(self, codes: np.ndarray) -> np.ndarray:
        """Integers that sort as the ids do."""
        if self.kind is not str:
            return codes
        ranks = np.empty(len(self._codes), np.int64)
        ranks[[self._codes[key] for key in sorted(self._codes)]] = np.arange(len(ranks))
        return ranks[codes]

    def append_to(self, writer: Writer, name: str, codes: np.ndarray) -> None:
        """Append the ids themselves."""
        if self.kind is str:
            texts = list(self._codes)
            writer.append_texts(name, [texts[code] for code in codes])
        else:
            writer.append(name, codes)


class ImageColumns:
    """Appends the entries of "images".

    Args:
        writer: takes the columns.
        path: of the JSON, for errors.
        codes: of the image ids.
        keys: kept as they are, in the rest.
        category_lists: kept as lists of category ids.
        file_name_key: "file_name" or "coco_url".
    """

    def __init__(
        self,
        writer: Writer,
        path: str,
        codes: IdCodes,
        keys: Sequence[str],
        category_lists: Sequence[str],
        file_name_key: str,
    ) -> None:
        self.writer, self.path, self.codes, self.keys = writer, path, codes, keys
        self.category_lists, self.file_name_key = category_lists, file_name_key

    def add(self, images: list[dict]) -> None:
        """Append some images."""
        writer = self.writer
        writer.append("images.code", self.codes([image["id"] for image in images]))
        for key in ("height", "width"):
            values = [image[key] for image in images]
            check_integers(self.path, key, values)
            writer.append(f"images.{key}", np.array(values, np.int32))
        names = [image[self.file_name_key] for image in images]
        if self.file_name_key == "coco_url":
            names = ["/".join(name.split("/")[-2:]) for name in names]
        writer.append_texts("images.file_name", names)
        rests = [{key: image[key] for key in self.keys if key in image} for image in images]
        writer.append_texts("images.rest", [json.dumps(rest) if rest else "" for rest in rests])
        for key in self.category_lists:
            lists = [image.get(key) or [] for image in images]
            values = list(chain.from_iterable(lists))
            check_integers(self.path, key, values)
            lengths = np.fromiter(map(len, lists), np.int64, len(lists))
            writer.append_ragged(f"images.{key}", np.array(values, np.int64), lengths)


class AnnotationColumns:
    """Appends the entries of "annotations", before they are grouped by image.

    Args:
        writer: takes the columns.
        path: of the JSON, for errors.
        codes: of the image ids.
        keys: kept as they are: small integers in a column each, all else in the rest.
    """

    def __init__(self, writer: Writer, path: str, codes: IdCodes, keys: Sequence[str]) -> None:
        self.writer, self.path, self.codes, self.keys = writer, path, codes, keys
        self.without_mask = 0
        self.add([])  # the columns are there even where no annotation is

    def add(self, entries: list[dict]) -> None:
        """Append some annotations."""
        for entry in entries:
            if entry.get("ignore", 0):
                raise ValueError(
                    f"'{self.path}' has an annotation of image {entry['image_id']!r} with 'ignore' "
                    "set, which Detectron2 does not know; mark it as iscrowd or leave it out"
                )
        writer = self.writer
        entries, forms, rests = self._append_masks(entries)
        writer.append("annotations.code", self.codes([entry["image_id"] for entry in entries]))
        categories = [entry["category_id"] for entry in entries]
        check_integers(self.path, "category_id", categories)
        writer.append("annotations.category", np.array(categories, np.int64))
        ids = [entry.get("id") for entry in entries]
        numbered = set(map(type, ids)) <= {int}
        writer.append("annotations.id", np.array(ids if numbered else [-1] * len(ids), np.int64))
        self._append_crowds(entries, forms, rests)
        self._append_boxes(entries, forms, rests)
        for key in self.keys:
            self._append_extra(key, entries, rests)
        forms[np.fromiter(rests, np.int64, len(rests))] |= np.uint8(Form.REST)
        writer.append("annotations.form", forms)
        texts = [json.dumps(rests[i]) if i in rests else "" for i in range(len(entries))]
        writer.append_texts("annotations.rest", texts)

    def _append_masks(self, entries: list[dict]) -> tuple[list[dict], np.ndarray, dict[int, dict]]:
        """Masks and keypoints.

        Returns:
            The entries without those whose polygons are all degenerate, their forms and rests.
        """
        polygons: dict[int, list] = {}
        forms = np.zeros(len(entries), np.uint8)
        rests: dict[int, dict] = {}
        left_out: set[int] = set()
        for i, entry in enumerate(entries):
            mask = entry.get("segmentation")
            if isinstance(mask, dict) and mask:
                if isinstance(mask["counts"], list):
                    mask = mask_util.frPyObjects(mask, *mask["size"])
                    mask["counts"] = mask["counts"].decode("ascii")
                    forms[i] = Form.BYTES
                rests[i] = {"segmentation": mask}
            elif mask:
                valid = [p for p in mask if len(p) % 2 == 0 and len(p) >= 6]
                if valid:
                    polygons[i], forms[i] = valid, Form.POLYGONS
                else:
                    left_out.add(i)
            if "keypoints" in entry:
                rests.setdefault(i, {})["keypoints"] = _centred(entry["keypoints"])
        if left_out:
            self.without_mask += len(left_out)
            kept = [i for i in range(len(entries)) if i not in left_out]
            place = {old: new for new, old in enumerate(kept)}
            entries, forms = [entries[i] for i in kept], forms[kept]
            polygons = {place[i]: value for i, value in polygons.items()}
            rests = {place[i]: value for i, value in rests.items() if i in place}
        self._append_polygons(polygons, len(entries))
        return entries, forms, rests

    def _append_polygons(self, polygons: dict[int, list], rows: int) -> None:
        numbers: list[float] = []
        sizes: list[int] = []
        lengths = np.zeros((2, rows), np.int64)  # numbers and polygons of each row
        for row, some in polygons.items():
            sizes.extend(map(len, some))
            numbers.extend(chain.from_iterable(some))
            lengths[:, row] = sum(map(len, some)), len(some)
        self.writer.append_ragged("annotations.xy", np.array(numbers, np.float64), lengths[0])
        self.writer.append_ragged("annotations.polygons", np.array(sizes, np.int32), lengths[1])

    def _append_crowds(self, entries: list[dict], forms: np.ndarray, rests: dict) -> None:
        values = [entry.get("iscrowd") for entry in entries]
        for i, value in enumerate(values):
            if type(value) is not int or value not in (0, 1):
                forms[i] |= np.uint8(Form.NO_CROWD)
                if "iscrowd" in entries[i]:
                    rests.setdefault(i, {})["iscrowd"] = value
        self.writer.append("annotations.iscrowd", np.array(list(map(bool, values)), np.uint8))

    def _append_boxes(self, entries: list[dict], forms: np.ndarray, rests: dict) -> None:
        boxes = [entry.get("bbox") for entry in entries]
        if not _all_boxes(boxes):
            for i, box in enumerate(boxes):
                if _all_boxes([box]):
                    continue
                if "bbox" in entries[i]:
                    if box is not None and not len(box):
                        raise ValueError(
                            f"'{self.path}' has an annotation of image {entries[i]['image_id']!r} "
                            "with an empty 'bbox'; give it four numbers or leave the key out"
                        )
                    rests.setdefault(i, {})["bbox"] = box
                forms[i] |= np.uint8(Form.NO_BOX)
                boxes[i] = [0.0] * 4
        numbers = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes))
        self.writer.append("annotations.bbox", numbers.reshape(-1, 4))

    def _append_extra(self, key: str, entries: list[dict], rests: dict) -> None:
        column = np.full(len(entries), ABSENT, np.int32)
        for i, entry in enumerate(entries):
            if key in entry:
                value = entry[key]
                if type(value) is int and ABSENT < value <= LARGEST:
                    column[i] = value
                else:
                    rests.setdefault(i, {})[key] = value
        self.writer.append(f"annotations.{key}:extra", column)


def _centred(keypoints: list | None) -> list | None:
    """Keypoints in the record: pixel indices become coordinates, as Detectron2 has it."""
    if not keypoints:
        return keypoints
    return [value + 0.5 if i % 3 != 2 else value for i, value in enumerate(keypoints)]


def _all_boxes(boxes: list) -> bool:
    """Whether all are lists of four numbers."""
    if not set(map(type, boxes)) <= {list} or not set(map(len, boxes)) <= {4}:
        return False
    return set(map(type, chain.from_iterable(boxes))) <= {int, float}


def check_integers(path: str, key: str, values: list) -> None:
    """Refuse a key that holds anything but integers.

    Raises:
        ValueError: with the first offending value.
    """
    if not set(map(type, values)) <= {int}:
        odd = next(value for value in values if type(value) is not int)
        raise ValueError(f"'{path}' has {key} {odd!r}, which is not an integer; correct the file")
