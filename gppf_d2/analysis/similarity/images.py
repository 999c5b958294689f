"""The images that networks are compared on: square, in a seeded order, dealt to ranks.

Which images, in which batches: a pure function of (size of the dataset, count, batch size, passes,
seed). Every pass makes new batches of the same images; batch i goes to rank i modulo the number of
ranks, so that all ranks together see what one process would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from gppf_d2.analysis.similarity.cka import SMALLEST_BATCH
from gppf_d2.data.loader import as_it_is, prepare_worker
from gppf_d2.data.mappers.reading import load_image
from gppf_d2.tasks.permutation import KeyedPermutation
from gppf_d2.tasks.random import hash64


def plan_batches(
    total: int, count: int, batch_size: int, passes: int = 1, seed: int = 0
) -> list[list[int]]:
    """The batches of all ranks, as indices of images.

    Args:
        total: images of the dataset.
        count: how many of them to take; all where there are fewer.
        batch_size: images of a batch; the last of a pass may have fewer, and is left out where it
            would have less than four, of which there is no estimate.
        passes: over the images.
        seed: of their choice and order.

    Raises:
        ValueError: a number that is too small, or fewer than four images.
    """
    for name, value, least in (
        ("--batch-size", batch_size, SMALLEST_BATCH),
        ("--count", count, SMALLEST_BATCH),
        ("--passes", passes, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; give a number of {least} or more.")
    if total < SMALLEST_BATCH:
        raise ValueError(
            f"There are {total} images; similarity takes {SMALLEST_BATCH} or more, name a larger "
            "dataset or folder."
        )
    count = min(count, total)
    choice = KeyedPermutation(total, hash64("similarity", seed))
    batches = []
    for number in range(passes):
        order = KeyedPermutation(count, hash64("similarity", seed, number))
        indices = [choice(order(index)) for index in range(count)]
        parts = [indices[start : start + batch_size] for start in range(0, count, batch_size)]
        batches += [part for part in parts if len(part) >= SMALLEST_BATCH]
    return batches


class SquareImages(Dataset):
    """Batches of images: the shorter side resized, the middle cut out.

    Args:
        records: with "file_name".
        size: S, side of the square, in pixels.
    """

    def __init__(self, records: Sequence[dict[str, Any]], size: int) -> None:
        if size < 1:
            raise ValueError(f"--size is {size}; give the side of the images in pixels.")
        self.records, self.size = records, size

    def __getitem__(self, indices: Sequence[int]) -> Tensor | str:
        """RGB uint8 [B, 3, S, S], or the sentence about an image that cannot be read."""
        try:
            return torch.stack([self._image(index) for index in indices])
        except (OSError, ValueError) as error:
            return str(error)

    def _image(self, index: int) -> Tensor:
        image = F.pil_to_tensor(load_image(dict(self.records[index])))
        resized = F.resize(image, [self.size], antialias=True)
        return F.center_crop(resized, [self.size])


def read_batches(
    images: SquareImages, batches: Sequence[Sequence[int]], workers: int = 0
) -> Iterator[Tensor]:
    """Read batches in order, ahead of whoever takes them.

    Args:
        images: where from.
        batches: indices of images.
        workers: processes that read; 0 reads in this one.

    Yields:
        RGB uint8 [B, 3, S, S].

    Raises:
        ValueError: an image cannot be read.
    """
    loader: DataLoader = DataLoader(
        images,
        sampler=batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=min(workers, len(batches)),
        worker_init_fn=prepare_worker,
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, str):
            raise ValueError(batch)
        yield batch
