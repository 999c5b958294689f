"""A chain of norm positions with random routes: drawn, run on every rank, and run in one process.

Every rank draws the same scenario (tensors, routes and gates of ALL ranks) from a seed, runs its
own part with collectives and the slow reference for everyone, and reports the differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN, attach_statistics_group, sync_norms
from tests.reference.sync_bn import moved, reference_norm

CHANNELS, UNITS, POSITIONS, SEEDS = 4, 3, 6, 20
WEIGHTINGS = ("equal", "n", "nhw")
EXACT = 1e-10


@contextmanager
def counted_collectives() -> Iterator[Counter]:
    """Counts calls of torch.distributed's collectives, backward included."""
    names = ["all_gather", "all_reduce", "all_gather_into_tensor", "broadcast", "barrier"]
    names += ["reduce_scatter_tensor", "all_to_all", "all_gather_object", "reduce"]
    originals = {name: getattr(dist, name) for name in names}
    counts: Counter = Counter()

    def counting(name: str):
        def call(*args, **kwargs):
            counts[name] += 1
            return originals[name](*args, **kwargs)

        return call

    for name in names:
        setattr(dist, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)


def difference(a: Tensor | None, b: Tensor | None) -> float:
    """Largest absolute difference; infinite when only one of them is None."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    return (a.detach() - b.detach()).abs().max().item() if a.numel() else 0.0


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def single(norm: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    x = leaf(x)
    y = norm(x)
    y.backward(grad)
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


@dataclass
class Scenario:
    """Tensors, routes and gates of all ranks for a chain of norm positions."""

    weighting: str
    views: list[list[Tensor]]  # per rank
    runs: list[list[list[int]]]  # [position][rank] -> the units that the rank runs
    gates: list[list[Tensor | None]]  # [position][rank] -> [UNITS]
    fused: list[list[bool]]  # [position][rank]: feed all units as one tensor (if it runs all)
    targets: list[list[Tensor]]  # per rank


def draw(seed: int, world_size: int) -> Scenario:
    generator = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    views, runs, gates, fused = [], [], [], []
    for _ in range(world_size):
        shapes = [(integer(1, 4), CHANNELS, integer(2, 7), integer(2, 7))]
        if integer(0, 4) == 0:
            shapes.append((integer(0, 3), CHANNELS, 3, 5))  # a second, perhaps empty view
        views.append([normal(*shape) * (1 + integer(0, 3)) + integer(-2, 3) for shape in shapes])
    style = seed % 4  # 0: mixtures, 1: hard routes, 2: soft on all ranks, 3: some ranks run nothing
    for _ in range(POSITIONS):
        here = []
        for _ in range(world_size):
            mixture = [k for k in range(UNITS) if integer(0, 2)]
            soft = list(range(UNITS))
            one = [integer(0, UNITS)]
            here.append([mixture, one, soft, soft if integer(0, 3) == 0 else []][style])
        runs.append(here)
        gates.append([normal(UNITS).sigmoid() if integer(0, 2) else None for _ in here])
        fused.append([bool(integer(0, 2)) for _ in here])
    targets = [[normal(*x.shape) for x in xs] for xs in views]
    return Scenario(WEIGHTINGS[seed % 3], views, runs, gates, fused, targets)


def build_norms(seed: int, weighting: str) -> nn.ModuleList:
    generator = torch.Generator().manual_seed(1000 + seed)
    norms = nn.ModuleList()
    for _ in range(POSITIONS * UNITS):
        norm = CrossTaskSyncBN(CHANNELS, weighting=weighting).double()
        for parameter in (norm.weight, norm.bias):
            value = torch.randn(CHANNELS, generator=generator, dtype=torch.float64)
            parameter.data.copy_(value)
        norm.weight.data[0] = 0.0  # a zero weight must not divide
        norms.append(norm)
    return norms


def feed(x: Tensor, unit: int) -> Tensor:
    """What stands for the convolution of a unit."""
    return (unit + 1) * x + (x * (0.5 + unit)).sin()


def run_chain(scenario: Scenario, norms: nn.ModuleList, rank: int) -> dict:
    """This rank's part, with collectives."""
    views = [leaf(x) for x in scenario.views[rank]]
    gates = [None if g[rank] is None else leaf(g[rank]) for g in scenario.gates]
    xs, token = list(views), None
    for j in range(POSITIONS):
        runs, gate = scenario.runs[j][rank], gates[j]
        here = list(norms[j * UNITS : (j + 1) * UNITS])
        scales = [None if gate is None else gate[k] for k in range(UNITS)]
        if scenario.fused[j][rank] and len(runs) == UNITS:
            inputs = [[torch.cat([feed(x, k) for k in runs], 1) for x in xs]]
            outputs, token = sync_norms([here], inputs, [scales], token)
            units = list(zip(*(y.split(CHANNELS, 1) for y in outputs[0])))
        else:
            inputs = [[feed(x, k) for x in xs] if k in runs else None for k in range(UNITS)]
            outputs, token = sync_norms(here, inputs, scales, token)
            assert [y is None for y in outputs] == [k not in runs for k in range(UNITS)]
            units = [y for y in outputs if y is not None]
        for unit in units:
            xs = [x + y.tanh() for x, y in zip(xs, unit)]
    loss = sum((x * t).sum() for x, t in zip(xs, scenario.targets[rank]))
    (loss + 0.0 * token).backward()
    return {"outputs": xs, "views": views, "gates": gates}


def reference_chain(scenario: Scenario, norms: nn.ModuleList) -> dict:
    """Everybody's part, in this process."""
    ranks = range(len(scenario.views))
    views = [[leaf(x) for x in xs] for xs in scenario.views]
    gates = [[None if g is None else leaf(g) for g in here] for here in scenario.gates]
    affine = [[(leaf(n.weight.detach()), leaf(n.bias.detach())) for n in norms] for _ in ranks]
    xs, statistics = [list(v) for v in views], []
    for j in range(POSITIONS):
        new = [list(v) for v in xs]
        for k in range(UNITS):
            inputs = [
                [feed(x, k) for x in xs[r]] if k in scenario.runs[j][r] else None for r in ranks
            ]
            own = [
                (*affine[r][j * UNITS + k], None if gates[j][r] is None else gates[j][r][k])
                for r in ranks
            ]
            outputs, merged = reference_norm(inputs, own, scenario.weighting)
            statistics.append(merged)
            for r in ranks:
                if outputs[r] is not None:
                    new[r] = [x + y.tanh() for x, y in zip(new[r], outputs[r])]
        xs = new
    sum((x * t).sum() for r in ranks for x, t in zip(xs[r], scenario.targets[r])).backward()
    return {
        "outputs": xs,
        "views": views,
        "gates": gates,
        "affine": affine,
        "statistics": statistics,
    }


def chain_differences(rank: int, world_size: int, seed: int) -> dict:
    scenario = draw(seed, world_size)
    norms = build_norms(seed, scenario.weighting)
    attach_statistics_group(norms, dist.group.WORLD)
    with counted_collectives() as counts:
        mine = run_chain(scenario, norms, rank)
    truth = reference_chain(scenario, build_norms(seed, scenario.weighting))
    found = {
        "output": max(map(difference, mine["outputs"], truth["outputs"][rank])),
        "input grad": max(
            difference(a.grad, b.grad) for a, b in zip(mine["views"], truth["views"][rank])
        ),
        "gate grad": 0.0,
        "affine grad": 0.0,
        "running": 0.0,
    }
    for gate, others in zip(mine["gates"], truth["gates"]):
        if gate is not None:
            pair = difference(gate.grad, others[rank].grad)
            found["gate grad"] = max(found["gate grad"], pair)
    zeros, ones = torch.zeros(CHANNELS).double(), torch.ones(CHANNELS).double()
    for norm, expected, merged in zip(norms, truth["affine"][rank], truth["statistics"]):
        for parameter, other in zip((norm.weight, norm.bias), expected):
            found["affine grad"] = max(found["affine grad"], difference(parameter.grad, other.grad))
        for buffer, other in zip(
            (norm.running_mean, norm.running_var), moved((zeros, ones), merged, 0.1)
        ):
            found["running"] = max(found["running"], difference(buffer, other))
        assert int(norm.num_batches_tracked) == (merged is not None)
    buffers = torch.cat([b.double().flatten() for b in norms.buffers()])
    return {"found": found, "counts": dict(counts), "buffers": buffers.numpy().tobytes()}


def many_chains(rank: int, world_size: int, seeds: int = SEEDS) -> list[dict]:
    return [chain_differences(rank, world_size, seed) for seed in range(seeds)]
