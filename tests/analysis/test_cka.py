"""CKA in minibatches against the textbook formulas on all images at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gppf_d2.analysis.similarity import cka as module
from gppf_d2.analysis.similarity.cka import (
    CKA,
    block_structure,
    linear_kernel,
    median_distance,
    rbf_kernel,
)
from gppf_d2.distributed.collective_log import CollectiveLog
from tests.harness import run_distributed

IMAGES, BATCH = 512, 64
SHAPES = [(16, 4, 4), (16, 4, 4), (24, 3, 3), (200,), (200,)]


def make_features(seed: int) -> list[Tensor]:
    """Layers of a made network [512, ...]: a signal that drifts, noise, ReLU, an offset."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.arange(1, 25) ** -0.5
    signal = torch.randn(IMAGES, 24, generator=generator)
    layers = []
    for depth, shape in enumerate(SHAPES):
        signal = signal + 0.1 * torch.randn(signal.shape, generator=generator)
        weights = torch.randn(24, int(np.prod(shape)), generator=generator)
        noise = 0.2 * (1 + depth) * torch.randn(IMAGES, weights.shape[1], generator=generator)
        layers.append(((signal * strength) @ weights + noise).relu().add(3).unflatten(1, shape))
    return layers


@pytest.fixture(scope="module")
def features() -> list[Tensor]:
    return make_features(seed=2)


@pytest.fixture(scope="module")
def widths(features: list[Tensor]) -> list[float]:
    """Bandwidths of one batch, for all batches."""
    return [0.8 * median_distance(x[:BATCH]) for x in features]


def textbook_kernel(x: Tensor, bandwidth: float | None) -> np.ndarray:
    """Linear, or RBF where there is a bandwidth, pair by pair in fp64."""
    rows = x.double().flatten(1).numpy()
    if bandwidth is None:
        return rows @ rows.T
    return np.stack([np.exp(-((rows - r) ** 2).sum(1) / (2 * bandwidth**2)) for r in rows])


def textbook_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC_1 as Song et al. (2012) write it, equation 5: no U-centring."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    total = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3))


def textbook_cka(kernels: list[list[np.ndarray]]) -> np.ndarray:
    """CKA [L, L] of the kernels of batches [batch][L]; a batch of n images weighs n."""
    hsic = sum(
        len(batch[0]) * np.array([[textbook_hsic(k, m) for m in batch] for k in batch])
        for batch in kernels
    )
    return hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))


def kernels_of(layers: list[Tensor], part: slice | Tensor, widths: list[float] | None) -> Tensor:
    if widths is None:
        return torch.stack([linear_kernel(x[part]) for x in layers])
    return torch.stack([rbf_kernel(x[part], width) for x, width in zip(layers, widths)])


def in_batches(
    layers: list[Tensor], sizes: list[int], widths: list[float] | None = None, start: int = 0
) -> CKA:
    """The estimator after one update for every size."""
    cka = CKA(len(layers))
    for size in sizes:
        cka.update(kernels_of(layers, slice(start, start + size), widths))
        start += size
    return cka


@pytest.fixture(scope="module", params=["linear", "rbf"])
def case(
    request: pytest.FixtureRequest, features: list[Tensor], widths: list[float]
) -> tuple[list[float] | None, np.ndarray]:
    """Bandwidths, and the unbiased value of all images at once."""
    chosen = widths if request.param == "rbf" else None
    whole = [textbook_kernel(x, w) for x, w in zip(features, chosen or [None] * len(features))]
    return chosen, textbook_cka([whole])


def test_one_batch_of_all_images_is_the_full_unbiased_value(features: list, case: tuple) -> None:
    widths, expected = case
    found = in_batches(features, [IMAGES], widths).matrix()
    assert found.dtype == torch.float64 and torch.equal(found.diagonal(), torch.ones(len(SHAPES)))
    assert expected.min() < 0.9, "the layers are too alike for this test"
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_minibatches_come_within_a_thousandth_of_it(features: list, case: tuple) -> None:
    """One pass compares an eighth of all pairs of images; passes in other orders add the rest."""
    widths, expected = case
    generator = torch.Generator().manual_seed(0)
    cka, errors = CKA(len(features)), []
    for _ in range(16):
        for batch in torch.randperm(IMAGES, generator=generator).split(BATCH):
            cka.update(kernels_of(features, batch, widths))
        errors.append(np.abs(cka.matrix().numpy() - expected).max())
    assert cka.images == 16 * IMAGES
    assert errors[0] < 5e-3 and errors[-1] < 1e-3


def test_a_batch_weighs_its_images_and_less_than_four_do_not_count(features: list) -> None:
    sizes = [40, 3, 9, 4]
    cka = in_batches(features, sizes)
    parts = [slice(0, 40), slice(43, 52), slice(52, 56)]
    expected = textbook_cka([[textbook_kernel(x[p], None) for x in features] for p in parts])
    assert cka.images == 53
    assert np.abs(cka.matrix().numpy() - expected).max() < 1e-5
    assert in_batches(features, [3]).matrix().isnan().all()


def test_cka_knows_no_rotation_scale_offset_or_order() -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(torch.randn(30, 30))[0]
    order = torch.randperm(40)
    cka = in_batches([x[order], (5 * x @ rotation - 100)[order], torch.randn(40, 30)], [40])
    assert cka.matrix()[0, 1] == pytest.approx(1, abs=1e-6)
    assert cka.matrix()[0, 2].abs() < 0.2


def test_a_wide_rbf_kernel_gives_the_linear_value(features: list) -> None:
    wide = [1000 * median_distance(x) for x in features]
    linear = in_batches(features, [BATCH]).matrix()
    assert torch.allclose(in_batches(features, [BATCH], wide).matrix(), linear, atol=1e-4)


def test_rbf_kernel_of_three_points() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]) + 1000
    squares = torch.tensor([[0, 25, 1], [25, 0, 18], [1, 18, 0]]).double()
    assert median_distance(x) == pytest.approx(18**0.5)
    assert torch.allclose(rbf_kernel(x, 2.0), torch.exp(-squares / 8))
    assert torch.equal(rbf_kernel(x, 0.0), torch.eye(3, dtype=torch.float64))
    assert torch.equal(rbf_kernel(torch.full((3, 7), 1 / 3), 0.0), torch.ones(3, 3))


def test_linear_kernel_keeps_its_digits() -> None:
    x = torch.randn(8, 6, 5, generator=torch.Generator().manual_seed(2))
    exact = x.double().flatten(1)
    exact = (exact - exact.mean(0)) @ (exact - exact.mean(0)).T
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(linear_kernel(x), exact, rtol=0, atol=1e-5)
    assert torch.allclose(linear_kernel(x + 1e3), exact, rtol=0, atol=5e-3)
    assert torch.allclose(linear_kernel(x.double() + 1e6), exact, rtol=0, atol=1e-8)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = x.to(dtype)
        assert torch.allclose(linear_kernel(rounded), linear_kernel(rounded.float()), atol=1e-6)
    assert torch.equal(linear_kernel(x[:, 0, 0]), linear_kernel(x[:, :1, :1]))


def test_products_are_full_precision_and_the_setting_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen = torch.get_float32_matmul_precision(), []
    split = Tensor.split
    monkeypatch.setattr(
        Tensor,
        "split",
        lambda *a, **k: seen.append(torch.get_float32_matmul_precision()) or split(*a, **k),
    )
    try:
        torch.set_float32_matmul_precision("high")
        linear_kernel(torch.randn(4, 3))
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("count", [21, 28, 32])
def test_a_layer_without_variation_has_no_value_and_harms_no_other(
    features: list, count: int
) -> None:
    x, y = features[0][:count], features[4][:count]
    same, broken = torch.full((count, 50), 1 / 3), torch.full((count, 5), 1.0)
    broken[3, 2] = torch.inf
    layers = [x, same, y, broken, torch.zeros(count, 3)]
    for widths in (None, [median_distance(layer) for layer in layers], [1.0] * 5):
        found = in_batches(layers, [count], widths).matrix()
        assert found[[1, 3, 4]].isnan().all() and found[:, [1, 3, 4]].isnan().all()
        alone = in_batches([x, y], [count], widths and [widths[0], widths[2]]).matrix()
        assert torch.allclose(found[[0, 2]][:, [0, 2]], alone, rtol=0, atol=1e-12)


class LargestResult(TorchDispatchMode):
    """Records the most numbers that any operation newly allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in known:
            self.numbers = max(self.numbers, result.numel())
        return result


def test_kernels_go_through_wide_features_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(16, 3, 5000, generator=torch.Generator().manual_seed(3))
    whole = linear_kernel(x)
    monkeypatch.setattr(module, "BLOCK_CPU", 1000)
    with LargestResult() as largest:
        parts = linear_kernel(x)
    assert largest.numbers <= 1000 * torch.get_num_threads()
    assert torch.allclose(parts, whole, rtol=1e-5)


def live_bytes() -> int:
    """Of all tensors in this process."""
    gc.collect()
    return sum(o.untyped_storage().nbytes() for o in gc.get_objects() if type(o) is Tensor)


def test_memory_does_not_grow_with_the_images(features: list) -> None:
    grams = kernels_of(features, slice(0, 16), None)
    cka = CKA(len(features))
    held, largest = [], []
    for updates in (5, 50):
        with LargestResult() as watch:
            for _ in range(updates):
                cka.update(grams)
        held.append(live_bytes())
        largest.append(watch.numbers)
    assert cka.images == 55 * 16
    assert held[0] == held[1] and largest[0] == largest[1] == grams.numel()


def _two_ranks(rank: int, world_size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    layers = [torch.randn(48, 7), torch.randn(48, 9)]
    one_each = in_batches(layers, [24], start=24 * rank)
    uneven = in_batches(layers, [16, 16] if rank == 0 else [16], start=32 * rank)
    idle = in_batches(layers, [48] if rank == 0 else [])
    with CollectiveLog() as log:
        for cka in (one_each, uneven, idle):
            cka.reduce()
    alone = [in_batches(layers, sizes) for sizes in ([24, 24], [16, 16, 16], [48])]
    return {
        "matrices": [cka.matrix() for cka in (one_each, uneven, idle)],
        "alone": [cka.matrix() for cka in alone],
        "images": [cka.images for cka in (one_each, uneven, idle)],
        "collectives": len(log.entries),
    }


def test_two_ranks_give_what_one_process_gives() -> None:
    for value in run_distributed(_two_ranks, 2):
        assert value["images"] == [48, 48, 48] and value["collectives"] == 3
        for (found, alone), bits in zip(zip(value["matrices"], value["alone"]), (0, 1e-14, 0)):
            assert (found - alone).abs().max() <= bits


def test_without_a_process_group_reduce_does_nothing(features: list) -> None:
    cka = in_batches(features, [16])
    before = cka.matrix()
    cka.reduce()
    assert torch.equal(cka.matrix(), before) and cka.images == 16


def crisp(sizes: list[int]) -> Tensor:
    """Layers are the same within a block and have nothing in common across."""
    blocks = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return (blocks[:, None] == blocks).double()


def toeplitz(layers: int) -> Tensor:
    return 0.9 ** (torch.arange(layers)[:, None] - torch.arange(layers)).abs().double()


def test_block_score_is_0_where_only_the_distance_counts() -> None:
    for matrix in (torch.ones(9, 9), torch.eye(9), toeplitz(17), torch.full((5, 5), 0.3)):
        assert block_structure(matrix).score == 0


@pytest.mark.parametrize(
    ("sizes", "first", "last"), [([8, 8], 0, 7), ([5, 11], 5, 15), ([4, 9, 4], 4, 12)]
)
def test_block_score_is_1_of_crisp_blocks(sizes: list[int], first: int, last: int) -> None:
    found = block_structure(crisp(sizes))
    assert (found.score, found.first, found.last) == (1, first, last)


def test_block_score_grows_with_the_block() -> None:
    scores = []
    for strength in (0, 0.1, 0.3, 0.6, 1):
        matrix = (1 - strength) * toeplitz(17) + strength * crisp([9, 8])
        found = block_structure(matrix)
        scores.append(found.score)
        assert strength == 0 or (found.first, found.last) in {(0, 8), (9, 16)}
    assert scores[0] == 0 and scores[-1] == 1 and scores == sorted(set(scores))


def brute_force_score(matrix: np.ndarray) -> float:
    """The definition, interval by interval and entry by entry."""
    layers = len(matrix)
    flat = np.zeros_like(matrix)
    for i in range(layers):
        for j in range(layers):
            flat[i, j] = np.diagonal(matrix, abs(i - j)).mean()

    def contrast(values: np.ndarray, block: list[int]) -> float:
        others = [i for i in range(layers) if i not in block]
        inside = [values[i, j] for i in block for j in block if i != j]
        return float(np.mean(inside) - values[np.ix_(block, others)].mean())

    scores = [0.0]
    for first in range(layers):
        for last in range(first + 1, layers):
            block = list(range(first, last + 1))
            if len(block) < layers:
                t = contrast(flat, block)
                scores.append((contrast(matrix, block) - t) / (1 - t))
    return max(scores)


def test_block_score_follows_its_definition() -> None:
    generator = np.random.default_rng(0)
    for layers in (3, 4, 8):
        noise = generator.random((layers, layers))
        matrix = (noise + noise.T) / 2
        found = block_structure(matrix.tolist())
        assert found.score == pytest.approx(brute_force_score(matrix), abs=1e-8) and found.score > 0


def test_block_score_leaves_out_layers_without_a_value() -> None:
    matrix = torch.full((18, 18), torch.nan, dtype=torch.float64)
    valued = [i for i in range(18) if i not in (0, 7)]
    matrix[np.ix_(valued, valued)] = crisp([9, 7])
    found = block_structure(matrix)
    assert (found.score, found.first, found.last) == (1, 1, 10)
    for layers in (0, 1, 2):
        assert block_structure(torch.eye(layers)).score == 0
    empty = block_structure(torch.full((6, 6), torch.nan))
    assert (empty.score, empty.first, empty.last) == (0, 0, 5)
    below = crisp([8, 8]) - 0.05 * (1 - crisp([8, 8]))
    assert block_structure(below).score == 1


def _complaints() -> Iterator[tuple[Callable, str]]:
    yield lambda: CKA(0), "num_layers is 0"
    yield lambda: CKA(3).update(torch.zeros(2, 8, 8)), r"\[2, 8, 8\].*L = 3"
    yield lambda: CKA(3).update(torch.zeros(3, 8, 7)), r"\[3, 8, 7\]"
    yield lambda: rbf_kernel(torch.zeros(4, 2), -1.0), "bandwidth is -1"
    yield lambda: median_distance(torch.zeros(1, 2)), "two images"
    yield lambda: block_structure(torch.zeros(3, 4)), r"\[3, 4\]"


@pytest.mark.parametrize(
    ("call", "words"), _complaints(), ids=lambda v: v if type(v) is str else ""
)
def test_wrong_arguments_are_refused(call: Callable, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
