"""A COCO-style instances JSON, read as a stream into columns.

The records equal those of Detectron2's ``load_coco_json``: images in the order of their ids,
categories contiguous, polygons of fewer than three points left out, uncompressed RLE compressed.
Common fields are columns (``annotations.xy`` holds the numbers of all polygons end to end,
``annotations.polygons`` how many each has); what columns do not hold, or hold only in another form,
is kept per row as JSON in ``rest`` and merged into the record: keypoints, RLE, odd boxes, extra
keys. ``coco_records`` turns columns into records.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from gppf_d2.data.index.coco_columns import AnnotationColumns, IdCodes, ImageColumns
from gppf_d2.data.index.coco_grouping import group_columns
from gppf_d2.data.index.coco_records import decode
from gppf_d2.data.index.json_stream import JsonStream
from gppf_d2.data.index.source import Columns, RecordOf, Writer


@dataclass(frozen=True)
class CocoJsonSource:
    """Annotations in a COCO-style JSON.

    Args:
        json_file: path of the JSON.
        image_root: folder of the images; a record's file name is below it.
        dataset_name: where in Detectron2's metadata classes and category mapping are put; "" puts
            them nowhere.
        annotation_keys: keys of annotations that records keep beside COCO's own, as they are, where
            an annotation has them ("isgroupof").
        image_keys: keys of images that records keep, as they are, where an image has them.
        category_lists: keys of images that hold lists of category ids; records have contiguous ids,
            [] where an image lacks the key (LVIS: "neg_category_ids").
        file_name_key: "file_name", or "coco_url" for the last two parts of a URL (LVIS).

    Raises:
        ValueError: another ``file_name_key``.
    """

    json_file: str
    image_root: str
    dataset_name: str = ""
    annotation_keys: tuple[str, ...] = ()
    image_keys: tuple[str, ...] = ()
    category_lists: tuple[str, ...] = ()
    file_name_key: str = "file_name"

    def __post_init__(self) -> None:
        if self.file_name_key not in ("file_name", "coco_url"):
            raise ValueError(
                f"file_name_key is {self.file_name_key!r}; choose 'file_name' or 'coco_url'"
            )

    @property
    def place(self) -> str:
        """The JSON itself."""
        return self._local_file()

    def _local_file(self) -> str:
        return PathManager.get_local_path(os.fspath(self.json_file))

    def files(self) -> Sequence[str]:
        return [self._local_file()]

    def identity(self) -> Mapping[str, Any]:
        return {
            "kind": "coco json",
            "annotation_keys": list(self.annotation_keys),
            "image_keys": list(self.image_keys),
            "category_lists": list(self.category_lists),
            "file_name_key": self.file_name_key,
        }

    def write(self, writer: Writer) -> int:
        path = self._local_file()
        codes = IdCodes(path)
        images = ImageColumns(
            writer, path, codes, self.image_keys, self.category_lists, self.file_name_key
        )
        annotations = AnnotationColumns(writer, path, codes, self.annotation_keys)
        categories: list[dict] = []
        take: dict[str, Callable[[list[dict]], Any]] = {
            "images": images.add,
            "annotations": annotations.add,
            "categories": categories.extend,
        }
        seen = set()
        for key, piece, done in JsonStream(path).pieces(*take):
            seen.add(key)
            try:
                take[key](piece)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                if path in str(error):
                    raise
                raise ValueError(
                    f"'{path}' has an entry of '{key}' that is not COCO's: "
                    f"{type(error).__name__} {error}; correct the file"
                ) from error
            writer.progress(0.95 * done)
        for key in ("images", "categories"):
            if key not in seen:
                raise ValueError(f"'{path}' has no '{key}'; use a COCO-style instances JSON")
        return group_columns(writer, path, images, annotations, categories)

    def decoder(self) -> Callable[[Columns], RecordOf]:
        return functools.partial(
            decode,
            image_root=os.fspath(self.image_root),
            category_lists=self.category_lists,
            annotation_keys=self.annotation_keys,
        )

    def publish(self, columns: Columns) -> None:
        if not self.dataset_name:
            return
        metadata = MetadataCatalog.get(self.dataset_name)
        classes = [name for _, name in columns.notes["categories"]]
        mapping = {key: index for index, (key, _) in enumerate(columns.notes["categories"])}
        known = metadata.get("thing_dataset_id_to_contiguous_id")
        names = metadata.get("thing_classes")
        if (known is not None and dict(known) != mapping) or not _alike(names, classes):
            raise ValueError(
                f"'{self.json_file}' has other categories than dataset '{self.dataset_name}' is "
                "registered with; register those of the file"
            )
        if known is None:
            metadata.set(thing_dataset_id_to_contiguous_id=mapping)
        if names is None:
            metadata.set(thing_classes=classes)


def _alike(names: Sequence[str] | None, classes: Sequence[str]) -> bool:
    """Whether class names mean the same list: a few may be spelled otherwise (LVIS's file says
    "bull" where Detectron2 says "horned_cow")."""
    if names is None:
        return True
    others = sum(name != found for name, found in zip(names, classes))
    return len(names) == len(classes) and others <= len(classes) // 20
