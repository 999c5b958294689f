"""Cross-task batch norm on two processes: one question after the other, in one spawned run."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gppf_d2.distributed.sync_bn import (
    CrossTaskSyncBN,
    attach_statistics_group,
    commit_statistics,
    discard_statistics,
    first_non_finite,
    statistics_contexts,
    sync_norms,
)
from tests.distributed.sync_bn_chain import (
    EXACT,
    counted_collectives,
    difference,
    leaf,
    many_chains,
    single,
)
from tests.harness import run_distributed
from tests.reference.sync_bn import reference_norm


def shapes_case(rank: int, equal: bool) -> list[Tensor]:
    """Inputs of both ranks, with means and spreads that differ, and a gradient for each."""
    torch.manual_seed(7)
    shapes = [(2, 6, 5, 4), (2, 6, 5, 4)] if equal else [(3, 6, 5, 4), (1, 6, 3, 9)]
    return [torch.randn(s).double() * (3 * i + 1) + 2 * i for i, s in enumerate(shapes)] + [
        torch.randn(s).double() for s in shapes
    ]


def synced(weighting: str = "equal", channels: int = 6) -> CrossTaskSyncBN:
    norm = CrossTaskSyncBN(channels, weighting=weighting).double()
    torch.manual_seed(3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.group = dist.group.WORLD
    return norm


def union_case(rank: int) -> dict:
    """nhw against nn.BatchNorm2d over the pixels of both ranks."""
    *xs, g0, g1 = shapes_case(rank, equal=False)
    norm = synced("nhw")
    y, grad, grad_weight, _ = single(norm, xs[rank], (g0, g1)[rank])
    plain = nn.BatchNorm2d(6).double()
    plain.load_state_dict(synced("nhw").state_dict())

    def flat(ts):
        return torch.cat([t.transpose(0, 1).reshape(6, -1) for t in ts], 1)[None, :, None]

    whole = leaf(flat(xs))
    z = plain(whole)
    z.backward(flat([g0, g1]))
    sizes = [x.numel() // 6 for x in xs]
    mine = [t.split(sizes, -1)[rank] for t in (z, whole.grad)]
    total = grad_weight.clone()
    dist.all_reduce(total)
    return {
        "output": difference(flat([y]), mine[0]),
        "input grad": difference(flat([grad]), mine[1]),
        "weight grad": difference(total, plain.weight.grad),
        "running": max(map(difference, norm.buffers(), plain.buffers())),
    }


def naive_case(rank: int, weighting: str) -> dict:
    *xs, g0, g1 = shapes_case(rank, equal=weighting == "equal")
    if weighting == "n":  # Detectron2's N mode asks for equal H, W; the batch sizes may differ
        xs, g0, g1 = [xs[0], xs[1][:, :, :2, :4]], g0, g1[:, :, :2, :4]
        xs[0], g0 = xs[0][:, :, :2, :4], g0[:, :, :2, :4]
    naive = NaiveSyncBatchNorm(6, stats_mode="N" if weighting == "n" else "").double()
    naive.load_state_dict(synced().state_dict())
    ours = single(synced(weighting), xs[rank].contiguous(), (g0, g1)[rank])
    theirs = single(naive, xs[rank].contiguous(), (g0, g1)[rank])
    names = ("output", "input grad", "weight grad", "bias grad")
    return dict(zip(names, map(difference, ours, theirs)))


def cancellation_case(rank: int) -> dict:
    """Mean 1e4, standard deviation 1e-2, fp32."""
    torch.manual_seed(11)
    both = [(1e4 + 1e-2 * torch.randn(4, 6, 16, 16)) for _ in range(2)]
    norm = CrossTaskSyncBN(6, momentum=1.0)
    attach_statistics_group(norm, dist.group.WORLD)
    output = norm(both[rank])
    truth = torch.cat(both).double().transpose(0, 1).flatten(1)
    naive = NaiveSyncBatchNorm(6, momentum=1.0)
    naive(both[rank])
    var = truth.var(1)
    return {
        "ours": ((norm.running_var - var) / var).abs().max().item(),
        "naive": ((naive.running_var - var) / var).abs().max().item(),
        "spread": output.std().item(),
    }


def half_case(rank: int, dtype: torch.dtype, channels_last: bool) -> dict:
    """Half precision activations against the same values in float64."""
    *xs, g0, g1 = [t.to(dtype) for t in shapes_case(rank, equal=False)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, grad = (t.contiguous(memory_format=layout) for t in (xs[rank], (g0, g1)[rank]))
    norm = synced().float()
    y, x_grad, weight_grad, _ = single(norm, x, grad)
    exact = single(synced(), x.double(), grad.double())
    return {
        "dtypes": [y.dtype, x_grad.dtype, weight_grad.dtype, norm.running_var.dtype],
        "layout": y.is_contiguous(memory_format=layout),
        "gradient layout": x_grad.is_contiguous(memory_format=layout),
        "output": difference(y.double(), exact[0]),
        "input grad": difference(x_grad.double(), exact[1]),
        "weight grad": difference(weight_grad.double(), exact[2]),
    }


def autocast_case(rank: int) -> dict:
    """Under autocast a half precision input gives what it gives without."""
    x = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(rank)).bfloat16()
    norm = synced().float()
    plain = norm(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = norm(x)
    return {"equal": torch.equal(plain, cast), "dtype": cast.dtype}


class Block(nn.Module):
    """Two positions with a residual, to be checkpointed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norms = nn.ModuleList([CrossTaskSyncBN(6) for _ in range(4)])
        self.double()
        self.seen: list = []

    def forward(self, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv(x)
        self.seen.append(weakref.ref(h))
        (first, second), token = sync_norms(self.norms[:2], [[h], [h * 2]], token=token)
        h = (first[0] + second[0]).tanh()
        (out, _), token = sync_norms(self.norms[2:], [[h], None], token=token)
        return x + out[0].tanh(), token


def checkpoint_case(rank: int) -> dict:
    x = torch.randn(2, 6, 5 + rank, 4, dtype=torch.float64)
    results = []
    for checkpointed in (False, True):
        block = Block()
        attach_statistics_group(block, dist.group.WORLD)
        h, token = leaf(x), torch.zeros((), dtype=torch.float64, requires_grad=True)
        with counted_collectives() as counts:
            y, t = h, token
            for _ in range(2):
                if checkpointed:
                    y, t = checkpoint(
                        block, y, t, use_reentrant=False, context_fn=statistics_contexts
                    )
                else:
                    y, t = block(y, t)
            freed = all(ref() is None for ref in block.seen)
            (y.square().sum() + 0 * t).backward()
        grads = [h.grad, *(p.grad for p in block.parameters())]
        results.append((dict(counts), grads, list(block.buffers()), freed, len(block.seen)))
    plain, again = results
    return {
        "counts": (plain[0], again[0]),
        "grads": max(map(difference, plain[1], again[1])),
        "buffers": max(map(difference, plain[2], again[2])),
        "tracked": int(block.norms[0].num_batches_tracked),
        "freed": (plain[3], again[3]),
        "runs": (plain[4], again[4]),
    }


def deferred_case(rank: int) -> dict:
    norm, twin = synced(), synced()
    model, plain = nn.Sequential(norm), nn.Sequential(twin)
    attach_statistics_group(model, dist.group.WORLD, deferred=True)
    before = [b.clone() for b in norm.buffers()]
    xs = [torch.randn(2, 6, 4, 4, dtype=torch.float64) for _ in range(3)]
    norm(xs[0])
    untouched = all(map(torch.equal, before, norm.buffers()))
    discard_statistics(model)
    norm(xs[1]), norm(xs[2])
    commit_statistics(model)
    commit_statistics(model)  # nothing is pending any more
    plain(xs[1]), plain(xs[2])
    return {
        "untouched": untouched,
        "committed": all(map(torch.equal, twin.buffers(), norm.buffers())),
    }


def non_finite_case(rank: int) -> dict:
    model = nn.Sequential(*(synced() for _ in range(3)))
    attach_statistics_group(model, dist.group.WORLD, deferred=True)
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    model(x)
    good = first_non_finite(model)
    discard_statistics(model)
    h = model[0](x)
    if rank == 1:
        h = h.clone()
        h[0, 0, 0, 0] = float("nan")
    model[2](model[1](h))
    bad = first_non_finite(model)
    discard_statistics(model)
    return {"good": good, "bad": bad, "cleared": first_non_finite(model)}


def idle_case(rank: int) -> dict:
    """Rank 1 has no input at all, or an unused output; nobody has an input."""
    found = {}
    norm = synced()
    x = leaf(shapes_case(rank, equal=False)[0])
    (y,), token = sync_norms([norm], [[x] if rank == 0 else None])
    (token + (y[0].square().sum() if rank == 0 else 0.0)).backward()
    found["idle weight grad"] = norm.weight.grad is None
    local = nn.BatchNorm2d(6).double()
    local.load_state_dict(synced().state_dict())
    other = leaf(x.detach())
    local(other).square().sum().backward()
    found["only contributor"] = difference(x.grad, other.grad) if rank == 0 else 0.0
    found["only contributor"] += sum(map(difference, norm.buffers(), local.buffers()))

    nobody = synced()
    before = [b.clone() for b in nobody.buffers()]
    (y,), token = sync_norms([nobody], [None])
    token.backward()
    found["nobody"] = y is None and all(map(torch.equal, before, nobody.buffers()))

    # rank 1's loss ignores its output; its input still moves rank 0's loss, through the statistics
    *xs, g0, _ = shapes_case(rank, equal=False)
    norm, x = synced(), leaf(xs[rank])
    (y,), token = sync_norms([norm], [[x]])
    (token * 0 + ((y[0] * g0).sum() if rank == 0 else 0.0)).backward()
    twins = [leaf(t) for t in xs]
    plain = synced()
    outputs, _ = reference_norm(
        [[t] for t in twins], [(plain.weight, plain.bias, None)] * 2, "equal"
    )
    (outputs[0][0] * g0).sum().backward()
    found["unused output"] = difference(x.grad, twins[rank].grad)
    found["unused weight grad"] = norm.weight.grad is None
    return found


def two_rank_cases(rank: int, world_size: int) -> dict:
    return {
        "union": union_case(rank),
        "equal": naive_case(rank, "equal"),
        "n": naive_case(rank, "n"),
        "cancellation": cancellation_case(rank),
        "bf16": half_case(rank, torch.bfloat16, channels_last=False),
        "bf16 last": half_case(rank, torch.bfloat16, channels_last=True),
        "fp16": half_case(rank, torch.float16, channels_last=False),
        "autocast": autocast_case(rank),
        "checkpoint": checkpoint_case(rank),
        "deferred": deferred_case(rank),
        "non finite": non_finite_case(rank),
        "idle": idle_case(rank),
        "chains": many_chains(rank, world_size, 6),
    }


@pytest.fixture(scope="module")
def pair() -> list[dict]:
    return run_distributed(two_rank_cases, 2)


def test_i5_sync_bn_nhw_is_batch_norm_over_the_union_of_all_pixels(pair) -> None:
    for rank in pair:
        assert max(rank["union"].values()) < EXACT, rank["union"]


@pytest.mark.parametrize("weighting", ["equal", "n"])
def test_i5_sync_bn_equals_detectron2_where_that_is_defined(pair, weighting: str) -> None:
    for rank in pair:
        assert max(rank[weighting].values()) < EXACT, rank[weighting]


def test_i5_sync_bn_two_ranks_equal_one_process(pair) -> None:
    for rank in pair:
        for result in rank["chains"]:
            assert max(result["found"].values()) < EXACT, result["found"]


def test_variance_survives_a_mean_a_million_times_larger(pair) -> None:
    for rank in pair:
        assert rank["cancellation"]["ours"] < 0.02
        assert rank["cancellation"]["naive"] > 10  # what E[x^2] - E[x]^2 makes of it
        assert abs(rank["cancellation"]["spread"] - 0.95) < 0.1  # eps is a tenth of the variance


@pytest.mark.parametrize("case", ["bf16", "bf16 last", "fp16"])
def test_half_precision_reduces_in_fp32_and_keeps_dtype_and_layout(pair, case: str) -> None:
    for rank in pair:
        result = rank[case]
        half = torch.float16 if case == "fp16" else torch.bfloat16
        assert result["dtypes"] == [half, half, torch.float32, torch.float32]
        assert result["layout"] and result["gradient layout"]
        step = torch.finfo(half).eps
        assert result["output"] < 8 * step
        assert result["input grad"] < 8 * step
        assert result["weight grad"] < 1e-4  # sums of half precision values, in fp32


def test_autocast_leaves_the_norm_alone(pair) -> None:
    for rank in pair:
        assert rank["autocast"] == {"equal": True, "dtype": torch.bfloat16}


def test_checkpoint_recomputes_without_collectives_and_moves_statistics_once(pair) -> None:
    for rank in pair:
        result = rank["checkpoint"]
        expected = {"all_gather": 4, "all_reduce": 4}
        assert result["counts"] == (expected, expected)
        assert result["grads"] < EXACT and result["buffers"] == 0
        assert result["tracked"] == 2  # the block was called twice
        assert result["runs"] == (2, 4)
        assert result["freed"] == (False, True)


def test_deferred_statistics_wait_for_commit(pair) -> None:
    for rank in pair:
        assert rank["deferred"] == {"untouched": True, "committed": True}


def test_first_non_finite_names_the_norm_before_the_spread(pair) -> None:
    assert [rank["non finite"]["bad"] for rank in pair] == ["2", "1"]
    for rank in pair:
        assert rank["non finite"]["good"] is None and rank["non finite"]["cleared"] is None


def test_i3_idle_ranks_take_part_and_change_nothing_of_theirs(pair) -> None:
    for rank, result in enumerate(r["idle"] for r in pair):
        assert result["idle weight grad"] == (rank == 1)
        assert result["only contributor"] < EXACT
        assert result["nobody"]
        assert result["unused output"] < EXACT
        assert result["unused weight grad"] == (rank == 1)
