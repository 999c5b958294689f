"""Step time of the task average against DistributedDataParallel and a loop over parameters.

Two gloo processes with one thread each train a ResNet-50 (23.5 M shared parameters) with two heads
of 10 M; each process uses its own head. Every variant runs in turn within every repetition, so
that all see the same machine; ratios are medians over repetitions. "Added" is the step minus the
step without any exchange.

DistributedDataParallel divides by the number of processes, so its result for a head that one
process used is wrong by half; ours and the loop average over the contributors.

    python -m gppf_d2.tools.bench_task_average [--size 64] [--batch 2] [--repeats 9]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gppf_d2.distributed.autograd_leaves import leaves
from gppf_d2.distributed.groups import build_groups
from gppf_d2.distributed.task_average import TaskAverage

WORLD_SIZE = 2
TASKS = ("first", "second")
WARM_UP = 2
OURS = "task average"
PEER = "DDP(find_unused_parameters)"
ALONE = "no exchange"
RANKS_OF = {task: (rank,) for rank, task in enumerate(TASKS)}


class Net(nn.Module):
    """ResNet-50 and one fully connected head of 10 M parameters per task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = torchvision.models.resnet50()
        self.trunk.fc = nn.Identity()
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(
                    nn.Linear(2048, 2048),
                    nn.ReLU(),
                    nn.Linear(2048, 2048),
                    nn.ReLU(),
                    nn.Linear(2048, 800),
                )
                for task in TASKS
            }
        )

    def forward(self, images: Tensor, task: str) -> Tensor:
        """Loss of one task [] for images [B, 3, H, W]."""
        return self.heads[task](self.trunk(images)).square().mean()


Step = Callable[[Tensor, str], None]


def _build() -> Net:
    torch.manual_seed(0)
    return Net()


def _alone(net: Net) -> Step:
    def step(images: Tensor, task: str) -> None:
        net.zero_grad()
        net(images, task).backward()

    return step


def _averaged(net: Net, rank: int, compression: str | None) -> Step:
    heads = {task: dict(net.heads[task].named_parameters()) for task in TASKS}
    shared = {f"trunk.{n}": p for n, p in net.trunk.named_parameters()}
    average = TaskAverage(
        shared, heads, build_groups(None, rank), WORLD_SIZE, rank, compression=compression
    )

    def step(images: Tensor, task: str) -> None:
        average.begin(RANKS_OF)
        average.backward(net(images, task))
        average.finish()

    return step


def _distributed_data_parallel(net: Net) -> Step:
    wrapped = DistributedDataParallel(
        net, find_unused_parameters=True, gradient_as_bucket_view=True, broadcast_buffers=False
    )

    def step(images: Tensor, task: str) -> None:
        wrapped.zero_grad()
        wrapped(images, task).backward()

    return step


def _loop(net: Net) -> Step:
    def step(images: Tensor, task: str) -> None:
        net.zero_grad()
        net(images, task).backward()
        for parameter in net.parameters():
            used = torch.tensor(float(parameter.grad is not None))
            dist.all_reduce(used)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(used)

    return step


def _worker(rank: int, port: int, size: int, batch: int, repeats: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD_SIZE
    )
    nets = {
        name: _build() for name in (ALONE, PEER, OURS, f"{OURS}, bf16", "parameter by parameter")
    }
    steps = dict(
        zip(
            nets,
            (
                _alone(nets[ALONE]),
                _distributed_data_parallel(nets[PEER]),
                _averaged(nets[OURS], rank, None),
                _averaged(nets[f"{OURS}, bf16"], rank, "bf16"),
                _loop(nets["parameter by parameter"]),
            ),
        )
    )
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(rank))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(WARM_UP + repeats):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            step(images, TASKS[rank])
            dist.barrier()
            if repeat >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    if rank == 0:
        _print_table(times, size, batch, repeats)
        _print_walk(nets[ALONE], images)
    dist.destroy_process_group()


def _print_table(times: dict[str, list[float]], size: int, batch: int, repeats: int) -> None:
    print(f"{size} px, batch {batch} a process, {WORLD_SIZE} processes, {repeats} repetitions")
    print(f"{'':30s} {'ms':>7s} {'step/DDP':>9s} {'added/DDP':>10s}")
    for name, values in times.items():
        step = statistics.median(a / b for a, b in zip(values, times[PEER]))
        base = statistics.median(times[ALONE])
        added = (statistics.median(values) - base) / (statistics.median(times[PEER]) - base)
        print(f"{name:30s} {1e3 * statistics.median(values):7.0f} {step:9.2f} {added:10.2f}")


def _print_walk(net: Net, images: Tensor) -> None:
    loss = net(images, TASKS[0])
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        found = sum(1 for _ in leaves(loss))
        durations.append(time.perf_counter() - start)
    print(f"reading {found} parameters from the graph: {1e3 * statistics.median(durations):.2f} ms")


def main() -> None:
    """Run the bench and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images a process")
    parser.add_argument("--repeats", type=int, default=9, help="repetitions of all variants")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_worker, (port, options.size, options.batch, options.repeats), nprocs=WORLD_SIZE)


if __name__ == "__main__":
    main()
