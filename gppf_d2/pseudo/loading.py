"""Read every image once, in data workers, and map it for all teachers.

A chunk is a few images of one shard, in order. What a chunk holds is a function of its indices: a
mapper that draws random numbers draws the same ones in whichever process it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from gppf_d2.data.batch import map_tensors
from gppf_d2.data.loader import allow_open_files, as_it_is, prepare_worker
from gppf_d2.data.mappers.reading import already_decoded, load_image, read_bytes
from gppf_d2.data.pseudo_labels import HASH_BYTES, image_hash
from gppf_d2.data.samples import is_corrupt, kept_generators, one_line, seed_generators
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo.teacher import Inputs, Teacher, once, share_equal

# of a record, what says where the image is and how it was taken; annotations stay behind
KEPT = ("file_name", "image_id", "height", "width", "tar_file", "tar_offset", "focal_length")


class Part(NamedTuple):
    """Images ``start`` to ``stop`` - 1 of the data, in a shard; ``last`` ends the shard."""

    shard: int
    start: int
    stop: int
    last: bool


@dataclass
class Picture:
    """One image: what is known of it, its samples for every teacher, or why there are none."""

    index: int
    file_name: str
    image_hash: bytes = bytes(HASH_BYTES)
    height: int = 0
    width: int = 0
    error: str = ""
    inputs: list[Inputs] = field(default_factory=list)


@dataclass
class Chunk:
    """The images of a part; ``failure`` says what ended the reading, "" where nothing did."""

    part: Part
    pictures: list[Picture]
    failure: str = ""

    def pin_memory(self) -> Chunk:
        """The chunk with its samples in page-locked memory."""
        pinned = [
            replace(one, inputs=map_tensors(one.inputs, once(torch.Tensor.pin_memory)))
            for one in self.pictures
        ]
        return replace(self, pictures=pinned)


class Pictures(Dataset):
    """From a part to its chunk.

    Args:
        records: of all images.
        teachers: whose mappers read them.
    """

    def __init__(self, records: Any, teachers: Sequence[Teacher]) -> None:
        self._records = records
        self._mappers = [(list(one.labels), list(one.mappers)) for one in teachers]

    def __getitem__(self, part: Part) -> Chunk:
        chunk = Chunk(part, [])
        try:
            with kept_generators():
                for index in range(part.start, part.stop):
                    chunk.pictures.append(self._picture(index))
        except UserError as error:
            chunk.failure = str(error)
        return chunk

    def _picture(self, index: int) -> Picture:
        full = self._records[index]
        record = {key: full[key] for key in KEPT if key in full}
        picture = Picture(index, str(record["file_name"]))
        try:
            data = read_bytes(record)
            picture.image_hash = image_hash(data)
            image = load_image(record, data)
            picture.height, picture.width = image.height, image.width
            with already_decoded(record["file_name"], image):
                for labels, mappers in self._mappers:
                    mapped = [_mapped(mapper, dict(record), index, labels) for mapper in mappers]
                    picture.inputs.append(mapped)
            share_equal([sample for inputs in picture.inputs for sample in inputs])
        except Exception as error:
            if isinstance(error, UserError) or not is_corrupt(error):
                raise
            picture.error, picture.inputs = one_line(error), []
        return picture


def _mapped(
    mapper: Any, record: dict[str, Any], index: int, labels: Sequence[str]
) -> dict[str, Any]:
    seed_generators("pseudo label", index, *labels)
    try:
        return mapper(record)
    except Exception as error:
        if is_corrupt(error):
            raise
        raise UserError(
            f"The mapper of {', '.join(labels)} failed on '{record['file_name']}': "
            f"{type(error).__name__}: {one_line(error)}."
        ) from error


@dataclass(frozen=True)
class Parts:
    """The parts of some shards, in order.

    Args:
        shards: their numbers.
        shard_size: images in each but the last of all.
        total: number of images of all shards.
        size: images in a part.
    """

    shards: Sequence[int]
    shard_size: int
    total: int
    size: int

    def __iter__(self) -> Iterator[Part]:
        for shard in self.shards:
            end = min((shard + 1) * self.shard_size, self.total)
            for start in range(shard * self.shard_size, end, self.size):
                stop = min(start + self.size, end)
                yield Part(shard, start, stop, stop == end)

    @property
    def images(self) -> int:
        """How many there are in them."""
        ends = (min((shard + 1) * self.shard_size, self.total) for shard in self.shards)
        return sum(end - shard * self.shard_size for shard, end in zip(self.shards, ends))


def chunks(
    records: Any, teachers: Sequence[Teacher], parts: Parts, num_workers: int, pinned: bool
) -> DataLoader:
    """The chunks of some parts, in order, read ahead by worker processes.

    Args:
        records: of all images.
        teachers: whose mappers read them.
        parts: what to read.
        num_workers: processes; 0 reads in this one.
        pinned: hand samples out in page-locked memory.
    """
    if num_workers:
        allow_open_files()
    return DataLoader(
        Pictures(records, teachers),
        sampler=parts,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=num_workers,
        pin_memory=pinned,
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),
    )
