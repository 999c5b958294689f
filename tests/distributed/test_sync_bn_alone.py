"""Cross-task batch norm without partners: nn.BatchNorm2d, no collective; and the CUDA kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gppf_d2.distributed import moments
from gppf_d2.distributed.sync_bn import (
    CrossTaskSyncBN,
    StatisticsCache,
    attach_statistics_group,
    commit_statistics,
    discard_statistics,
    first_non_finite,
    replay,
    statistics_contexts,
    sync_norms,
)
from tests.distributed.sync_bn_chain import EXACT, counted_collectives, difference, leaf, single


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_i4_sync_bn_alone_is_batch_norm_bit_for_bit(momentum, deferred, dtype) -> None:
    norm, plain = CrossTaskSyncBN(6, momentum=momentum), nn.BatchNorm2d(6, momentum=momentum)
    for module in (norm, plain):
        module.to(torch.float64 if dtype == torch.float64 else torch.float32)
    attach_statistics_group(norm, None, deferred=deferred)
    with counted_collectives() as counts:
        for size in (4, 5, 6):
            x, grad = torch.randn(2, 3, 6, size, size).to(dtype)
            for mine, theirs in zip(single(norm, x, grad), single(plain, x, grad)):
                assert torch.equal(mine, theirs)
        commit_statistics(norm)
        assert all(map(torch.equal, norm.buffers(), plain.buffers()))
        norm.eval(), plain.eval()
        for mine, theirs in zip(single(norm, x, grad), single(plain, x, grad)):
            assert torch.equal(mine, theirs)
    assert not counts


@pytest.mark.parametrize("momenta", [(0.1, 0.1), (0.1, None), (0.3, 0.1)])
def test_i4_fused_norms_alone_are_separate_batch_norms(momenta) -> None:
    norms = [CrossTaskSyncBN(c, momentum=m) for c, m in zip((4, 6), momenta)]
    plain = [nn.BatchNorm2d(c, momentum=m) for c, m in zip((4, 6), momenta)]
    x = torch.randn(3, 10, 5, 5)
    gates = torch.tensor([0.25, 0.75], requires_grad=True)
    for training in (True, True, False):
        for module in norms + plain:
            module.train(training)
        (outputs,), _ = sync_norms([norms], [[x]], [gates.unbind()])
        parts = zip(plain, x.split([4, 6], 1), gates.detach())
        expected = torch.cat([n(part.contiguous()) * gate for n, part, gate in parts], 1)
        torch.testing.assert_close(outputs[0], expected)
        for a, b in zip(norms, plain):
            assert all(map(torch.equal, a.buffers(), b.buffers()))
    outputs[0].sum().backward()
    assert gates.grad is not None


def test_several_tensors_alone_are_normalised_by_their_union() -> None:
    norm, plain = CrossTaskSyncBN(6).double(), nn.BatchNorm2d(6).double()
    x = torch.randn(5, 6, 4, 4, dtype=torch.float64)
    parts, whole = [leaf(p) for p in x.split([2, 3])], leaf(x)
    (outputs,), _ = sync_norms([norm], [parts])
    y = plain(whole)
    grad = torch.randn_like(y)
    torch.autograd.backward(outputs, grad.split([2, 3]))
    y.backward(grad)
    assert difference(torch.cat(outputs), y) < EXACT
    assert difference(torch.cat([p.grad for p in parts]), whole.grad) < EXACT
    assert max(map(difference, norm.buffers(), plain.buffers())) < EXACT


def test_checkpoint_alone_moves_statistics_once() -> None:
    x = torch.randn(2, 6, 4, 4)
    norm, plain = CrossTaskSyncBN(6), nn.BatchNorm2d(6)
    a, b = leaf(x), leaf(x)
    y = checkpoint(norm, a, use_reentrant=False, context_fn=statistics_contexts)
    y.square().sum().backward()
    plain(b).square().sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert all(map(torch.equal, norm.buffers(), plain.buffers()))


def test_replay_alone_needs_no_record_and_moves_nothing() -> None:
    norm = CrossTaskSyncBN(6)
    before = [b.clone() for b in norm.buffers()]
    xs = [torch.randn(2, 6, 4, 4), torch.randn(1, 6, 3, 5)]
    with replay(StatisticsCache()):
        outputs, _ = sync_norms([norm, norm], [xs, xs[:1]])
    assert all(map(torch.equal, before, norm.buffers())) and first_non_finite(norm) is None
    again, _ = sync_norms([norm, norm], [xs, xs[:1]])
    assert all(map(torch.equal, outputs[0] + outputs[1], again[0] + again[1]))


def test_discard_alone_keeps_the_buffers_and_non_finite_is_named() -> None:
    model = nn.Sequential(CrossTaskSyncBN(6), nn.Conv2d(6, 6, 1), CrossTaskSyncBN(6))
    attach_statistics_group(model, None, deferred=True)
    before = copy.deepcopy(model.state_dict())
    nn.init.constant_(model[1].bias, float("inf"))
    model(torch.randn(2, 6, 4, 4))
    assert first_non_finite(model) == "2"
    discard_statistics(model)
    assert first_non_finite(model) is None
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if "running" in k)


def test_copies_have_no_partners() -> None:
    norm = CrossTaskSyncBN(6)
    norm.group, norm.deferred = object(), True
    twin = copy.deepcopy(norm)
    assert twin.group is None and twin.deferred and norm.group is not None
    assert list(twin.state_dict()) == list(nn.BatchNorm2d(6).state_dict())


def test_bad_arguments_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="equal, n, nhw"):
        CrossTaskSyncBN(6, weighting="pixels")
    with pytest.raises(ValueError, match=r"\[B, 6, H, W\]"):
        CrossTaskSyncBN(6)(torch.randn(2, 5, 4, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: checks the CUDA kernels")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_kernels_agree_with_the_cpu_and_never_wait_for_the_device(dtype, layout) -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(2, 3, 8, 6, 6)
    weight, bias, mean, share = torch.randn(4, 8)
    var, sums = torch.rand(8) + 0.5, (torch.randn(8), torch.randn(8))

    def passes(device: str, dtype: torch.dtype) -> list[Tensor]:
        a, g = (t.to(device, dtype).contiguous(memory_format=layout) for t in (x, grad))
        w, b, m, v, s, s1, s2 = (t.to(device) for t in (weight, bias, mean, var, share, *sums))
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        local = moments.local_moments([a], torch.float32)
        counts = torch.full((2,), 1.0, device=device)
        row = torch.cat([counts, local.mean, local.var])
        merged = moments.merge_moments(row.unsqueeze(0), 0, [8], "equal")
        results = [local.mean, local.var, merged.mean, merged.share]
        y = moments.normalise(a, w, b, m, v, 1e-5)
        dx = moments.input_gradient(g, a, w, (m, v, 1e-5), (s1, s2), s)
        assert y.dtype == dx.dtype == dtype
        assert y.is_contiguous(memory_format=layout) and dx.is_contiguous(memory_format=layout)
        results += [y, dx, *moments.gradient_sums(g, a, w, m, v, 1e-5)]
        torch.cuda.set_sync_debug_mode("default")
        return [t.float().cpu() for t in results]

    tolerance = 1e-4 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
    for ours, exact in zip(passes("cuda", dtype), passes("cpu", torch.float32)):
        torch.testing.assert_close(ours, exact, rtol=tolerance, atol=8 * tolerance)
