"""Pseudo labels on disk: a folder of Arrow shards and its manifest (MuST, section 3.1).

    manifest.json       images, labels with their classes, teachers, counts, unreadable images
    shard-00000.arrow   one row per image: row r of shard s is image s * shard_size + r

A shard is an Arrow IPC file of one record batch, mapped when it is read; it describes its labels
itself, so that a row needs no manifest. Columns: index, file_name (``stored_name``), image_hash,
height, width, error ("" or why the image has no labels), and those of every label,
``<label>.<column>`` as in ``pseudo_coding``. ``gppf_d2.tools.pseudo_label`` writes such folders.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gppf_d2.data.pseudo_coding import IGNORE, KINDS, StoredLabel, columns_of, decode, encode

__all__ = [
    "IGNORE", "KINDS", "Manifest", "Row", "Shard", "StoredLabel", "decode", "encode", "image_hash",
    "open_shard", "read_labels", "read_manifest", "shard_batch", "shard_name", "stored_name",
]  # fmt: skip

FORMAT = 1
MANIFEST = "manifest.json"
OPEN_SHARDS = 128  # mapped at a time, in every process
HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a finished folder of pseudo labels holds.

    Args:
        folder: that holds it.
        images: "folder" (as in the file: relative to the manifest, or absolute) or "dataset", a
            registered name; "count", and "digest" of their names.
        shard_size: images per shard; the last one may have fewer.
        labels: by name.
        teachers: what they are, with "weights_hash".
        corrupt: images without labels: "index", "file_name", "error".
        image_hash: of the hashes of all images.
        amp: precision in which the teachers ran.
    """

    folder: str
    images: Mapping[str, Any]
    shard_size: int
    labels: Mapping[str, StoredLabel]
    teachers: Mapping[str, Any]
    corrupt: Sequence[Mapping[str, Any]]
    image_hash: str
    amp: str = "float32"

    def __len__(self) -> int:
        """The number of images, with those that have no labels."""
        return self.images["count"]

    @property
    def image_folder(self) -> str | None:
        """Absolute path of the folder of images; None for a registered dataset."""
        if "folder" not in self.images:
            return None
        # as it is named from there, whatever link led here
        return os.path.normpath(os.path.join(os.path.realpath(self.folder), self.images["folder"]))

    @property
    def dataset(self) -> str | None:
        """The registered dataset whose images these are; None for a folder."""
        return self.images.get("dataset")

    def labelled(self) -> np.ndarray:
        """Indices of the images that have labels, int64, ascending."""
        found = np.ones(len(self), bool)
        found[[entry["index"] for entry in self.corrupt]] = False
        return np.flatnonzero(found)

    def place(self, index: int) -> tuple[str, int]:
        """Path of the shard, and the row in it, of an image: a record's "pseudo_shard" and
        "pseudo_row"."""
        shard, row = divmod(index, self.shard_size)
        return os.path.join(self.folder, shard_name(shard)), row


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.arrow"


def stored_name(file_name: str) -> str:
    """The name of a file as it is stored: what is not UTF-8 in it becomes ``\\udcXX``."""
    return file_name.encode("utf-8", "backslashreplace").decode()


def image_hash(data: bytes) -> bytes:
    """BLAKE2b of an image's file, 16 bytes."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """Read the manifest of a folder of pseudo labels.

    Raises:
        FileNotFoundError: there is none: not such a folder, or the labelling is not finished.
        ValueError: it is damaged or of another version of the format.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text())
        version = content.pop("format")
        labels = {name: StoredLabel.of(facts) for name, facts in content.pop("labels").items()}
        if version == FORMAT:
            return Manifest(folder=os.fspath(folder), labels=labels, **content)
    except FileNotFoundError as error:
        begun = Path(folder).is_dir() and any(Path(folder).iterdir())
        raise FileNotFoundError(
            error.errno,
            "no manifest of pseudo labels: "
            + (
                "give the same command of gppf_d2.tools.pseudo_label again until the labelling is "
                "finished"
                if begun
                else "name the folder that gppf_d2.tools.pseudo_label has written"
            ),
            str(path),
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The manifest '{path}' is damaged ({error}); remove it and give the command of "
            "gppf_d2.tools.pseudo_label again, which writes it anew."
        ) from error
    raise ValueError(f"'{path}' has format {version}, this is format {FORMAT}; label anew.")


@dataclass(kw_only=True)
class Row:
    """One image of a shard: its facts, and by label its cells and what was counted; with an error
    there are none."""

    index: int
    file_name: str
    image_hash: bytes
    height: int
    width: int
    error: str = ""
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def shard_batch(
    labels: Mapping[str, StoredLabel], rows: Sequence[Row], facts: Mapping[str, Any]
) -> pa.RecordBatch:
    """The record batch of a shard.

    Args:
        labels: by name.
        rows: its images, in order.
        facts: JSON that goes into the file beside the labels' descriptions.
    """
    columns: dict[str, pa.Array] = {
        "index": pa.array([row.index for row in rows], pa.int64()),
        "file_name": pa.array([stored_name(row.file_name) for row in rows], pa.string()),
        "image_hash": pa.array([row.image_hash for row in rows], pa.binary(HASH_BYTES)),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "error": pa.array([stored_name(row.error) for row in rows], pa.string()),
    }
    for name, label in labels.items():
        for column, kind in columns_of(label).items():
            cells = [row.cells[name][column] if not row.error else None for row in rows]
            columns[f"{name}.{column}"] = _column(kind, cells)
    described = {name: label.facts() for name, label in labels.items()}
    metadata = {"gppf_d2": json.dumps({**facts, "format": FORMAT, "labels": described})}
    schema = pa.schema([(name, array.type) for name, array in columns.items()], metadata)
    return pa.record_batch(list(columns.values()), schema=schema)


def _column(kind: pa.DataType, cells: Iterable[Any]) -> pa.Array:
    """An array of the cells, without nulls: None is empty or 0."""
    if pa.types.is_fixed_size_list(kind):
        item = kind.value_type.to_pandas_dtype()
        filled = [np.zeros(kind.list_size, item) if cell is None else cell for cell in cells]
        flat = np.concatenate(filled) if filled else np.zeros(0, item)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), kind.list_size)
    if pa.types.is_list(kind):
        filled = [() if cell is None else cell for cell in cells]
        offsets = np.cumsum([0, *map(len, filled)]).astype(np.int32)
        if pa.types.is_fixed_size_list(kind.value_type):
            flat = np.concatenate([np.asarray(c, np.float32).reshape(-1, 4) for c in filled])
            values = _column(kind.value_type, flat) if len(flat) else pa.array([], kind.value_type)
        else:
            values = pa.array([item for cell in filled for item in cell], kind.value_type)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    empty = b"" if pa.types.is_large_binary(kind) else 0
    return pa.array([empty if cell is None else cell for cell in cells], kind)


class Shard:
    """An open shard.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or of another format.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(os.fspath(path)))
            facts = json.loads(reader.schema.metadata[b"gppf_d2"])
            version, described = facts.pop("format"), facts.pop("labels")
            self.batch = reader.get_batch(0)
        except FileNotFoundError:
            raise FileNotFoundError(
                2, "no such shard of pseudo labels; restore it or label anew", os.fspath(path)
            ) from None
        except (pa.ArrowInvalid, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"The shard '{path}' is damaged ({error}); remove it and give the command of "
                "gppf_d2.tools.pseudo_label again, which makes it anew."
            ) from error
        if version != FORMAT:
            raise ValueError(f"'{path}' has format {version}, this is format {FORMAT}; label anew.")
        self.facts: dict[str, Any] = facts
        self.labels = {name: StoredLabel.of(one) for name, one in described.items()}
        self._columns = {name: i for i, name in enumerate(self.batch.schema.names)}

    def __len__(self) -> int:
        return self.batch.num_rows

    def column(self, name: str) -> pa.Array:
        """A whole column."""
        return self.batch.column(self._columns[name])

    def cell(self, name: str, row: int) -> Any:
        """A cell as Python's numbers, texts and lists; binary ones as buffers."""
        value = self.column(name)[row]
        if pa.types.is_large_binary(value.type):
            return value.as_buffer()
        return value.values.to_numpy() if hasattr(value, "list_size") else value.as_py()

    def read(self, row: int, names: Iterable[str] | None = None) -> dict[str, Any]:
        """The labels of an image, see ``decode``.

        Raises:
            KeyError: a label that the shard does not have.
            ValueError: the image has no labels.
        """
        error = self.cell("error", row)
        if error:
            name = self.cell("file_name", row)
            raise ValueError(f"'{name}' has no pseudo labels: {error}")
        size = self.cell("height", row), self.cell("width", row)
        found = {}
        for name in self.labels if names is None else names:
            if name not in self.labels:
                raise KeyError(f"No pseudo label {name!r}; there are {', '.join(self.labels)}.")
            label = self.labels[name]
            cells = {c: self.cell(f"{name}.{c}", row) for c in columns_of(label)}
            found[name] = decode(label, cells, size)
        return found


@functools.lru_cache(maxsize=OPEN_SHARDS)
def open_shard(path: str) -> Shard:
    """A shard that is mapped once per process while it is used."""
    return Shard(path)


def read_labels(record: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """The pseudo labels of a record.

    Args:
        record: with "pseudo_shard" and "pseudo_row", see ``Manifest.place``.
        names: labels to read; None reads all.

    Returns:
        Label -> value, see ``decode``.

    Raises:
        FileNotFoundError: the shard is not there.
        KeyError: a label that the shard does not have.
        ValueError: the shard is damaged, or the image could not be labelled.
    """
    return open_shard(record["pseudo_shard"]).read(record["pseudo_row"], names)
