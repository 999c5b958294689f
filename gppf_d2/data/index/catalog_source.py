"""Any dataset of Detectron2's catalogs, by calling the function that it was registered with.

Nothing is known about the function but its result, so every record is kept whole, pickled, beside
the columns that the engine reads. Its files are not known either, nor its code: the index serves
one run, where it saves every rank and worker a copy of its own, and is made anew by the next.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from gppf_d2.data.index.source import Columns, RecordOf, Writer

PIECE = 2000  # records


class CatalogSource:
    """The records that a function returns.

    Args:
        name: of the dataset.
        function: returns its records.
        generation: how many other functions the name stood for before, in this run.
    """

    place = None

    def __init__(
        self, name: str, function: Callable[[], Sequence[Any]], generation: int = 0
    ) -> None:
        self._name, self._function, self._generation = name, function, generation

    def files(self) -> Sequence[str]:
        return []

    def identity(self) -> Mapping[str, Any]:
        return {"kind": "catalog", "name": self._name, "generation": self._generation}

    def write(self, writer: Writer) -> int:
        known = set(MetadataCatalog.get(self._name).as_dict())
        records = list(self._function())
        for start in range(0, max(len(records), 1), PIECE):
            self._append(writer, start, records[start : start + PIECE])
            writer.progress(start / max(len(records), 1))
        metadata = MetadataCatalog.get(self._name).as_dict()
        new = {key: value for key, value in metadata.items() if key not in known}
        writer.append("metadata", np.frombuffer(self._pickled(new, "metadata"), np.uint8))
        counts = writer.read("counts")
        writer.append("annotations", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        writer.drop("counts")
        return len(records)

    def _append(self, writer: Writer, start: int, records: list) -> None:
        pickles = [self._pickled(r, f"record {start + i}") for i, r in enumerate(records)]
        lengths = np.fromiter(map(len, pickles), np.int64, len(pickles))
        writer.append_ragged("record", np.frombuffer(b"".join(pickles), np.uint8), lengths)
        objects = [_objects(record) for record in records]
        writer.append("counts", np.fromiter(map(len, objects), np.int64, len(objects)))
        flat = [one for some in objects for one in some]
        pairs = np.array(flat, np.int64).reshape(-1, 2)
        writer.append("annotations.category_id", pairs[:, 0])
        writer.append("annotations.iscrowd", pairs[:, 1].astype(np.uint8))

    def _pickled(self, value: Any, what: str) -> bytes:
        try:
            return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise ValueError(
                f"The {what} of dataset '{self._name}' cannot be sent to data workers: "
                f"{type(error).__name__}: {error}; keep to numbers, texts, lists, dicts and arrays"
            ) from error

    def decoder(self) -> Callable[[Columns], RecordOf]:
        return decode

    def publish(self, columns: Columns) -> None:
        metadata = MetadataCatalog.get(self._name)
        for key, value in pickle.loads(columns["metadata"].tobytes()).items():
            if metadata.get(key) is None:
                metadata.set(**{key: value})


def decode(columns: Columns) -> RecordOf:
    """Prepare unpickling of records; see ``Source.decoder``."""
    offsets, values = columns.ragged("record")
    data = memoryview(values)
    return lambda index: pickle.loads(data[offsets[index] : offsets[index + 1]])


def _objects(record: Any) -> list[tuple[int, int]]:
    """(category, crowd) of each object of a record, as far as it follows Detectron2's format."""
    if not isinstance(record, Mapping):
        return []
    if "annotations" not in record:
        label = record.get("label")
        return [(int(label), 0)] if isinstance(label, (int, np.integer)) else []
    return [
        (int(one.get("category_id", -1)), int(bool(one.get("iscrowd", 0))))
        for one in record["annotations"] or ()
        if isinstance(one, Mapping)
    ]
