"""What is missing or broken in a registered dataset, one sentence each.

Three looks, from cheap to dear: the files and folders that the metadata name, the whole annotation
JSON where there is one (what its readers pass over in silence is found there), and the records:
the objects of all of them and the files of all or some, spread evenly, read to their end by the
readers of the mappers:

    dataset     it cannot be opened, or has another number of images than the official one
    missing     a file or folder does not exist
    unreadable  an image or map is damaged
    size        an image has another size than its record says
    category    a class out of range, or one that the JSON does not list
    box         a box without area, or one that leaves its image
    mask        a polygon or run-length mask that is none
    labels      a label or depth map of another size than its image, or with values out of range
    annotation  an annotation of an unknown image, an id that two annotations share

Of pseudo-labelled images the labels are looked at instead of annotations (``check_pseudo``).
Works for any dataset of Detectron2's catalogs: what metadata and records do not say is not checked.
"""

from __future__ import annotations

import difflib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from tqdm import tqdm

from gppf_d2.data.check_pseudo import pseudo_problems
from gppf_d2.data.index.catalog import open_records
from gppf_d2.data.index.json_stream import JsonStream
from gppf_d2.data.mappers.depth import read_depth
from gppf_d2.data.mappers.normals import read_normals
from gppf_d2.data.mappers.reading import read_image
from gppf_d2.data.mappers.semantic import read_labels
from gppf_d2.data.problems import Problem, object_problems, sentence, unreadable

# metadata that name files or folders
PATHS = ("json_file", "image_root", "sem_seg_root", "hierarchy_file")
OFFICIAL_SIZES = {
    "coco_2017_train": 118_287,
    "coco_2017_val": 5_000,
    "lvis_v1_train": 100_170,
    "lvis_v1_val": 19_809,
    "objects365_v2_train": 1_742_289,
    "objects365_v2_val": 80_000,
    "imagenet_1k_train": 1_281_167,
    "imagenet_1k_val": 50_000,
    "imagenet_21k_p_train": 11_060_223,
    "imagenet_21k_p_val": 522_500,
    "kitti_eigen_train": 23_158,
    "kitti_eigen_test": 652,
    "ade20k_sem_seg_train": 20_210,
    "ade20k_sem_seg_val": 2_000,
    "voc_2012_aug_sem_seg_train": 10_582,
    "voc_2012_sem_seg_train": 1_464,
    "voc_2012_sem_seg_val": 1_449,
    "coco_stuff_164k_sem_seg_train": 118_287,
    "coco_stuff_164k_sem_seg_val": 5_000,
    "coco_stuff_10k_sem_seg_train": 9_000,
    "coco_stuff_10k_sem_seg_test": 1_000,
}
LISTS = ("pos_category_ids", "neg_category_ids", "not_exhaustive_category_ids")
BATCH = 16


def check_dataset(
    name: str,
    *,
    sample: int | None = 1000,
    partial: bool = False,
    workers: int = 1,
    quiet: bool = False,
) -> Iterator[Problem]:
    """Look for what is missing or broken in a dataset.

    Args:
        name: in Detectron2's ``DatasetCatalog``.
        sample: records whose files are read, spread evenly; None reads all. The annotations of
            objects are looked at in all records.
        partial: do not compare the number of images with the official one.
        workers: threads that read files.
        quiet: no progress bar.

    Yields:
        What was found, as it is found.

    Raises:
        KeyError: no such dataset.
        ValueError: ``sample`` or ``workers`` is not positive.
    """
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, DatasetCatalog, n=4, cutoff=0.4)
        raise KeyError(
            f"dataset '{name}' is not registered; close to it are {', '.join(near) or 'none'} "
            f"(of {len(DatasetCatalog)} registered)"
        )
    if (sample is not None and sample < 1) or workers < 1:
        raise ValueError(f"sample is {sample} and workers {workers}, must be at least 1")
    metadata = MetadataCatalog.get(name)
    paths = {key: metadata.get(key) for key in PATHS if isinstance(metadata.get(key), str)}
    lost = [key for key, path in paths.items() if not os.path.exists(path)]
    yield from (Problem("missing", f"'{paths[key]}' does not exist") for key in lost)
    if "json_file" in paths and "json_file" not in lost:
        try:
            yield from json_problems(paths["json_file"], quiet)
        except ValueError as error:
            yield Problem("dataset", sentence(error))
            return
        except (KeyError, TypeError, AttributeError) as error:
            text = f"'{paths['json_file']}' has an entry that is not COCO's: {error!r}"
            yield Problem("dataset", text)
            return
    try:
        records = open_records(name)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        yield Problem("dataset", sentence(error))
        return
    official = OFFICIAL_SIZES.get(name, metadata.get("official_size"))
    if official is not None and len(records) != official and not partial:
        text = f"{len(records):,} images, the official number is {official:,}"
        yield Problem("dataset", text)
    if not {"image_root", "sem_seg_root"} & set(lost):
        yield from _records_problems(name, records, metadata, sample, workers, quiet)


def _records_problems(
    name: str,
    records: Sequence[dict],
    metadata: Metadata,
    sample: int | None,
    workers: int,
    quiet: bool,
) -> Iterator[Problem]:
    """All objects of all records, and the files of the sample."""
    count = len(records) if sample is None else min(sample, len(records))
    chosen = {index * len(records) // count for index in range(count)}
    first = records[0] if len(records) else {}
    objects = "annotations" in first and "pseudo_shard" not in first

    def look(indices: list[int]) -> list[list[Problem]]:
        return [
            record_problems(records[index], metadata, files=index in chosen) for index in indices
        ]

    items = range(len(records)) if objects else sorted(chosen)
    with tqdm(desc=name, total=len(items), disable=quiet, mininterval=1, leave=False) as bar:
        for found in _in_threads(look, items, workers):
            bar.update(len(found))
            for problems in found:
                yield from problems


def _in_threads(look: Callable, items: Iterable[int], workers: int) -> Iterator[list]:
    """Results of ``look`` for batches of items, in order, a few batches ahead."""
    items = iter(items)
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(workers) as pool:
        while True:
            while len(waiting) < 2 * workers and (batch := list(islice(items, BATCH))):
                waiting.append(pool.submit(look, batch))
            if not waiting:
                return
            yield waiting.popleft().result()


def json_problems(json_file: str, quiet: bool = False) -> Iterator[Problem]:
    """What readers of a COCO-style JSON pass over or stumble on.

    Args:
        json_file: path of the JSON.
        quiet: no progress bar.

    Raises:
        ValueError: it is no JSON object.
    """
    images: set = set()
    categories: set = set()
    for key, piece, _ in JsonStream(json_file).pieces("images", "categories"):
        known = images if key == "images" else categories
        for entry in piece:
            if entry["id"] in known:
                yield Problem("annotation", f"'{json_file}' has {key} twice with id {entry['id']}")
            known.add(entry["id"])
    ids = array("q")
    label = os.path.basename(json_file)
    with tqdm(desc=label, total=100, unit="%", disable=quiet, mininterval=1, leave=False) as bar:
        for _, piece, done in JsonStream(json_file).pieces("annotations"):
            for entry in piece:
                yield from _entry_problems(entry, images, categories, json_file)
                if isinstance(entry.get("id"), int):
                    ids.append(entry["id"])
            bar.update(int(100 * done) - bar.n)
    numbers, counts = np.unique(np.frombuffer(ids, np.int64) if ids else [], return_counts=True)
    for number in numbers[counts > 1]:
        yield Problem("annotation", f"'{json_file}' has several annotations with id {number:.0f}")


def _entry_problems(
    entry: Mapping, images: set, categories: set, json_file: str
) -> Iterator[Problem]:
    where = f"annotation {entry.get('id')} of '{json_file}'"
    if entry.get("image_id") not in images:
        yield Problem("annotation", f"{where} is of the unknown image {entry.get('image_id')!r}")
    if entry.get("category_id") not in categories:
        text = f"{where} has the unknown category {entry.get('category_id')!r}"
        yield Problem("category", text)
    for polygon in entry.get("segmentation") or ():
        # of an RLE these are the names of its two entries
        if isinstance(polygon, list) and (len(polygon) < 6 or len(polygon) % 2):
            text = f"{where} has a polygon of {len(polygon)} numbers, at least 6 and an even number"
            yield Problem("mask", f"{text} make one")


def record_problems(
    record: Mapping[str, Any], metadata: Metadata, files: bool = True
) -> list[Problem]:
    """What is missing or broken in one record and the files it names.

    Args:
        record: a Detectron2 record.
        metadata: of its dataset.
        files: read the files too.
    """
    file_name = record["file_name"]
    if "pseudo_shard" in record:  # what else it says is looked at under its own dataset's name
        return list(pseudo_problems(record)) if files else []
    problems = list(_file_problems(record, metadata)) if files else []
    problems += _class_problems(record, metadata)
    for annotation in record.get("annotations", ()):
        for kind, text in object_problems(annotation, record, metadata.get("thing_classes")):
            problems.append(Problem(kind, f"'{file_name}' {text}"))
    return problems


def _file_problems(record: Mapping[str, Any], metadata: Metadata) -> Iterator[Problem]:
    file_name = record["file_name"]
    image = {key: record[key] for key in ("file_name", "tar_file", "tar_offset") if key in record}
    try:
        height, width = read_image(image, "RGB").shape[:2]
    except OSError as error:
        yield unreadable(error, record.get("tar_file", file_name))
        return
    said = record.get("height", height), record.get("width", width)
    if said != (height, width):
        text = f"'{file_name}' is {width} x {height}, its annotation says {said[1]} x {said[0]}"
        yield Problem("size", text)
    yield from _map_problems({**record, "height": height, "width": width}, metadata)


def _map_problems(record: Mapping[str, Any], metadata: Metadata) -> Iterator[Problem]:
    """Maps of labels, depths and normals; ``record`` has the size of the image as it is."""
    classes = metadata.get("stuff_classes")
    for key, read in (
        ("sem_seg_file_name", lambda: read_labels(record, len(classes) if classes else None)),
        ("depth_file_name", lambda: read_depth(record)),
        ("normals_file_name", lambda: read_normals(record)),
    ):
        if key not in record:
            continue
        try:
            read()
        except OSError as error:
            yield unreadable(error, record[key])
        except ValueError as error:
            yield Problem("labels", sentence(error))


def _class_problems(record: Mapping[str, Any], metadata: Metadata) -> Iterator[Problem]:
    """Labels of images: the class, and lists of verified classes."""
    file_name = record["file_name"]
    classes, things = metadata.get("classes"), metadata.get("thing_classes")
    label = record.get("label")
    if classes and label is not None and not 0 <= label < len(classes):
        text = f"'{file_name}' has the label {label}, expected 0 to {len(classes) - 1}"
        yield Problem("category", text)
    for key in LISTS:
        wrong = [c for c in record.get(key, ()) if things and not 0 <= c < len(things)]
        if wrong:
            text = f"'{file_name}' has {wrong[0]} in '{key}', expected 0 to {len(things) - 1}"
            yield Problem("category", text)
