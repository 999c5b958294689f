"""Put a dataset into Detectron2's catalogs, once, with errors that say what to do next.

The modules of ``gppf_d2.data.catalog`` know the datasets; this module knows the catalogs.
Registering reads no file, so that a configuration may name datasets that are not on this machine;
what is missing is reported when records are asked for. The same name and root twice is no error;
another root takes the place of the old one. Detectron2 registers some names itself when it is
imported (``coco_2017_train``), bound to $DETECTRON2_DATASETS of that moment: such an entry is
replaced, so that ``--data-root`` holds for it too. A name that somebody else registered is theirs
and stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin
from detectron2.structures import BoxMode

from gppf_d2.data.index.coco import CocoJsonSource
from gppf_d2.data.index.opening import open_source
from gppf_d2.data.index.source import DerivedSource, Source

# what tells which files an entry of Detectron2 reads
_PATHS = ("json_file", "image_root", "sem_seg_root")


@dataclass(frozen=True)
class Entry:
    """What ``DatasetCatalog`` calls for a dataset of ours.

    Attributes:
        name, root, hint: see ``register_dataset``.
        load: returns the records; None reads those of ``source``.
        source: what the index is built from, where the dataset's files are known beforehand.
    """

    name: str
    root: str
    load: Callable[[], list[dict]] | None = None
    hint: str = ""
    source: Source | DerivedSource | None = None

    def __call__(self) -> list[dict]:
        """All records, each a dict of its own.

        Raises:
            FileNotFoundError: a file is missing, with what to do.
            ValueError: there is no record.
        """
        with self.explained():
            records = self.load() if self.load is not None else list(open_source(self.source))
        if not records:
            raise ValueError(
                f"dataset '{self.name}' in '{self.root}' has no image; check that it was unpacked "
                "completely"
            )
        return records

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Context in which a missing file becomes a sentence that says what to do."""
        try:
            yield
        except FileNotFoundError as error:
            hint = self.hint or f"put the dataset into '{self.root}'"
            raise FileNotFoundError(
                f"dataset '{self.name}' needs '{error.filename or error}', which does not exist; "
                f"{hint}, or name the folder that holds it with DETECTRON2_DATASETS or --data-root"
            ) from error


def register_dataset(
    name: str,
    root: str,
    load: Callable[[], list[dict]] | None = None,
    *,
    hint: str = "",
    source: Source | DerivedSource | None = None,
    **metadata: Any,
) -> None:
    """Register a dataset and its metadata in Detectron2's catalogs.

    Args:
        name: name of the dataset, for example "camvid_train".
        root: folder that holds the datasets; kept as ``data_root`` in the metadata.
        load: returns the records (Detectron2 dataset dicts) and raises FileNotFoundError for a
            missing path; may be left out where there is a source.
        hint: what to do where a file is missing, in the imperative: the command that makes the
            dataset, for example. "" says that it has to be put into ``root``.
        source: what an index of the records is built from (``gppf_d2.data.index.source``).
        **metadata: what ``MetadataCatalog.get(name)`` will hold, known without reading a file.
    """
    assert load is not None or source is not None, f"{name} has neither a loader nor a source"
    root = os.path.abspath(root)
    if name in DatasetCatalog:
        before = MetadataCatalog.get(name).get("data_root")
        if before == root or (before is None and not is_builtin(name)):
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, Entry(name, root, load, hint, source))
    MetadataCatalog.get(name).set(data_root=root, **metadata)


def is_builtin(name: str) -> bool:
    """Whether an entry of the catalogs is the one that Detectron2 made when it was imported.

    Others use Detectron2's functions for registrations of their own, also under its names: an entry
    is Detectron2's where its reader is, and its metadata name the files, of Detectron2's own list.
    """
    load = DatasetCatalog[name]
    if not getattr(load, "__module__", "").startswith("detectron2.data.datasets."):
        return False
    metadata = MetadataCatalog.get(name)
    paths = {key: metadata.get(key) for key in _PATHS if metadata.get(key) is not None}
    return bool(paths) and paths == _builtin_paths().get(name)


def _builtin_paths() -> dict[str, dict[str, str]]:
    """name -> metadata that hold paths, of Detectron2's registrations that have a ``_PATHS``."""
    root = builtin._root
    found = {}
    for table in (builtin._PREDEFINED_SPLITS_COCO, builtin._PREDEFINED_SPLITS_LVIS):
        for splits in table.values():
            for name, (image_root, json_file) in splits.items():
                paths = {"image_root": image_root, "json_file": json_file}
                found[name] = {key: os.path.join(root, path) for key, path in paths.items()}
    for split, folder in (("train", "training"), ("val", "validation")):
        ade20k = os.path.join(root, "ADEChallengeData2016")
        found[f"ade20k_sem_seg_{split}"] = {
            "image_root": os.path.join(ade20k, "images", folder),
            "sem_seg_root": os.path.join(ade20k, "annotations_detectron2", folder),
        }
    return found


def register_coco_json(
    name: str,
    root: str,
    json_file: str,
    image_root: str,
    classes: dict[int, str],
    *,
    hint: str = "",
    annotation_keys: tuple[str, ...] = (),
    category_lists: tuple[str, ...] = (),
    file_name_key: str = "file_name",
    **metadata: Any,
) -> None:
    """Register a dataset whose annotations are a JSON in the layout of COCO instances.

    Args:
        name: name of the dataset.
        root: folder that holds the datasets.
        json_file: path of the JSON.
        image_root: folder of the images.
        classes: category id in the JSON -> class name, for all categories of the JSON.
        hint: see ``register_dataset``.
        annotation_keys, category_lists, file_name_key: what the JSON has beside COCO's own, see
            ``gppf_d2.data.index.coco.CocoJsonSource``.
        **metadata: further entries of the metadata; ``evaluator_type`` is "coco" without one.
    """
    ids = sorted(classes)
    source = CocoJsonSource(
        json_file,
        image_root,
        dataset_name=name,
        annotation_keys=annotation_keys,
        category_lists=category_lists,
        file_name_key=file_name_key,
    )
    metadata = {
        "json_file": json_file,
        "image_root": image_root,
        "thing_classes": [classes[key] for key in ids],
        "thing_dataset_id_to_contiguous_id": {key: index for index, key in enumerate(ids)},
        "evaluator_type": "coco",
        **metadata,
    }
    register_dataset(name, root, hint=hint, source=source, **metadata)


def mask_annotation(mask: np.ndarray, category_id: int, iscrowd: int = 0) -> dict:
    """Annotation of one object from its mask: RLE and the tight box.

    Args:
        mask: bool [H, W] with at least one pixel set.
        category_id: contiguous class index.
        iscrowd: 1 for a group of objects that cannot be told apart.

    Returns:
        An entry of a Detectron2 record's "annotations".
    """
    assert mask.any(), "a mask without a pixel has no box; leave the object out"
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": mask_util.toBbox(rle).tolist(),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category_id,
        "iscrowd": iscrowd,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }
