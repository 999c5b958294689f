"""A small folder of pseudo labels with every kind, written by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pycocotools.mask as mask_util
from PIL import Image

from gppf_d2.data.pseudo_labels import Row, StoredLabel, encode, shard_batch, shard_name

THINGS, STUFF = ("cat", "dog", "a <b> & c"), ("sky", "road")
LABELS = {
    "classes": StoredLabel(
        kind="classes", classes=("bird", *THINGS, "fish", "horse"), num_classes=6, teacher="crops",
        counts={"images": 5, "per_class": {"cat": 3, "horse": 2}},
    ),
    "boxes": StoredLabel(
        kind="instances", classes=THINGS, num_classes=3, masks=True, threshold=0.5,
        teacher="scenes",
        counts={"images": 5, "instances": 10, "masks": 10, "per_class": {"dog": 6, "cat": 4}},
    ),
    "segments": StoredLabel(
        kind="sem_seg", classes=STUFF, num_classes=2, teacher="scenes", threshold=0.5,
        counts={"images": 5, "labelled": 0.75},
    ),
    "depth": StoredLabel(kind="depth", teacher="scenes", counts={"images": 5, "labelled": 1.0}),
    "relative": StoredLabel(kind="inverse_depth", teacher="midas", counts={"images": 5}),
}  # fmt: skip
TEACHERS = {
    "crops": {"type": "RunTeacher", "weights_hash": "a" * 32},
    "scenes": {"type": "RunTeacher", "weights_hash": "b" * 32, "tasks": ["scenes"]},
    "midas": {"type": "CallableTeacher", "weights_hash": "c" * 32},
}


def mask(height: int, width: int, box: Sequence[int]) -> bytes:
    """Counts of the RLE of a box."""
    array = np.zeros((height, width), np.uint8, order="F")
    array[box[1] : box[3], box[0] : box[2]] = 1
    return mask_util.encode(array)["counts"]


def values(index: int, height: int, width: int) -> dict[str, Any]:
    """What the teachers say about an image: as many boxes as its number."""
    boxes = [(4 * place, 3, 4 * place + 12, 20) for place in range(index)]
    segments = np.zeros((height, width), np.uint8)
    segments[height // 2 :] = 1
    segments[:, : width // 4] = 255
    rows = np.linspace(8, 1, height, dtype=np.float32)[:, None]
    shares = np.full(6, 0.02, np.float32)
    shares[(index + 1) % 6] = 0.9 - 0.1 * index
    shares[(index + 2) % 6] += 1 - shares.sum()
    return {
        "classes": shares,
        "boxes": {
            "boxes": boxes,
            "scores": [0.9 - 0.05 * place for place in range(index)],
            "categories": [place % 2 for place in range(index)],
            "masks": [mask(height, width, box) for box in boxes],
        },
        "segments": segments,
        "depth": np.repeat(rows, width, 1),
        "relative": np.repeat(1 / rows - 0.5, width, 1),
    }


def make_labels(
    folder: Path,
    images: Path,
    files: Sequence[str],
    said: Sequence[Mapping[str, Any]],
    labels: Mapping[str, StoredLabel] = LABELS,
    shard_size: int = 4,
) -> Path:
    """Write a folder of labels; an image that is no image is corrupt.

    Args:
        folder: to be made.
        images: folder of the images.
        files: their names in it.
        said: per image label -> value, as of ``encode``.
        labels: what is stored of it.
        shard_size: images per shard.
    """
    rows, corrupt = [], []
    for index, (name, found) in enumerate(zip(files, said, strict=True)):
        data = (images / name).read_bytes()
        try:
            with Image.open(images / name) as image:
                width, height = image.size
        except OSError:
            rows.append(
                Row(index=index, file_name=name, image_hash=b"\0" * 16, height=0, width=0,
                    error="cannot be read")
            )  # fmt: skip
            corrupt.append({"index": index, "file_name": name, "error": "cannot be read"})
            continue
        digest = hashlib.blake2b(data, digest_size=16).digest()
        cells = {key: encode(label, found[key]) for key, label in labels.items()}
        rows.append(
            Row(index=index, file_name=name, image_hash=digest, height=height, width=width,
                cells=cells)
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), shard_size)):
        batch = shard_batch(labels, rows[start : start + shard_size], {})
        with pa.OSFile(str(folder / shard_name(number)), "wb") as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write(batch)
    manifest = {
        "format": 1,
        "images": {"folder": str(images), "count": len(rows), "digest": ""},
        "shard_size": shard_size,
        "labels": {key: {**one.facts(), "counts": one.counts} for key, one in labels.items()},
        "teachers": TEACHERS,
        "corrupt": corrupt,
        "image_hash": "d" * 32,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
