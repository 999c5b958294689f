"""Evaluate tasks in turn, every task on all ranks.

Each rank runs its share of the images, then the evaluator gathers and rank 0 gets the numbers,
which are handed to all ranks. No statistics collective is issued: the view is in evaluation mode. A
rank that meets a broken image does not leave the others waiting: the error is agreed on before
anything is gathered.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.data import build_detection_test_loader
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import inference_context
from omegaconf import DictConfig

from gppf_d2.distributed.consensus import AgreedError, agree, broadcast_module, from_first
from gppf_d2.distributed.groups import ProcessGroups
from gppf_d2.engine.checkpoint import write_atomically
from gppf_d2.engine.errors import UserError, show_traceback
from gppf_d2.engine.setup import add_head, load_records
from gppf_d2.evaluation.metric_names import overall
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.tta import augmented
from gppf_d2.tasks.spec import Evaluation, Task

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]


def evaluate_tasks(
    cfg: DictConfig,
    model: MultiTaskModel,
    tasks: Mapping[str, Task],
    groups: ProcessGroups,
    names: Iterable[str] | None = None,
    owners: Mapping[str, int] | None = None,
    folder: Path | None = None,
) -> Results:
    """Evaluate tasks one after the other on all ranks.

    A task whose evaluation fails does not keep the others from theirs; the error comes at the end.

    Collective: all ranks must call with the same names.

    Args:
        cfg: the run's config.
        model: left in the mode it was in.
        tasks: all tasks of the run.
        groups: the run's process groups.
        names: which tasks; None evaluates all that name a dataset.
        owners: ``pinned`` mode: a rank that holds each task's head; it is broadcast, used and
            freed.
        folder: where ``results.json`` is written, after each task; None on other ranks than 0.

    Returns:
        ``{task: {"bbox/AP": 31.2, ...}}`` on every rank.

    Raises:
        AgreedError: an evaluation failed, on every rank, with the sentence of the first one.
    """
    results: Results = {}
    failure: AgreedError | None = None
    for name in tasks if names is None else names:
        task = tasks[name]
        if not task.evaluators:
            continue
        found: dict[str, float] = {}
        try:
            with _head_on_every_rank(cfg, model, task, groups, owners):
                for evaluation in task.evaluators:
                    metrics = _evaluate(cfg, model, task, evaluation, groups)
                    found |= _named(metrics, evaluation, len(task.evaluators) > 1, found)
        except AgreedError as error:
            failure = failure or error
            logger.error("%s", error)
            continue
        results[name] = found
        if folder is not None:
            write_results(folder / "results.json", {name: found})
        text = "  ".join(f"{key} {value:.4g}" for key, value in overall(found).items())
        logger.info("Results of %s: %s", name, text)
    if failure is not None:
        raise failure
    return results


def _named(
    metrics: Mapping[str, float], evaluation: Evaluation, several: bool, known: Mapping
) -> dict[str, float]:
    """Metrics under the name of the dataset where a task has several evaluations, and under the
    label too where two labels of one kind are evaluated on one dataset."""
    prefix = f"{evaluation.dataset}/" if several else ""
    if evaluation.label and any(prefix + key in known for key in metrics):
        prefix += f"{evaluation.label}/"
    return {prefix + key: value for key, value in metrics.items()}


@contextmanager
def _head_on_every_rank(
    cfg: DictConfig,
    model: MultiTaskModel,
    task: Task,
    groups: ProcessGroups,
    owners: Mapping[str, int] | None,
):
    """In ``pinned`` mode lend every rank a copy of the owner's head for the block."""
    if owners is None:
        yield
        return
    borrowed = task.name not in model.heads
    if borrowed:
        add_head(cfg, model, task)
        model.heads[task.name].to(next(model.backbone.parameters()).device)
    try:
        broadcast_module(model.heads[task.name], groups.gradients, source=owners[task.name])
        yield
    finally:
        if borrowed:
            del model.heads[task.name]


def _evaluate(
    cfg: DictConfig,
    model: MultiTaskModel,
    task: Task,
    evaluation: Evaluation,
    groups: ProcessGroups,
) -> dict[str, float]:
    """One dataset of one task."""
    evaluator, error = None, None
    try:
        records = load_records([evaluation.dataset])
        evaluator = instantiate(evaluation.evaluator)
        evaluator.reset()
        loader = build_detection_test_loader(
            dataset=records,
            mapper=instantiate(evaluation.mapper),
            sampler=InferenceSampler(len(records)),
            batch_size=int(cfg.train.eval_batch_size),
            num_workers=int(cfg.train.num_workers),
        )
        _infer(model, task.name, evaluation, loader, evaluator)
    except Exception as problem:
        mendable = isinstance(problem, (UserError, ValueError, KeyError, OSError))
        show_traceback(problem, always=not mendable)
        error = f"Evaluation of task {task.name!r} on {evaluation.dataset!r} failed: {problem}"
    agree(error, groups.control)
    flat, error = {}, None
    try:
        flat = flatten(evaluator.evaluate() or {})
    except Exception as problem:
        show_traceback(problem, always=True)
        error = f"The evaluator of task {task.name!r} on {evaluation.dataset!r} failed: {problem}"
    agree(error, groups.control)
    return from_first(flat, groups.control)


def _infer(model: MultiTaskModel, name: str, evaluation: Evaluation, loader, evaluator) -> None:
    """This rank's share of the images, with a progress line every few seconds."""
    plain = functools.partial(model.inference, name, label=evaluation.label)
    inference = augmented(plain, instantiate(evaluation.tta))
    start = said = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        for done, samples in enumerate(loader, start=1):
            evaluator.process(samples, inference(samples))
            now = time.perf_counter()
            if now - said > 5:
                left = (now - start) / done * (len(loader) - done)
                logger.info(
                    "%s on %s: %d of %d batches, %.0f s left",
                    name,
                    evaluation.dataset,
                    done,
                    len(loader),
                    left,
                )
                said = now


def flatten(results: Mapping, prefix: str = "") -> dict[str, float]:
    """``{"bbox": {"AP": 1.0}}`` as ``{"bbox/AP": 1.0}``; a single group keeps its name too."""
    flat: dict[str, float] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}/"))
        else:
            flat[f"{prefix}{key}"] = float(value)
    return flat


def write_results(path: Path, results: Results) -> None:
    """Merge results into ``results.json``; values that are not finite become null."""
    merged: dict = {}
    if path.is_file():
        try:
            merged = json.loads(path.read_text())
        except ValueError:
            logger.warning("%s was not readable and is written anew", path)
    for task, metrics in results.items():
        merged[task] = {k: (v if math.isfinite(v) else None) for k, v in metrics.items()}
    text = json.dumps(merged, indent=2)
    write_atomically(path, lambda target: Path(target).write_text(text + "\n"))
