"""From the positions of a stream to samples: seeded, and with corrupt ones replaced.

A batch is a function of (seed, task, positions) alone: every sample is mapped, and every batch
mixed, under python, numpy and torch generators that are seeded from there and restored afterwards,
in a worker or in the process itself. (Mappers draw from the global generators; one that makes an
unseeded generator of its own is not reproducible.)

A sample that cannot be read is replaced by another one, a function of (seed, task, position,
attempt), and named in ``Batch.replaced``; the stream moves on as if it had been good. Everything
else that goes wrong is a ``LoaderError``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import struct
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.utils.serialize import PicklableWrapper
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from gppf_d2.data.batch import Batch
from gppf_d2.tasks.random import hash64
from gppf_d2.tasks.stream import Position, Stream

ATTEMPTS = 20

# What reading and decoding raise where a file is bad: the file system, PIL (whose "cannot identify"
# is an OSError), zlib, struct, cv2, Detectron2's size mismatch. Other types are mistakes, in the
# mapper (KeyError, TypeError, ...) or in the annotations (ValueError), and end the run.
CORRUPT = (
    OSError,
    SizeMismatchError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    cv2.error,
    Image.DecompressionBombError,
)
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


class LoaderError(ValueError):
    """The loader cannot go on, for a reason that the message tells in one sentence."""


@dataclass
class TaskSource:
    """Where the samples of a task come from.

    Args:
        records: the dataset's records. A plain list is serialised into one buffer, which workers
            share instead of copying; any other sequence or map-style dataset is used as it is, and
            its records must not be changed by the mapper.
        mapper: record -> sample, or None to have another sample drawn in its place.
        batch_transform: list of samples -> list of samples, applied to a whole batch (as MixUp is).
        sizes: samples of each dataset that the records are from; for whoever describes the run.
    """

    records: Any
    mapper: Callable[[Any], Any]
    batch_transform: Callable[[list], list] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.records, (list, tuple)) and self.records:
            self.records = DatasetFromList(list(self.records), copy=False, serialize=True)
        self.mapper = PicklableWrapper(self.mapper)
        if self.batch_transform is not None:
            self.batch_transform = PicklableWrapper(self.batch_transform)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Put the global python, numpy and torch (CPU) generators back to where they were before."""
    state = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.default_generator.set_state(state[2])


def seed_generators(*keys: int | str) -> None:
    """Seed the global python, numpy and torch (CPU) generators with the hash of the keys."""
    seed = hash64(*keys)
    random.seed(seed)
    # Python seeds the same generator with two words; a third one keeps the two from drawing alike.
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32, 1])
    # Not torch.manual_seed, which would also move the generators of the accelerators.
    torch.default_generator.manual_seed(seed)


class BatchKey(NamedTuple):
    """What the process tells a worker: everything that a batch is a function of."""

    task: str
    rank: int
    iteration: int
    micro_step: int
    positions: list[Position]


@dataclass
class Failure:
    """What a worker sends instead of a batch: exceptions would lose their sentence on the way."""

    sentence: str
    traceback: str


class Samples(Dataset):
    """The dataset of all tasks: from a key to its batch."""

    def __init__(
        self, sources: Mapping[str, TaskSource], streams: Mapping[str, Stream], seed: int
    ) -> None:
        self._sources = sources
        self._streams = streams
        self._seed = seed

    def __getitem__(self, key: BatchKey) -> Batch | Failure:
        try:
            return self._batch(key)
        except LoaderError as error:
            if get_worker_info() is None:
                raise
            return Failure(str(error), "".join(traceback.format_exception(error)))

    def _batch(self, key: BatchKey) -> Batch:
        batch = Batch(key.task, key.iteration, key.micro_step, [], key.positions, rank=key.rank)
        with kept_generators():
            for position in key.positions:
                batch.samples.append(self._sample(key.task, position, batch))
            transform = self._sources[key.task].batch_transform
            if transform is not None:
                seed_generators("batch", self._seed, key.task, *key.positions[0])
                try:
                    batch.samples = transform(batch.samples)
                except Exception as error:
                    raise LoaderError(
                        f"The batch transform of task {key.task!r} failed: {_describe(error)}."
                    ) from error
        return batch

    def _sample(self, task: str, position: Position, batch: Batch) -> Any:
        """The sample at a position, or the first good one that stands in for it; reseeds."""
        source, stream = self._sources[task], self._streams[task]
        failed: dict[str, None] = {}  # in order, each once
        reason = ""
        for attempt in range(ATTEMPTS):
            index = stream.index(position)
            if attempt:
                index = hash64("resample", self._seed, task, *position, attempt) % stream.size
            name = f"record {index}"
            try:
                seed_generators("sample", self._seed, task, *position, attempt)
                record = source.records[index]
                name = _file_name(record, name)
                sample = source.mapper(record)
            except Exception as error:
                if not is_corrupt(error):
                    raise LoaderError(
                        f"The mapper of task {task!r} failed on {name}: {_describe(error)}."
                    ) from error
                failed[name], reason = None, f"{type(error).__name__}: {one_line(error)}"
                batch.replaced.append(name)
                batch.reasons.append(reason)
                continue
            if sample is not None:
                return sample
            failed[name], reason = None, "None from the mapper"
        raise LoaderError(
            f"Task {task!r} found no usable sample in {ATTEMPTS} attempts at epoch "
            f"{position.epoch}, offset {position.offset}; mend or remove {', '.join(failed)} "
            f"(the last one failed with {reason})."
        )


def is_corrupt(error: Exception) -> bool:
    """Whether another sample may do better: not after a mistake in code, nor on a full machine."""
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return False
    if isinstance(error, CORRUPT):
        return True
    # torchvision's decoders raise the RuntimeError that everything in torch raises.
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return type(error) is RuntimeError and any(m.startswith("torchvision.io") for m in modules)


def _file_name(record: Any, otherwise: str) -> str:
    if isinstance(record, Mapping) and "file_name" in record:
        return str(record["file_name"])
    return otherwise


def _describe(error: BaseException) -> str:
    """Type, message and place of an error in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f", {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{where}"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
