"""Time of a SIMT step against single-task steps and against Detectron2's own loop with DDP.

    python -m gppf_d2.tools.bench_step [--depth 50] [--size 192] [--repeats 9]

Two gloo processes with one thread each, synthetic images, real heads: a classifier and
Detectron2's semantic FPN. In one run, interleaved, medians of paired repeats:

- ``detectron2``: ``SimpleTrainer``, DDP, NaiveSyncBatchNorm, semantic segmentation on both ranks;
- ``semantic``, ``classes``: ours, N = 1, the same task on both ranks;
- ``simt``: ours, N = 1, one task per rank; ``simt n2``, ``simt n2 hard``: the same with N = 2.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor, SemSegFPNHead
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from gppf_d2.data.batch import Batch
from gppf_d2.distributed.groups import ProcessGroups, build_groups
from gppf_d2.distributed.head_buffers import HeadBuffers
from gppf_d2.distributed.sync_bn import attach_statistics_group
from gppf_d2.distributed.task_average import TaskAverage
from gppf_d2.engine.launch import Launch, launch
from gppf_d2.engine.optimizer import LearningRate, parameter_groups
from gppf_d2.engine.simt_trainer import SIMTTrainer
from gppf_d2.modeling.heads import ClassificationHead
from gppf_d2.modeling.lego import LegoResNet
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from gppf_d2.tasks.schedule import Schedule
from gppf_d2.tasks.spec import Task
from gppf_d2.tasks.stream import Stream, StreamPlan

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
STAGES = ["res2", "res3", "res4", "res5"]
CLASSES = 20


def samples(task: str, size: int, batch: int) -> list[dict[str, Any]]:
    """Random images with labels of the task; classes are seen at half the size, as in practice."""
    side = size // 2 if task == "classes" else size
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(batch):
        image = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, CLASSES, (side, side), generator=generator)
        made.append({"image": image, "sem_seg": labels, "label": index % CLASSES,
                     "height": side, "width": side})  # fmt: skip
    return made


def semantic_head(bottom_up: torch.nn.Module) -> SemanticSegmentor:
    """Detectron2's semantic FPN around a backbone."""
    return SemanticSegmentor(
        backbone=FPN(bottom_up, STAGES, 128),
        sem_seg_head=SemSegFPNHead(
            {f"p{i}": ShapeSpec(stride=2**i, channels=128) for i in range(2, 6)},
            num_classes=CLASSES,
            conv_dims=64,
            common_stride=4,
            norm="GN",
        ),
        pixel_mean=MEAN,
        pixel_std=STD,
    )


def build_head(task: str) -> torch.nn.Module:
    if task == "semantic":
        return semantic_head(SharedBackbone(STAGES))
    return ClassificationHead(
        backbone=SharedBackbone(["res5"]), num_classes=CLASSES, pixel_mean=MEAN, pixel_std=STD
    )


def our_step(*arguments: Any, **options: Any) -> Callable[[], None]:
    """The step of ``build_trainer``'s trainer, iterations counted."""
    trainer = build_trainer(*arguments, **options)

    def step() -> None:
        trainer.run_step()
        trainer.iter += 1

    return step


def build_trainer(
    rank: int,
    groups: ProcessGroups,
    task_names: list[str],
    options: argparse.Namespace,
    units: int = 1,
    mode: str = "soft",
) -> SIMTTrainer:
    """A ``SIMTTrainer`` on constant batches: the tasks' turn is one per rank."""
    torch.manual_seed(0)
    world_size = dist.get_world_size()
    backbone = LegoResNet(depth=options.depth, num_units=units)
    model = MultiTaskModel(backbone, task_names, mode=mode)
    for name in task_names:
        model.add_head(name, lambda name=name: build_head(name))
    attach_statistics_group(model, groups.statistics, deferred=True)
    schedule = Schedule(dict.fromkeys(task_names, 1.0), world_size, policy="stratified")
    tasks = {
        name: Task(name=name, train="synthetic", mapper="none", head="none", batch_size=1)
        for name in task_names
    }
    batches = {name: samples(name, options.size, options.batch) for name in task_names}

    def loader() -> Iterator[Batch]:
        iteration = 0
        while True:
            name = schedule.tasks_at(iteration)[rank]
            yield Batch(name, iteration, 0, batches[name], [], [])
            iteration += 1

    optimizer = torch.optim.SGD(parameter_groups(model), lr=1e-3, momentum=0.9)
    shared = {n: p for n, p in model.named_parameters() if not n.startswith("heads.")}
    heads = {task: dict(model.heads[task].named_parameters()) for task in task_names}
    trainer = SIMTTrainer(
        model=model.train(),
        tasks=tasks,
        schedule=schedule,
        plan=StreamPlan(
            schedule,
            {name: Stream(name, 1000, 0) for name in task_names},
            dict.fromkeys(task_names, 1),
        ),
        batches=loader(),
        optimizer=optimizer,
        learning_rate=LearningRate(optimizer, lambda where: 1.0, 10**6),
        task_average=TaskAverage(shared, heads, groups, world_size, rank),
        head_buffers=HeadBuffers(dict(model.heads), groups, rank),
        groups=groups,
        rank=rank,
    )
    trainer.iter = 0
    return trainer


def detectron2_step(options: argparse.Namespace) -> Callable[[], None]:
    """Detectron2's own loop: SimpleTrainer, DDP, NaiveSyncBatchNorm, the semantic task."""
    torch.manual_seed(0)
    norm = "naiveSyncBN"
    stages = ResNet.make_default_stages(options.depth, norm=norm)
    body = ResNet(BasicStem(norm=norm), stages, out_features=STAGES)
    model = DistributedDataParallel(semantic_head(body).train(), broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    batch = samples("semantic", options.size, options.batch)

    class Forever:
        def __iter__(self) -> Iterator:
            while True:
                yield batch

    trainer = SimpleTrainer(model, Forever(), optimizer)
    trainer.iter = 0

    def step() -> None:
        with EventStorage(trainer.iter) as trainer.storage:
            trainer.run_step()
        trainer.iter += 1

    return step


def measure(options: argparse.Namespace) -> None:
    """Time all variants on this rank; rank 0 prints."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    rank = dist.get_rank()
    groups = build_groups(None, rank)
    steps = {
        "detectron2": detectron2_step(options),
        "semantic": our_step(rank, groups, ["semantic"], options),
        "classes": our_step(rank, groups, ["classes"], options),
        "simt": our_step(rank, groups, ["classes", "semantic"], options),
        "simt n2": our_step(rank, groups, ["classes", "semantic"], options, units=2),
        "simt n2 hard": our_step(
            rank, groups, ["classes", "semantic"], options, units=2, mode="hard"
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 2):
        for name, step in steps.items():
            dist.barrier()
            start = time.perf_counter()
            step()
            dist.barrier()
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
    if rank == 0:
        print(report(times, options))


def report(times: dict[str, list[float]], options: argparse.Namespace) -> str:
    """The table of medians and ratios."""

    def ratio(name: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[base]))

    slowest = max(("semantic", "classes"), key=lambda name: statistics.median(times[name]))
    lines = [
        f"ResNet-{options.depth}, {options.size} px, batch {options.batch}, 2 gloo processes",
        f"{'step':14s} {'ms':>7s} {'/ detectron2 DDP':>17s} {'/ slowest single':>17s}",
    ]
    lines += [
        f"{name:14s} {1e3 * statistics.median(times[name]):7.0f} {ratio(name, 'detectron2'):17.2f} "
        f"{ratio(name, slowest):17.2f}"
        for name in times
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    return launch(measure, Launch(num_processes=2), (parser.parse_args(),))


if __name__ == "__main__":
    raise SystemExit(main())
