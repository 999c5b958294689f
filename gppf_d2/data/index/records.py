"""Sequences of Detectron2 records that are made when they are asked for.

``Records`` is one open index; several of them behave as one (``concatenate``), and some records of
one as a sequence of their own (``select``). None holds a record. Where the objects' categories are
known from columns, ``categories`` and ``annotated`` answer for all records at once.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np

from gppf_d2.data.index.source import Columns, RecordOf
from gppf_d2.data.index.store import MappedColumns

Decoder = Callable[[Columns], RecordOf]
BLOCK = 1 << 16  # records that are looked at together


class RecordSequence(Sequence):
    """Records by index: a fresh dict at every access; slices are sequences like this one.

    Subclasses know their length, ``_record`` of an index in range, and ``object_table``.
    """

    @abstractmethod
    def _record(self, index: int) -> dict[str, Any]:
        """The record of an index in range."""

    @abstractmethod
    def object_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All objects, from columns.

        Returns:
            Offsets int64 [N + 1] of each record's objects in the other two: contiguous categories
            [A], -1 for none, and 1 for crowds [A]. A classified image is one object.
        """

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> RecordSequence: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | RecordSequence:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        length = len(self)
        place = index + length if index < 0 else index
        if not 0 <= place < length:
            raise IndexError(f"record {index} of {length}")
        return self._record(int(place))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._record, range(len(self)))

    def annotated(self) -> np.ndarray:
        """bool [N]: which records have an object that is not a crowd (Detectron2 trains on these
        where ``filter_empty`` is set)."""
        offsets, _, crowds = self.object_table()
        found = np.empty(len(self), bool)
        for start in range(0, len(self), BLOCK):
            bounds = offsets[start : start + BLOCK + 1]
            normal = crowds[bounds[0] : bounds[-1]] == 0
            before = np.concatenate([[0], np.cumsum(normal)])[bounds - bounds[0]]
            found[start : start + BLOCK] = before[1:] > before[:-1]
        return found

    def categories(self) -> Iterator[list[int]]:
        """The categories of each record's objects, in the order of the objects."""
        offsets, categories, _ = self.object_table()
        values = memoryview(np.ascontiguousarray(categories))
        bounds = memoryview(np.ascontiguousarray(offsets))
        for index in range(len(self)):
            yield values[bounds[index] : bounds[index + 1]].tolist()

    def select(self, indices: Sequence[int] | np.ndarray) -> RecordSequence:
        """Some of the records, in this order, each made when it is asked for.

        Args:
            indices: of records, or bool [N].
        """
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        assert not len(chosen) or 0 <= chosen.min() <= chosen.max() < len(self), "out of range"
        return Selection(self, chosen.astype(np.int32 if len(self) < 2**31 else np.int64))

    def named(self, name: str) -> RecordSequence:
        """The same records with "dataset_name", where they do not say themselves of what they are.

        Args:
            name: of the dataset.
        """
        return Named(self, name)


class Records(RecordSequence):
    """The records of one index on disk; pickled as its path.

    Args:
        header_path: the JSON of the index.
        decoder: see ``Source.decoder``.
        columns: of the index where it is open already.
    """

    def __init__(
        self, header_path: Path, decoder: Decoder, columns: MappedColumns | None = None
    ) -> None:
        self.columns = MappedColumns(header_path) if columns is None else columns
        self.path, self._decoder = header_path, decoder
        self._record_of = decoder(self.columns)

    def __reduce__(self) -> tuple:
        return Records, (self.path, self._decoder)

    def __len__(self) -> int:
        return self.columns.length

    def _record(self, index: int) -> dict[str, Any]:
        return self._record_of(index)

    def object_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        columns, length = self.columns, len(self)
        if "annotations" in columns:
            categories = columns["annotations.category_id"]
            return columns["annotations"], categories, columns["annotations.iscrowd"]
        if "label" in columns:
            labels = columns["label"]
            known = np.concatenate([[0], np.cumsum(labels >= 0)])
            labels = labels[labels >= 0]
            return known, labels, np.zeros(len(labels), np.uint8)
        none = np.zeros(0, np.uint8)
        return np.zeros(length + 1, np.int64), none, none


class Concatenation(RecordSequence):
    """Several sequences of records, one after the other."""

    def __init__(self, parts: Sequence[RecordSequence]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _record(self, index: int) -> dict[str, Any]:
        part = bisect_right(self._ends, index)
        return self._parts[part]._record(index - (self._ends[part - 1] if part else 0))

    def object_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tables = [part.object_table() for part in self._parts]
        lengths = [np.diff(offsets) for offsets, _, _ in tables]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        categories, crowds = (np.concatenate([table[k] for table in tables]) for k in (1, 2))
        return offsets, categories, crowds


class Selection(RecordSequence):
    """Some records of a sequence."""

    def __init__(self, records: RecordSequence, indices: np.ndarray) -> None:
        self._records, self._indices = records, indices

    def __len__(self) -> int:
        return len(self._indices)

    def _record(self, index: int) -> dict[str, Any]:
        return self._records._record(self._indices.item(index))

    def object_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets, categories, crowds = self._records.object_table()
        starts = offsets[self._indices]
        lengths = offsets[self._indices + 1] - starts
        ends = np.cumsum(lengths)
        places = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
        return np.concatenate([[0], ends]), categories[places], crowds[places]


class Named(RecordSequence):
    """A sequence whose records say of which dataset they are."""

    def __init__(self, records: RecordSequence, name: str) -> None:
        self._records, self._name = records, name

    def __len__(self) -> int:
        return len(self._records)

    def _record(self, index: int) -> dict[str, Any]:
        return {"dataset_name": self._name} | self._records._record(index)

    def object_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._records.object_table()


def concatenate(parts: Sequence[RecordSequence]) -> RecordSequence:
    """Several sequences as one; a single one is returned as it is."""
    return parts[0] if len(parts) == 1 else Concatenation(parts)
