"""The end of reading a COCO JSON: images in the order of their ids, annotations grouped by image.

All keys may come in any order in the file, so ids are resolved when everything was read: category
ids become contiguous, annotations find their image, and one counting sort puts them beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from gppf_d2.data.index.coco_columns import AnnotationColumns, ImageColumns, check_integers
from gppf_d2.data.index.source import Writer

logger = logging.getLogger(__name__)


def group_columns(
    writer: Writer,
    path: str,
    images: ImageColumns,
    annotations: AnnotationColumns,
    categories: list[dict],
) -> int:
    """Bring what was appended into the order of the records.

    Returns:
        The number of images.

    Raises:
        ValueError: repeated annotation ids, or categories that the file does not list.
    """
    known = sorted_categories(path, categories)
    writer.note(categories=[[entry["id"], entry["name"]] for entry in known])
    ids = np.array([entry["id"] for entry in known], np.int64)
    image_ids = _sort_images(writer, images)
    for key in images.category_lists:
        _make_contiguous(writer, path, f"images.{key}", ids)
    _drop_empty(writer)
    _group_annotations(writer, path, annotations, image_ids)
    values = _contiguous(path, writer.read("annotations.category"), ids)
    small = np.int16 if len(ids) < 2**15 else np.int32
    writer.append("annotations.category_id", values.astype(small))
    for name in ("images.code", "annotations.code", "annotations.id", "annotations.category"):
        writer.drop(name)
    if annotations.without_mask:
        logger.warning(
            "'%s': %d annotations have only polygons of fewer than three points and are left out",
            path, annotations.without_mask,
        )  # fmt: skip
    return len(image_ids)


def sorted_categories(path: str, categories: list[dict]) -> list[dict]:
    """The categories in the order of their ids.

    Raises:
        ValueError: none, or one twice.
    """
    ids = [entry["id"] for entry in categories]
    check_integers(path, "category id", ids)
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"'{path}' lists {len(ids)} categories, some twice or none; correct it")
    return sorted(categories, key=lambda entry: entry["id"])


def _drop_empty(writer: Writer) -> None:
    """Leave out what no row has: masks, rests, anything unusual."""
    for name in ("images.rest", "annotations.rest", "annotations.xy", "annotations.polygons"):
        if not len(writer.read(name)):
            writer.drop(name)
    if not writer.read("annotations.form").any():
        writer.drop("annotations.form")


def _sort_images(writer: Writer, images: ImageColumns) -> np.ndarray:
    """Sort the images' columns by id; returns their sorted keys (see ``IdCodes.in_order``)."""
    keys = images.codes.in_order(writer.read("images.code"))
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.ones(len(keys), bool)
    last[:-1] = keys[1:] != keys[:-1]
    writer.reorder("images.", order[last])  # of images with one id the last one counts
    images.codes.append_to(writer, "images.image_id", writer.read("images.code"))
    return keys[last]


def _group_annotations(
    writer: Writer, path: str, annotations: AnnotationColumns, image_ids: np.ndarray
) -> None:
    keys = annotations.codes.in_order(writer.read("annotations.code"))
    rows = np.searchsorted(image_ids, keys)
    if len(image_ids):
        found = image_ids[np.minimum(rows, len(image_ids) - 1)] == keys
    else:
        found = np.zeros(len(keys), bool)
    if not found.all():
        logger.warning(
            "'%s': %d of %d annotations belong to no image of the file and are left out",
            path, len(found) - found.sum(), len(found),
        )  # fmt: skip
    order = np.argsort(rows, kind="stable")
    order = order[found[order]]
    counts = np.bincount(rows[found], minlength=len(image_ids))
    del keys, rows, found
    writer.reorder("annotations.", order)
    writer.append("annotations", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    ids = np.sort(writer.read("annotations.id"))
    repeated = ids[1:][(ids[1:] == ids[:-1]) & (ids[1:] >= 0)]
    if len(repeated) and "minival" not in path:  # COCO's own minival files repeat ids
        raise ValueError(
            f"'{path}' uses the annotation id {repeated[0]} twice ({len(repeated)} repetitions); "
            "number the annotations"
        )


def _make_contiguous(writer: Writer, path: str, name: str, ids: np.ndarray) -> None:
    offsets, values = writer.read(f"{name}:offsets"), writer.read(name)
    values = _contiguous(path, values, ids)
    writer.drop(name)
    writer.append_ragged(name, values.astype(np.int32), np.diff(offsets))


def _contiguous(path: str, values: np.ndarray, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """The place of each category id in the sorted ids."""
    places = np.searchsorted(ids, values)
    unknown = np.asarray(ids)[np.minimum(places, len(ids) - 1)] != values
    if unknown.any():
        raise ValueError(
            f"'{path}' uses the category id {values[unknown][0]}, which its 'categories' do not "
            "list; add the category or leave its annotations out"
        )
    return places
