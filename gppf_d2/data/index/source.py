"""What an index is made from: the ``Source`` protocol, and what it writes to and reads from.

A source knows three things: which files it depends on, how to turn them into columns in one pass,
and how to make record i from the columns. Columns are plain arrays with names, and their lengths
may differ. Some names mean something to the engine, which reads them without making records:

    label                    [N]     class of each record (classification), -1 for none
    annotations              [N + 1] where each record's objects begin in the columns below
    annotations.category_id  [A]     contiguous category of each object
    annotations.iscrowd      [A]     1 for a crowd

A dataset without any of them has no objects. ``coco.py``, ``image_folder.py``, ``image_files.py``
and ``catalog_source.py`` are sources; ``pseudo_labels.py`` derives its records from another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

RecordOf = Callable[[int], dict[str, Any]]
"""Index of a record -> a fresh Detectron2 record."""


class Columns(Protocol):
    """The columns of an open index; arrays are views of the mapped file, read-only."""

    notes: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        """Whether there is such a column."""

    def __getitem__(self, name: str) -> np.ndarray:
        """An array as ``Writer.append`` got it: [rows] or [rows, k]."""

    def ragged(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(offsets int64 [rows + 1], values): row i is ``values[offsets[i] : offsets[i + 1]]``."""

    def texts(self, name: str) -> Callable[[int], str]:
        """Row number -> the text that ``Writer.append_texts`` got."""


class Writer(Protocol):
    """Takes columns piece by piece; what it got lies in temporary files, not in memory."""

    def append(self, name: str, values: np.ndarray) -> None:
        """Add rows, [rows] or [rows, k]; the first call settles dtype and k."""

    def append_ragged(self, name: str, values: np.ndarray, lengths: np.ndarray) -> None:
        """Add ``len(lengths)`` rows of different lengths, laid end to end in ``values`` [sum]."""

    def append_texts(self, name: str, texts: Sequence[str]) -> None:
        """Add rows of text."""

    def reorder(self, prefix: str, order: np.ndarray) -> None:
        """Rearrange, and drop, the rows of all columns so far whose name begins with ``prefix``.

        Args:
            prefix: for example "annotations."; the columns must have equally many rows.
            order: the old row of each new one, int64.
        """

    def read(self, name: str) -> np.ndarray:
        """What ``append`` got so far for a column, mapped read-only."""

    def drop(self, name: str) -> None:
        """Forget a column that only the build needed."""

    def note(self, **facts: Any) -> None:
        """Keep small facts (what JSON can hold), for example class names."""

    def progress(self, done: float) -> None:
        """Say how much is done, from 0 to 1; logs a line with the time left every few seconds."""


@runtime_checkable
class Source(Protocol):
    """Where a dataset's records come from. A small object without open files; it is not pickled.

    Attributes:
        place: file or folder beside which the index is kept, in the folder ``<place>.index``. None
            keeps it in the private folder of the run: for sources whose files are not known, or
            whose columns hold pickles, which nobody should read from a folder that others write to.
    """

    place: str | None

    def files(self) -> Sequence[str]:
        """Paths the records depend on, in a fixed order, asked at every opening.

        A file counts with its name, size, time of change and, where there are at most 100 paths, a
        hash of its head; a folder with its name and time of change. The build may depend on nothing
        else, except ``identity``.

        Raises:
            FileNotFoundError: one is missing, with its path as ``filename``.
        """

    def identity(self) -> Mapping[str, Any]:
        """What else the columns are a function of: the kind of source, its version, its options.

        JSON; another value means another index in the same folder. Without absolute paths, so that
        a dataset can be moved together with its index.
        """

    def write(self, writer: Writer) -> int:
        """Read the files once, from front to back, and append the columns.

        Returns:
            The number of records N.

        Raises:
            ValueError: the files are broken; one sentence with the path and what to do.
            FileNotFoundError: a file is missing.
        """

    def decoder(self) -> Callable[[Columns], RecordOf]:
        """The function that prepares decoding; pickled, so a module-level function or a partial.

        It is called once per process with the open columns and returns index -> record. It must not
        touch the source's files. Roots of paths, which may move, are bound here and not stored.
        """

    def publish(self, columns: Columns) -> None:
        """Put what the index knows into Detectron2's metadata (as loaders do); may do nothing.

        Called in every process that opens the index by the dataset's name, not in data workers.
        """


@runtime_checkable
class DerivedSource(Protocol):
    """Records that are made of another dataset's, through its index, and need none of their own."""

    def open_records(self) -> Sequence[dict[str, Any]]:
        """A ``records.RecordSequence``.

        Raises:
            ValueError: what it is made of is broken or missing.
            FileNotFoundError: a file of its own is missing, with its path as ``filename``.
        """
