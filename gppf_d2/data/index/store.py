"""An index on disk: named arrays in one Arrow IPC file, mapped, and a small JSON that describes it.

``<key>.arrow`` holds one row, in which every array is a list, so that lengths may differ; any Arrow
tool reads it. ``<key>.json`` holds the format's version, the source's identity and files, notes,
and dtype, shape and place of every array. So opening needs the JSON and one ``mmap``: no Arrow
library, no copy, next to no memory of one's own. The JSON is renamed into place last; sizes and a
checksum of both ends of every array tell whether the two belong together and are whole.

Ragged columns are two arrays, the values and ``<name>:offsets``; texts are ragged UTF-8.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import mmap
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

VERSION = 1
REPORT_SECONDS = 10.0
ENDS = 4096  # bytes of both ends of an array that the checksum covers
BLOCK, RAGGED_BLOCK = 1 << 20, 1 << 14  # rows that are rearranged at a time

logger = logging.getLogger(__name__)


class BrokenIndex(Exception):
    """An index that is not whole, of another version or of another state of its source."""


class ColumnWriter:
    """The ``Writer`` of ``source``: every array grows in a file of its own.

    Args:
        folder: an empty folder for the files.
        report: takes the fraction done and a sentence with it, every few seconds.
    """

    def __init__(self, folder: Path, report: Callable[[str], None] | None = None) -> None:
        self._folder = folder
        self._report = report
        self._start = self._reported = time.monotonic()
        self._layout: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self._files: dict[str, BinaryIO] = {}
        self._paths: dict[str, Path] = {}
        self._numbers = itertools.count()
        self.notes: dict[str, Any] = {}

    def append(self, name: str, values: np.ndarray) -> None:
        values = np.ascontiguousarray(values)
        layout = values.dtype, values.shape[1:]
        if name not in self._files:
            assert values.dtype.kind in "iuf" and values.ndim in (1, 2), f"{name}: {layout}"
            self._layout[name], self._rows[name] = layout, 0
            self._paths[name] = self._folder / f"{next(self._numbers)}.column"
            self._files[name] = open(self._paths[name], "wb", buffering=1 << 16)  # noqa: SIM115
        assert layout == self._layout[name], f"{name} is {self._layout[name]}, got {layout}"
        self._files[name].write(values.data if values.size else b"")
        self._rows[name] += len(values)

    def append_ragged(self, name: str, values: np.ndarray, lengths: np.ndarray) -> None:
        lengths = np.asarray(lengths, np.int64)
        total = self._totals.get(name)
        if total is None:
            total = self._totals[name] = 0
            self.append(f"{name}:offsets", np.zeros(1, np.int64))
        ends = total + np.cumsum(lengths)
        assert len(values) == lengths.sum(), f"{name}: lengths do not fit the values"
        self.append(name, values)
        self.append(f"{name}:offsets", ends)
        self._totals[name] = total + len(values)

    def append_texts(self, name: str, texts: Sequence[str]) -> None:
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        values = np.frombuffer(b"".join(parts), np.uint8)
        self.append_ragged(name, values, np.fromiter(map(len, parts), np.int64, len(parts)))

    def read(self, name: str) -> np.ndarray:
        self._files[name].flush()
        dtype, row = self._layout[name]
        shape = (self._rows[name], *row)
        if not np.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(self._paths[name], dtype, "r", shape=shape).view(np.ndarray)

    def drop(self, name: str) -> None:
        for one in (name, f"{name}:offsets"):
            if one in self._files:
                self._files.pop(one).close()
                self._paths.pop(one).unlink()
                del self._layout[one], self._rows[one]
        self._totals.pop(name, None)

    def reorder(self, prefix: str, order: np.ndarray) -> None:
        names = [n for n in self._files if n.startswith(prefix) and not n.endswith(":offsets")]
        for name in names:
            offsets = self.read(f"{name}:offsets") if name in self._totals else None
            values = self.read(name)
            if np.array_equal(
                order, np.arange(len(values) if offsets is None else len(offsets) - 1)
            ):
                continue
            self.drop(name)  # the file is gone, the mapping stays until it is let go
            block = BLOCK if offsets is None else RAGGED_BLOCK
            for start in range(0, max(len(order), 1), block):
                rows = order[start : start + block]
                if offsets is None:
                    self.append(name, values[rows])
                else:
                    self._append_rows(name, values, offsets, rows)

    def _append_rows(
        self, name: str, values: np.ndarray, offsets: np.ndarray, rows: np.ndarray
    ) -> None:
        starts = offsets[rows]
        lengths = offsets[rows + 1] - starts
        skip = starts - (np.cumsum(lengths) - lengths)
        places = np.repeat(skip, lengths) + np.arange(lengths.sum())
        self.append_ragged(name, values[places], lengths)

    def note(self, **facts: Any) -> None:
        self.notes.update(facts)

    def progress(self, done: float) -> None:
        now = time.monotonic()
        if self._report is None or now - self._reported < REPORT_SECONDS or not 0 < done <= 1:
            return
        self._reported = now
        left = (now - self._start) * (1 - done) / done
        self._report(f"{100 * done:.0f} % done, {left:.0f} s left")

    def finish(self, arrow_path: Path) -> dict[str, Any]:
        """Write the Arrow file.

        Returns:
            The part of the header that describes it: "bytes", "checksum", "notes" and "arrays",
            name -> [dtype, shape, place].
        """
        import pyarrow as pa  # needed for building only

        arrays = {name: self.read(name) for name in self._files}
        cells = {name: _one_list(pa, array) for name, array in arrays.items()}
        batch = pa.record_batch(list(cells.values()), names=list(cells))
        with pa.OSFile(str(arrow_path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as out:
            out.write_batch(batch)
        del batch, cells
        places = _places(pa, arrow_path, arrays)
        header = {
            "bytes": os.path.getsize(arrow_path),
            "notes": self.notes,
            "arrays": {
                name: [array.dtype.str, list(array.shape), places[name]]
                for name, array in arrays.items()
            },
        }
        header["checksum"] = _checksum(_map(arrow_path), header["arrays"])
        for file in self._files.values():
            file.close()
        return header

    def close(self) -> None:
        """Let go of the files; harmless when repeated."""
        for file in self._files.values():
            file.close()


def _one_list(pa: Any, array: np.ndarray) -> Any:
    """A list column of one row over the array's memory."""
    values = pa.array(array.reshape(-1))
    if array.ndim == 2:
        values = pa.FixedSizeListArray.from_arrays(values, array.shape[1])
    return pa.LargeListArray.from_arrays(pa.array([0, len(array)], pa.int64()), values)


def _places(pa: Any, path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Where in the Arrow file each array's bytes begin."""
    with pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer()
        batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
        places = {}
        for name, array in arrays.items():
            values = batch.column(name).values
            values = values.values if array.ndim == 2 else values
            buffer = values.buffers()[1]
            places[name] = buffer.address - whole.address if array.size else 0
        return places


def _map(path: Path) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _checksum(data: mmap.mmap, arrays: Mapping[str, Sequence]) -> int:
    value = 0
    for name, (dtype, shape, place) in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {dtype} {shape}".encode(), value)
        end = place + int(np.prod(shape)) * np.dtype(dtype).itemsize
        value = zlib.crc32(data[place : min(end, place + ENDS)], value)
        value = zlib.crc32(data[max(place, end - ENDS) : end], value)
    return value


class MappedColumns:
    """The ``Columns`` of ``source``, over a mapped Arrow file.

    Args:
        header_path: the JSON of the index.
        expected: what the header must say, for example the source's files; None accepts any.

    Raises:
        BrokenIndex: the index is not whole or says something else, with the reason.
        FileNotFoundError: there is none.
    """

    def __init__(self, header_path: Path, expected: Mapping[str, Any] | None = None) -> None:
        header = _read_header(header_path)
        for key, value in (expected or {}).items():
            if header.get(key) != value:
                raise BrokenIndex(f"its source has changed ({key})")
        arrays: dict[str, Any] = header["arrays"]
        self.notes, self.length = header["notes"], header["records"]
        try:
            data = _map(header_path.with_suffix(".arrow"))
        except (OSError, ValueError) as error:
            raise BrokenIndex("its columns cannot be read") from error
        if len(data) != header["bytes"] or _checksum(data, arrays) != header["checksum"]:
            raise BrokenIndex("its columns are damaged")
        self._arrays = {
            name: np.frombuffer(data, dtype, int(np.prod(shape)), place).reshape(shape)
            if np.prod(shape)
            else np.empty(shape, dtype)
            for name, (dtype, shape, place) in arrays.items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def ragged(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self._arrays[f"{name}:offsets"], self._arrays[name]

    def texts(self, name: str) -> Callable[[int], str]:
        offsets, values = self.ragged(name)
        data = memoryview(values)

        def text(row: int) -> str:
            return str(data[offsets[row] : offsets[row + 1]], "utf-8", "surrogatepass")

        return text


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_bytes())
        version = header["version"]
        if version != VERSION:
            raise BrokenIndex(f"it has version {version}, this is version {VERSION}")
        if header.pop("seal") != _seal(header):
            raise BrokenIndex("its header is damaged")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenIndex("its header is damaged") from error
    return header


def _seal(header: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(header).encode())


def write_header(header_path: Path, header: Mapping[str, Any]) -> None:
    """Put the header into place, atomically, after its Arrow file."""
    temporary = header_path.with_name(f".{header_path.name}.{os.getpid()}")
    try:
        content = {"version": VERSION, **header}
        temporary.write_text(json.dumps({**content, "seal": _seal(content)}))
        os.replace(temporary, header_path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
