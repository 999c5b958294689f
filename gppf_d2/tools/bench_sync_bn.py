"""Time cross-task batch norm against Detectron2's NaiveSyncBatchNorm, in gloo processes.

    python -m gppf_d2.tools.bench_sync_bn [--repeats 15] [--world-size 2]

The figure is the time of one norm position of a layer with two units, forward and backward, as a
ratio to the same two tensors through NaiveSyncBatchNorm (and to local BatchNorm2d, the floor).
Variants take turns inside every repeat, so that a busy machine slows all of them; the ratio is the
median over repeats. Collectives per position are counted.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN, attach_statistics_group, sync_norms

SHAPES = [(2, 64, 64, 64), (2, 256, 64, 64), (2, 256, 16, 16), (2, 1024, 16, 16), (2, 2048, 8, 8)]
UNITS = 2


def variants(channels: int) -> dict[str, Callable[[list[Tensor]], list[Tensor]]]:
    """The ways to normalise the tensors of all units; "ours fused" gets them as one tensor."""
    plain = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(UNITS))
    naive = nn.ModuleList(NaiveSyncBatchNorm(channels) for _ in range(UNITS))
    ours = nn.ModuleList(CrossTaskSyncBN(channels) for _ in range(UNITS))
    attach_statistics_group(ours, dist.group.WORLD)

    def each(norms: nn.ModuleList) -> Callable[[list[Tensor]], list[Tensor]]:
        return lambda xs: [norm(x) for norm, x in zip(norms, xs)]

    def together(xs: list[Tensor]) -> list[Tensor]:
        outputs, _ = sync_norms(list(ours), [[x] for x in xs])
        return [y[0] for y in outputs]

    def fused(xs: list[Tensor]) -> list[Tensor]:
        outputs, _ = sync_norms([list(ours)], [xs])
        return outputs[0]

    return {"local": each(plain), "naive": each(naive), "ours": together, "ours fused": fused}


def counted(run: Callable[[], Any]) -> int:
    """Calls of all_gather and all_reduce while ``run`` runs."""
    calls: list[str] = []
    originals = {name: getattr(dist, name) for name in ("all_gather", "all_reduce")}

    def spy(name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return originals[name](*args, **kwargs)

        return call

    for name in originals:
        setattr(dist, name, spy(name))
    try:
        run()
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)
    return len(calls)


def one_shape(shape: tuple[int, ...], repeats: int) -> dict[str, tuple[list[float], int]]:
    """Seconds of every repeat and collectives of each variant. Collective: all ranks must call."""
    separate = [torch.randn(shape) for _ in range(UNITS)]
    whole = [torch.cat(separate, 1)]
    found: dict[str, tuple[list[float], int]] = {}
    runs = variants(shape[1])

    def step(name: str) -> float:
        xs = [x.clone().requires_grad_() for x in (whole if name == "ours fused" else separate)]
        grads = [torch.ones_like(x) for x in xs]
        dist.barrier()
        start = time.perf_counter()
        torch.autograd.backward(runs[name](xs), grads)
        return time.perf_counter() - start

    for name in runs:
        step(name)
        found[name] = ([], counted(partial(step, name)))
    for _ in range(repeats):
        for name in runs:
            found[name][0].append(step(name))
    return found


def worker(rank: int, world_size: int, port: int, repeats: int, results: Any) -> None:
    """One process of the benchmark."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    found = {shape: one_shape(shape, repeats) for shape in SHAPES}
    if rank == 0:
        results.put(found)
    dist.barrier()
    dist.destroy_process_group()


def report(found: dict[tuple[int, ...], dict[str, tuple[list[float], int]]]) -> None:
    """Print a line per shape: ratios to NaiveSyncBatchNorm, then collectives."""
    names = ["local", "ours", "ours fused"]
    heads = "".join(f"{name + '/naive':>18}" for name in names)
    print(f"{'B, C, H, W (2 units)':22}{heads}{'naive ms':>10}   collectives naive, ours, fused")
    for shape, by_name in found.items():
        naive, naive_count = by_name["naive"]
        ratios = [
            statistics.median(a / b for a, b in zip(by_name[name][0], naive)) for name in names
        ]
        counts = [naive_count, by_name["ours"][1], by_name["ours fused"][1]]
        cells = "".join(f"{ratio:18.2f}" for ratio in ratios)
        print(
            f"{str(shape):22}{cells}{1e3 * statistics.median(naive):10.2f}   "
            + ", ".join(map(str, counts))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--world-size", type=int, default=2)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    processes = mp.spawn(
        worker,
        args=(arguments.world_size, port, arguments.repeats, results),
        nprocs=arguments.world_size,
        join=False,
    )
    while not processes.join():
        pass
    report(results.get())


if __name__ == "__main__":
    main()
