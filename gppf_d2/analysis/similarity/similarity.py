"""Similarity of the layers of several networks: measured in one pass, kept as JSON.

One symmetric matrix holds all layers of all networks (``cka``), so that every network with itself
and with every other comes out of the same batches. A file under ``cka/`` of a run folder holds it:

    {"models": [{"name", "iteration", "layers": [names],
                 "block_structure": {"score", "first", "last"}}],
     "matrix": [L][L], "kernel", "bandwidth", "images", "batch_size", "passes", "size", "dataset"}

L layers of all networks together, B images of a batch, S their side. What has no value (NaN) is
null in the file, and the iteration of a network that is no checkpoint of a run.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gppf_d2.analysis.figures import write_file
from gppf_d2.analysis.similarity.cka import (
    CKA,
    BlockStructure,
    block_structure,
    linear_kernel,
    median_distance,
    rbf_kernel,
)
from gppf_d2.analysis.similarity.features import Layers

KERNELS = ("linear", "rbf")
FOLDER = "cka"  # in a run folder
Kernel = Callable[[int, Tensor], Tensor]


class Network(NamedTuple):
    """One of the compared networks: its name, those of its layers, from the input on, and the
    iteration of its checkpoint, where it is one of a run."""

    name: str
    layers: tuple[str, ...]
    iteration: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """What was measured, and how.

    Args:
        networks: in the order of the matrix.
        matrix: CKA of all layers of all networks, fp64 [L, L]; NaN where a layer is constant.
        kernel: "linear" or "rbf".
        bandwidth: of "rbf", in median distances of a layer; None for "linear".
        images: of a pass.
        batch_size: images of a batch.
        passes: over the images, in different batches.
        size: side of the square images, in pixels.
        dataset: where the images come from.
    """

    networks: tuple[Network, ...]
    matrix: np.ndarray
    kernel: str
    bandwidth: float | None
    images: int
    batch_size: int
    passes: int
    size: int
    dataset: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks."""
        return tuple(network.name for network in self.networks)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of different networks, by name."""
        return list(itertools.combinations(self.names, 2))

    def between(self, first: str, second: str) -> np.ndarray:
        """The layers of one network (rows) against those of another, or of itself."""
        ends = list(itertools.accumulate(len(network.layers) for network in self.networks))
        spans = {
            network.name: slice(end - len(network.layers), end)
            for network, end in zip(self.networks, ends)
        }
        return self.matrix[spans[first], spans[second]]

    def layers_of(self, name: str) -> tuple[str, ...]:
        """The names of a network's layers."""
        return next(one.layers for one in self.networks if one.name == name)

    @cached_property
    def blocks(self) -> dict[str, BlockStructure]:
        """The block structure of every network."""
        return {name: block_structure(self.between(name, name)) for name in self.names}

    def same_layers(self, first: str, second: str) -> float:
        """The mean similarity of a layer of one network and the same layer of the other; NaN where
        the two have other layers."""
        if self.layers_of(first) != self.layers_of(second):
            return float("nan")
        return _mean(self.between(first, second).diagonal())

    def all_layers(self, first: str, second: str) -> float:
        """The mean similarity of any layer of one network and any of the other."""
        return _mean(self.between(first, second).flat)

    def save(self, path: Path) -> Path:
        """Write the file; the folder is made as needed."""
        rows = [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in self.matrix]
        content = {
            "models": [
                {
                    "name": name,
                    "iteration": iteration,
                    "layers": list(layers),
                    "block_structure": vars(self.blocks[name]),
                }
                for name, layers, iteration in self.networks
            ],
            "kernel": self.kernel, "bandwidth": self.bandwidth, "images": self.images,
            "batch_size": self.batch_size, "passes": self.passes, "size": self.size,
            "dataset": self.dataset, "matrix": rows,
        }  # fmt: skip
        return write_file(path, (json.dumps(content) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Similarity:
        """Read a file that `save` wrote.

        Raises:
            ValueError: it cannot be read, or holds something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            networks = tuple(
                Network(
                    str(one["name"]), tuple(map(str, one["layers"])), _count(one.get("iteration"))
                )
                for one in content["models"]
            )
            matrix = np.array(content["matrix"], dtype=float)
            numbers = {key: int(content[key]) for key in ("images", "batch_size", "passes", "size")}
            bandwidth = None if content["bandwidth"] is None else float(content["bandwidth"])
            kernel, dataset = str(content["kernel"]), str(content["dataset"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path.name} cannot be read as a file of similarities "
                f"({type(error).__name__}: {error}); make it again with gppf_d2.tools.cka."
            ) from error
        total = sum(len(network.layers) for network in networks)
        if not total or matrix.shape != (total, total):
            raise ValueError(
                f"{path.name} has a matrix of the shape {list(matrix.shape)} for {total} layers; "
                "make it again with gppf_d2.tools.cka."
            )
        return cls(
            networks=networks, matrix=matrix, kernel=kernel, bandwidth=bandwidth, dataset=dataset,
            **numbers,
        )  # fmt: skip


def find_similarities(folder: str | Path) -> list[Path]:
    """The files of similarities in a run folder, by name."""
    return sorted((Path(folder) / FOLDER).glob("*.json"))


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def kernels_of(networks: Sequence[Layers], images: Tensor, kernel: Kernel) -> Tensor:
    """The kernel matrices of a batch in all layers of all networks.

    Args:
        networks: L layers together.
        images: RGB uint8 [B, 3, S, S].
        kernel: from the index of a layer and its features [B, ...] to [B, B].

    Returns:
        fp64 [L, B, B].
    """
    grams: list[Tensor] = []
    for network in networks:
        grams += _kernels_of_one(network, images, kernel, start=len(grams))
    return torch.stack(grams)


def _kernels_of_one(network: Layers, images: Tensor, kernel: Kernel, start: int) -> list[Tensor]:
    found: dict[int, Tensor] = {}

    def take(index: int, features: Tensor) -> None:
        found[index] = kernel(start + index, features)

    network(images, take)
    return [found[index] for index in range(len(network.names))]


def choose_kernel(
    networks: Sequence[Layers], kernel: str, bandwidth: float, calibration: Tensor | None
) -> Kernel:
    """The kernel of every layer.

    Args:
        networks: L layers together.
        kernel: "linear" or "rbf".
        bandwidth: of "rbf", in median distances between the features of two images.
        calibration: images [B, 3, S, S] that the median is taken of, of every layer; the same on
            all ranks. None will do for "linear".

    Raises:
        ValueError: an unknown kernel, or a bandwidth that is not positive.
    """
    if kernel not in KERNELS:
        raise ValueError(f"The kernel is {kernel!r}; choose one of {', '.join(KERNELS)}.")
    if kernel == "linear":
        return lambda _, x: linear_kernel(x)
    if not bandwidth > 0:
        raise ValueError(f"The bandwidth is {bandwidth}; give a positive number, such as 1.")
    assert calibration is not None, "the rbf kernel needs images to find the bandwidths of layers"

    def distance(_: int, x: Tensor) -> Tensor:
        return torch.tensor(median_distance(x), dtype=torch.float64)

    widths = (bandwidth * kernels_of(networks, calibration, distance)).tolist()
    return lambda index, x: rbf_kernel(x, widths[index])


def accumulate(
    networks: Sequence[Layers],
    batches: Iterable[Tensor],
    kernel: Kernel,
    device: torch.device,
    progress: Callable[[int], None] = lambda images: None,
) -> CKA:
    """Run all networks over this rank's batches.

    Args:
        networks: on the device.
        batches: RGB uint8 [B, 3, S, S]; one after the other, none is kept.
        kernel: of every layer (`choose_kernel`).
        device: of the networks and the sums.
        progress: called with the number of images of every batch that is done.

    Returns:
        The sums of this rank, yet to be reduced.
    """
    cka = CKA(sum(len(network.names) for network in networks), device)
    for images in batches:
        cka.update(kernels_of(networks, images.to(device), kernel))
        progress(len(images))
    return cka


def _mean(values: Any) -> float:
    """The mean of the values that are there; NaN where none is."""
    array = np.array(list(values), dtype=float)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else float("nan")
