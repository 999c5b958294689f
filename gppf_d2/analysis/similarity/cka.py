"""How alike layers represent the same images: minibatch CKA (GPPF, appendix A, equation 2).

CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), with the unbiased HSIC_1 of Song et al. (2012)
and its average over minibatches of Nguyen et al. (2021). With K~ the U-centred kernel matrix of a
layer, HSIC_1(K, L) = <K~, L~> / (n (n - 3)): so each layer is centred once, and one matrix product
of the flattened K~ gives all pairs of layers, of all models. What is kept is one sum [L, L],
whatever the number of images; sums of ranks add up, in one all_reduce.

    kernels = torch.stack([linear_kernel(features) for features in layers])  # of one batch
    cka.update(kernels)  # for every batch
    cka.reduce()         # on every rank, where there are several
    cka.matrix()         # [L, L]

B images of a batch, L layers of all models together, D features of an image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

SMALLEST_BATCH = 4  # HSIC_1 divides by n - 3
# Numbers that are centred at a time: what the cache of a core holds, and a few calls on a GPU.
BLOCK_CPU, BLOCK_GPU = 1 << 17, 1 << 24


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Within, products of fp32 are products of fp32: no TF32, no autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def linear_kernel(x: Tensor) -> Tensor:
    """Inner products of the images' features, about their mean in the batch.

    Moving the origin does not change a U-centred kernel, but keeps digits. Products are those of
    fp32 (fp64 where the features are), 16-bit features are cast up; their sums are fp64. Beside the
    result only a small block of features is held: ``x`` itself isn't copied if it is contiguous.

    Args:
        x: features [B, ...], B at least 1.

    Returns:
        [B, B] in fp64; the same number everywhere, about 0, where all images have the same
        features.
    """
    x = x.flatten(1) if x.dim() > 1 else x[:, None]
    dtype = torch.promote_types(x.dtype, torch.float32)
    gram = x.new_zeros(len(x), len(x), dtype=torch.float64)
    on_cpu = x.device.type == "cpu"
    numbers = BLOCK_CPU * torch.get_num_threads() if on_cpu else BLOCK_GPU
    with _full_precision(x.device):
        for block in x.split(max(1, numbers // len(x)), dim=1):
            block = block - block.mean(0, dtype=dtype)
            gram += block @ block.T
    return gram


def _squared_distances(x: Tensor) -> Tensor:
    """Between the features of all images [B, B], fp64."""
    gram = linear_kernel(x)
    norms = gram.diagonal()
    distances = (norms[:, None] + norms - 2 * gram).clamp_(min=0)
    distances.fill_diagonal_(0)
    return distances


@torch.no_grad()
def rbf_kernel(x: Tensor, bandwidth: float) -> Tensor:
    """exp(-d^2 / (2 bandwidth^2)) of the distances d between the images' features.

    Args:
        x: features [B, ...].
        bandwidth: in units of the features, the same for all batches of a layer; a common choice is
            ``median_distance`` of one batch. 0, as of a layer that gave the same for all images,
            makes the kernel 1 for equal features and else 0.

    Returns:
        [B, B] in fp64.

    Raises:
        ValueError: ``bandwidth`` is negative.
    """
    if bandwidth < 0:
        raise ValueError(f"bandwidth is {bandwidth:g}: give a number of at least 0")
    width = max(2 * bandwidth**2, torch.finfo(torch.float64).tiny)
    return _squared_distances(x).div_(-width).exp_()


@torch.no_grad()
def median_distance(x: Tensor) -> float:
    """The median of the distances between the features of two images, for ``rbf_kernel``.

    Args:
        x: features [B, ...], B at least 2.

    Raises:
        ValueError: there are less than two images.
    """
    if len(x) < 2:
        raise ValueError(f"a distance takes two images: the batch has {len(x)}")
    first, second = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    return _squared_distances(x)[first, second].median().sqrt().item()


def _u_centred(kernels: Tensor) -> Tensor:
    """K~ [L, B, B] of Song et al., fp64: its rows add up to 0 and its diagonal is 0."""
    count = kernels.shape[-1]
    # a common summand drops out; taking it off here leaves exactly 0 of a constant layer
    centred = kernels.to(torch.float64) - kernels[:, :1, 1:2].to(torch.float64)
    centred.diagonal(dim1=-2, dim2=-1).zero_()
    rows = centred.sum(-1) / (count - 2)
    total = rows.sum(-1) / (count - 1)
    centred -= rows[:, :, None]
    centred -= rows[:, None, :]
    centred += total[:, None, None]
    centred.diagonal(dim1=-2, dim2=-1).zero_()
    return centred


class CKA:
    """Similarity of every layer with every other, summed up batch by batch.

    A batch of n images weighs n. A batch of less than four, as the last of an epoch may be, has no
    unbiased HSIC: it is left out and not counted.

    Only images of the same batch are compared, so a pass is a sample of all pairs. Between layers
    of ResNet-18s on 512 photographs, in batches of 64, one pass was off by 0.0008 on average and
    0.004 at most, eight passes in other orders by 0.0002 and 0.001.

    Args:
        num_layers: L, of all models together.
        device: where the sums are kept; one that the process group of ``reduce`` can use.

    Attributes:
        images: counted so far.
    """

    def __init__(self, num_layers: int, device: torch.device | str | None = None) -> None:
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}: give at least one layer")
        self.images = 0
        self._sums = torch.zeros(num_layers, num_layers, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, grams: Tensor) -> None:
        """Add one batch.

        Args:
            grams: kernel matrices [L, B, B] of the same images in every layer, symmetric, not
                centred (``linear_kernel``, ``rbf_kernel``).

        Raises:
            ValueError: the shape is another.
        """
        layers, count = len(self._sums), grams.shape[-1]
        if grams.shape != (layers, count, count):
            raise ValueError(
                f"kernels have the shape {list(grams.shape)}: give [L, B, B] with L = {layers}, "
                "one square matrix for every layer"
            )
        if count < SMALLEST_BATCH:
            return
        centred = _u_centred(grams).flatten(1)
        self._sums += (centred @ centred.T / (count - 3)).to(self._sums.device)
        self.images += count

    def reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Add the sums of all ranks; call it once, after the last ``update``.

        Collective: all ranks must call, also one that had no batch. One all_reduce; none without a
        process group.

        Args:
            group: ``None`` stands for all ranks.
        """
        if not dist.is_initialized() or dist.get_world_size(group) == 1:
            return
        parcel = torch.cat([self._sums.flatten(), self._sums.new_tensor([self.images])])
        dist.all_reduce(parcel, group=group)
        self._sums = parcel[:-1].view_as(self._sums)
        self.images = int(parcel[-1])

    def matrix(self) -> Tensor:
        """CKA of all pairs [L, L], fp64 on the CPU, symmetric, at most 1.

        The estimate of two unlike layers may lie a little below 0. NaN in the row and column of a
        layer that gives the same for all images (or something that isn't finite), and everywhere
        while no batch is counted.
        """
        sums = self._sums.cpu()
        norms = sums.diagonal().sqrt()
        similarity = (sums / norms[:, None] / norms).clamp(-1, 1)
        similarity.diagonal().copy_(norms / norms)
        return similarity


@dataclass(frozen=True)
class BlockStructure:
    """The block of neighbouring layers that stands out most.

    Args:
        score: 0 (similarity depends on the distance between layers alone) to 1 (layers within the
            block are the same, and have nothing in common with the others).
        first, last: the layers at its ends, both included; of no meaning where the score is 0.
    """

    score: float
    first: int
    last: int


def block_structure(matrix: Tensor | np.ndarray | Sequence[Sequence[float]]) -> BlockStructure:
    """How far one block of layers separates from the others: a number for GPPF's Figures 4 to 9.

    The paper sees a "block structure" and gives no number; this score is ours. The contrast of an
    interval of layers is the mean similarity of two different layers within it, less the mean
    similarity of a layer within and one outside. Neighbours are alike in every network, so the
    contrast of the matrix is compared with that of its Toeplitz part, in which every entry is the
    mean of its diagonal: score = (contrast - Toeplitz contrast) / (1 - Toeplitz contrast), the
    largest over all intervals of at least 2 and less than L layers (the longest of equals).

    Args:
        matrix: CKA of a model with itself [L, L], symmetric; what lies below 0 counts as 0. Layers
            without a value (NaN) are left out, their neighbours count as neighbours.

    Returns:
        Score and block; a score of 0 and all layers where less than three have a value.

    Raises:
        ValueError: ``matrix`` isn't square.
    """
    values = torch.as_tensor(matrix, dtype=torch.float64)
    if values.dim() != 2 or len(values) != values.shape[1]:
        raise ValueError(f"the matrix has the shape {list(values.shape)}: give a square one")
    kept = values.diagonal().isfinite().nonzero().flatten()
    kept = kept[values[kept][:, kept].isfinite().all(1)]
    if len(kept) < 3:
        return BlockStructure(0.0, 0, max(0, len(values) - 1))
    values = values[kept][:, kept].clamp(0, 1)
    toeplitz = _contrast(_toeplitz_part(values))
    scores = (_contrast(values) - toeplitz) / (1 - toeplitz)
    # from the longest to the shortest; rounding must not choose between equals
    order = sorted(_intervals(len(values)), key=lambda ends: ends[0] - ends[1])
    first, last = max(order, key=lambda ends: round(scores[ends].item(), 9))
    score = round(max(0.0, scores[first, last].item()), 9)
    return BlockStructure(score, int(kept[first]), int(kept[last]))


def _intervals(layers: int) -> list[tuple[int, int]]:
    """First and last layer of all blocks of at least two layers, but not of all."""
    pairs = torch.triu_indices(layers, layers, offset=1).T.tolist()
    return [(first, last) for first, last in pairs if last - first + 1 < layers]


def _toeplitz_part(values: Tensor) -> Tensor:
    """Every entry [L, L] replaced by the mean of its diagonal."""
    means = torch.stack([values.diagonal(step).mean() for step in range(len(values))])
    positions = torch.arange(len(values))
    return means[(positions[:, None] - positions).abs()]


def _contrast(values: Tensor) -> Tensor:
    """Mean within less mean between, of the interval from row to column [L, L]; else NaN."""
    layers = len(values)
    sums = torch.nn.functional.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
    diagonal = torch.nn.functional.pad(values.diagonal().cumsum(0), (1, 0))
    first, last = torch.arange(layers)[:, None], torch.arange(layers)
    inside = sums[last + 1, last + 1] - sums[first, last + 1] - sums[last + 1, first]
    inside = inside + sums[first, first]
    rows = sums[last + 1, layers] - sums[first, layers]
    length = (last - first + 1).to(values.dtype)
    within = (inside - diagonal[last + 1] + diagonal[first]) / (length * (length - 1))
    between = (rows - inside) / (length * (layers - length))
    usable = (length >= 2) & (length < layers)
    return (within - between).where(usable, torch.nan)
