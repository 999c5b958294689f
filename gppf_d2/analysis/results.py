"""The results of a run for readers: one card per task (and dataset, of a task with several), its
leading metric large, the others below.

Evaluators name metrics for programs ("bbox/AP75"); here they get words. Metrics per class are
folded away, and a value that is not finite (no object of that size in the data) is shown as "n/a".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gppf_d2.analysis import page

# The metric that stands for a task: the first of these that it has.
HEADLINES = (
    "bbox/AP", "segm/AP", "sem_seg/mIoU", "classification/top1", "depth/delta1", "depth/abs_rel",
    "open_images_challenge/AP50", "voc/AP50", "nearest_neighbour/top1", "normals/mean",
)  # fmt: skip
WORDS = {
    "sem_seg/mIoU": "mean IoU",
    "sem_seg/fwIoU": "frequency-weighted IoU",
    "sem_seg/mACC": "mean accuracy per class",
    "sem_seg/pACC": "pixel accuracy",
    "sem_seg/BoundaryIoU": "mean boundary IoU",
    "classification/top1": "top-1 accuracy",
    "classification/top5": "top-5 accuracy",
    "classification/mean_per_class": "mean accuracy per class",
    "open_images_challenge/AP50": "AP50 of the Open Images challenge",
    "voc/AP50": "AP50 of PASCAL VOC",
    "nearest_neighbour/top1": "top-1 accuracy of the nearest neighbours",
    "depth/delta1": "δ₁, within a factor of 1.25",
    "depth/delta2": "δ₂, within 1.25²",
    "depth/delta3": "δ₃, within 1.25³",
    "depth/abs_rel": "absolute relative error",
    "depth/sq_rel": "squared relative error",
    "depth/rmse": "RMSE in metres",
    "depth/rmse_log": "RMSE of the logarithm",
    "normals/mean": "mean angle in degrees",
    "normals/median": "median angle in degrees",
    "normals/within_11.25": "percent within 11.25°",
    "normals/within_22.5": "percent within 22.5°",
    "normals/within_30": "percent within 30°",
}
PER_CLASS = re.compile(r"(AP|AP50|IoU|ACC|top1)-")


def results_section(results: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """The report's section of results, a card per task.

    Args:
        results: the content of ``results.json``, {task: {metric: value}}.
        tasks: all tasks of the run, in the order of the cards.
    """
    if not results:
        part = page.missing(
            "There are no results: no evaluation has finished. Evaluate with --eval-only."
        )
        return page.section("results", "Results", part)
    cards = "".join(
        _result_card(f"{task} · {dataset}" if dataset else task, metrics)
        for task in tasks
        for dataset, metrics in by_dataset(results.get(task, {})).items()
    )
    return page.section(
        "results",
        "Results",
        f'<div class="grid results">{cards}</div>',
        lead="The last evaluation of every task, as the evaluators report it; "
        "accuracies, AP and IoU in percent.",
    )


def headline(metrics: Mapping[str, Any]) -> str:
    """The metric that stands for a task, of those that it has; "" where it has none."""
    endings = {name: name.split("/")[-2:] for name in metrics}
    ranked = [name for known in HEADLINES for name in metrics if endings[name] == known.split("/")]
    return next(iter([*ranked, *metrics]), "")


def by_dataset(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Metrics by the dataset in front of their names, without it; "" where there is none."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        dataset, kind, metric = _parts(name)
        found.setdefault(dataset, {})[f"{kind}/{metric}" if kind else metric] = value
    return found or {"": {}}


def _parts(name: str) -> tuple[str, str, str]:
    """Dataset, kind and metric of a name; "" for what it does not have."""
    of_class = PER_CLASS.search(name)  # names of classes may have a slash too
    front, rest = (name[: of_class.start()], name[of_class.start() :]) if of_class else (name, "")
    *dataset, kind, metric = ["", *front.split("/")]
    return "/".join(part for part in dataset if part), kind, metric + rest


def _result_card(task: str, metrics: Mapping[str, Any]) -> str:
    metrics = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    title = f"<h3>{page.escape(task)}</h3>"
    if not metrics:
        return f'<div class="card">{title}{page.missing("Not evaluated.")}</div>'
    head = headline(metrics)
    big = (
        f'<p class="headline">{_number(metrics[head])}'
        f"<small>{page.escape(_words(head))}</small></p>"
    )
    rows = [
        (page.escape(_words(name)), _number(value))
        for name, value in metrics.items()
        if name != head
    ]
    names = [name for name in metrics if name != head]
    short = [row for name, row in zip(names, rows) if not PER_CLASS.search(name)]
    long = [row for name, row in zip(names, rows) if PER_CLASS.search(name)]
    body = page.table([], short, css="metrics") if short else ""
    if long:
        body += f"<details><summary>Per class ({len(long)})</summary>"
        body += f"{page.table([], long, css='metrics')}</details>"
    return f'<div class="card">{title}{big}{body}</div>'


def _words(name: str) -> str:
    """A metric's name for readers."""
    _, kind, metric = _parts(name)
    words = {"bbox": f"box {metric}", "segm": f"mask {metric}"}
    return words.get(kind, WORDS.get(f"{kind}/{metric}", metric))


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.4f}" if abs(value) < 1 and value != 0 else f"{value:,.2f}"
