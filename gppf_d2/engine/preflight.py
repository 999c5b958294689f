"""Prove on all ranks that a run can start, before the first training collective.

Three questions, each answered by all ranks together so that none is left waiting:

1. do all ranks mean the same run (parameters, schedule, config)?
2. does every head behave: one training call of the backbone, no collective of its own, a finite
   loss?
3. what does a step of each task cost (``--dry-run`` prints it)?
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from gppf_d2.data.samples import BatchKey, Failure, Samples, TaskSource
from gppf_d2.distributed.collective_log import CollectiveLog
from gppf_d2.distributed.consensus import agree, compare
from gppf_d2.distributed.groups import ProcessGroups
from gppf_d2.distributed.sync_bn import attach_statistics_group, discard_statistics
from gppf_d2.engine.errors import UserError, show_traceback
from gppf_d2.engine.simt_trainer import seed_generators
from gppf_d2.modeling.heads import MultiLabelHead
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.tasks.schedule import Schedule
from gppf_d2.tasks.spec import Task
from gppf_d2.tasks.stream import Position, Stream

logger = logging.getLogger(__name__)

PROBE_SAMPLES = 2


@dataclass(frozen=True)
class Probe:
    """What a step of a task cost here: seconds, peak GPU memory in MiB (0 on a CPU), loss."""

    task: str
    batch_size: int
    seconds: float
    memory: float
    loss: float


def compare_ranks(
    model: MultiTaskModel,
    schedule: Schedule,
    sources: Mapping[str, TaskSource],
    groups: ProcessGroups,
    pinned: bool = False,
) -> None:
    """Refuse a run whose ranks differ in schedule, in parameters or in the data they share.

    Collective: all ranks must call.

    Raises:
        ValueError: on every rank, naming the first difference.
    """
    shared = {
        name: f"{tuple(p.shape)} {p.dtype} trainable={p.requires_grad}"
        for name, p in model.named_parameters()
        if not (pinned and name.startswith("heads."))
    }
    compare({"schedule": schedule.fingerprint()}, groups.control, what="schedules")
    compare(shared, groups.control, what="parameters")
    if not pinned:  # there the ranks of a task are few, and most tasks have one
        data = {task: records_digest(source.records) for task, source in sources.items()}
        remedy = "every machine needs the same complete copy of the datasets"
        compare(data, groups.control, what="training samples", remedy=remedy)


def check_labels(model: MultiTaskModel, sources: Mapping[str, TaskSource]) -> None:
    """Refuse a task whose mapper and head name different labels.

    A label may be on few images: the first batches need not show what is wrong, and a head without
    a label would stay as it is, in silence.

    Raises:
        UserError: a label without a head, or a head without a label.
    """
    for task, source in sources.items():
        head, labels = model.heads[task], getattr(source.mapper, "labels", None)
        if not isinstance(head, MultiLabelHead) or not isinstance(labels, Mapping):
            continue
        alone = sorted(set(labels) ^ set(head.heads))
        if alone:
            raise UserError(
                f"Task {task!r} has the labels {', '.join(labels)} in its mapper and heads for "
                f"{', '.join(head.heads)}; {alone[0]!r} is in one of them only: name both alike, "
                "or leave it out."
            )


def records_digest(records: Sequence, looks: int = 64) -> str:
    """Number of records, and a hash of the names of some spread evenly over them."""
    state = hashlib.sha256()
    for index in range(0, len(records), max(1, len(records) // looks)):
        record = records[index]
        name = record.get("file_name", "") if isinstance(record, Mapping) else ""
        state.update(os.path.basename(str(name)).encode() + b"\n")
    return f"{len(records)} records, names {state.hexdigest()[:12]}"


def probe_tasks(
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    sources: Mapping[str, TaskSource],
    streams: Mapping[str, Stream],
    groups: ProcessGroups,
    *,
    seed: int,
    amp: torch.dtype | None = None,
    full_batches: bool = False,
) -> list[Probe]:
    """Run one forward and backward of every held task, alone and without any exchange.

    Nothing of it stays: gradients, buffers and random generators are as before.

    Collective: all ranks must call.

    Args:
        full_batches: take the task's batch size instead of two samples, for ``--dry-run``.

    Raises:
        ValueError: on every rank: a head issued a collective, called the backbone twice, failed or
            returned a loss that is not finite.
    """
    probes: list[Probe] = []
    error = None
    with _nothing_stays(model), _local_statistics(model, groups):
        for name, source in sources.items():
            count = (
                tasks[name].batch_size
                if full_batches
                else min(PROBE_SAMPLES, tasks[name].batch_size)
            )
            try:
                probes.append(_probe(model, tasks[name], source, streams[name], count, seed, amp))
            except Exception as problem:
                show_traceback(problem)
                error = f"Task {name!r} fails in a probe step: {type(problem).__name__}: {problem}"
                break
    agree(error, groups.control)
    return probes


def _probe(
    model: MultiTaskModel,
    task: Task,
    source: TaskSource,
    stream: Stream,
    count: int,
    seed: int,
    amp: torch.dtype | None,
) -> Probe:
    device = next(model.parameters()).device
    positions, _ = stream.take(Position(0, 0), count)
    batch = Samples({task.name: source}, {task.name: stream}, seed)[
        BatchKey(task.name, 0, 0, 0, positions)
    ]
    if isinstance(batch, Failure):
        raise ValueError(batch.sentence)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    seed_generators(seed)
    model.begin_micro_step(seed, 0, 0, 0)
    with CollectiveLog("refuse", model), EventStorage(0):
        with torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
            losses = model.losses(task.name, batch.samples)
            anchor = model.finish_micro_step()
        loss = sum(value.float() for value in losses.values())
        total = loss + anchor
        if total.requires_grad:
            total.backward()
    value = float(loss.detach())
    if not np.isfinite(value):
        bad = [name for name, part in losses.items() if not torch.isfinite(part).all()]
        raise ValueError(f"loss {', '.join(bad)} is {value} on its first batch")
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return Probe(task.name, count, time.perf_counter() - start, memory, value)


@contextmanager
def _local_statistics(model: MultiTaskModel, groups: ProcessGroups) -> Iterator[None]:
    attach_statistics_group(model, None)
    try:
        yield
    finally:
        discard_statistics(model)
        attach_statistics_group(model, groups.statistics)


@contextmanager
def _nothing_stays(model: nn.Module) -> Iterator[None]:
    """Restore buffers, gradients, modes and the global random generators after the block."""
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    training = model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for parameter in model.parameters():
            parameter.grad = None
        model.train(training)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def format_probes(probes: list[Probe]) -> str:
    """The table that ``--dry-run`` prints."""
    lines = [f"{'task':20s} {'batch':>5s} {'seconds':>8s} {'GPU MiB':>8s} {'loss':>9s}"]
    lines += [
        f"{p.task:20s} {p.batch_size:5d} {p.seconds:8.3f} {p.memory:8.0f} {p.loss:9.4g}"
        for p in probes
    ]
    return "\n".join(lines)
