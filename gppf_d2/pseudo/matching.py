"""Find the images of a labelled dataset among those of a folder of pseudo labels.

By "path", by "name" (of the file, where it is unique on both sides), or by "hash" of what the file
holds, for copies under other names. Only the dataset's names are kept in memory: a folder may have
any number of images.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from gppf_d2.data.mappers.reading import read_bytes
from gppf_d2.data.pseudo_labels import Manifest, image_hash, open_shard, stored_name

MATCHES = ("path", "name", "hash")


def match_images(
    manifest: Manifest, records: Sequence[Mapping[str, Any]], how: str = "auto"
) -> tuple[str, list[tuple[int, int]]]:
    """Pair labelled images with records.

    Args:
        manifest: of the folder.
        records: of the dataset, with "file_name".
        how: one of ``MATCHES``, or "auto" for the first of them that finds any image.

    Returns:
        How, and (index of the labelled image, index of the record), in the order of the labels.

    Raises:
        ValueError: unknown ``how``, or no image is found.
    """
    if how not in (*MATCHES, "auto"):
        raise ValueError(f"match is {how!r}; choose one of auto, {', '.join(MATCHES)}.")
    for one in MATCHES if how == "auto" else (how,):
        pairs = _pairs(manifest, records, one)
        if pairs:
            return one, pairs
    raise ValueError(
        f"None of the {len(records):,} images of the truth is among the {len(manifest):,} labelled "
        f"ones of '{manifest.folder}' (looked for by {how if how != 'auto' else ', '.join(MATCHES)}"
        f"; the first of each are '{records[0]['file_name']}' and '{_first(manifest)}'); give the "
        "dataset whose images were labelled."
    )


def _pairs(
    manifest: Manifest, records: Sequence[Mapping[str, Any]], how: str
) -> list[tuple[int, int]]:
    wanted: dict[Hashable, int] = {}
    several: set[Hashable] = set()
    for place, record in enumerate(records):
        key = _key_of(record, how)
        if key in wanted:
            several.add(key)
        wanted.setdefault(key, place)
    found: dict[Hashable, int] = {}
    for index, key in _labelled(manifest, how):
        if key in found:
            several.add(key)
        if key in wanted:
            found.setdefault(key, index)
    if how == "name":  # two images of one name are two images
        found = {key: index for key, index in found.items() if key not in several}
    return [(index, wanted[key]) for key, index in found.items()]


def _key_of(record: Mapping[str, Any], how: str) -> Hashable:
    if how == "hash":
        return image_hash(read_bytes(dict(record)))
    name = stored_name(os.path.abspath(record["file_name"]))
    return os.path.basename(name) if how == "name" else name


def _labelled(manifest: Manifest, how: str) -> Iterator[tuple[int, Hashable]]:
    """Index and key of every labelled image, from the columns of the shards."""
    # the names of a dataset's images are relative to where the datasets were
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    folder = manifest.image_folder or root
    for start in range(0, len(manifest), manifest.shard_size):
        shard = open_shard(manifest.place(start)[0])
        errors = shard.column("error").to_pylist()
        column = shard.column("image_hash" if how == "hash" else "file_name").to_pylist()
        for row, (key, error) in enumerate(zip(column, errors)):
            if error:
                continue
            if how == "path":
                key = os.path.abspath(os.path.join(stored_name(folder), key))
            yield start + row, os.path.basename(key) if how == "name" else key


def _first(manifest: Manifest) -> str:
    path, row = manifest.place(0)
    return open_shard(path).cell("file_name", row)
