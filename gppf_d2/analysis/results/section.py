"""The results of a run for readers: one card per task (and dataset, of a task with several), its
leading metric large; before them, what the paper has where the config says it.

Evaluators name metrics for programs ("bbox/AP75"); here they get words. Further metrics are folded
away, and a value that is not finite (no object of that size in the data) is shown as "n/a".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gppf_d2.analysis import page
from gppf_d2.analysis.results.paper import PaperMetric, read_paper
from gppf_d2.analysis.run_folder import RunFolder, finite

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


def results_section(folder: RunFolder) -> str:
    """The report's section of results: beside the paper, then a card per task and dataset."""
    if not folder.results:
        return _no_results(folder)
    when = {
        task: evaluated_after(folder, task) for task in folder.tasks if folder.results.get(task)
    }
    together = len(set(when.values())) == 1
    cards = "".join(
        _result_card(
            f"{task} · {dataset}" if dataset else task,
            metrics,
            "" if together else _after(when.get(task)),
        )
        for task in folder.tasks
        for dataset, metrics in by_dataset(folder.results.get(task, {})).items()
    )
    body = (
        f'<div class="stack">{_beside_paper(folder)}<div class="grid results">{cards}</div></div>'
    )
    words = _after(next(iter(when.values()))) if together else ""
    lead = (
        f"The last evaluation of every task{words and f', {words}'}, as the evaluators report it; "
        "accuracies, AP and IoU in percent."
    )
    return page.section("results", "Results", body, lead=lead)


def _no_results(folder: RunFolder) -> str:
    """Why there are none: the file is broken, none is due yet, or the run ended without any."""
    sentence = folder.broken("results.json")
    if not sentence and not folder.finished and folder.silent is None:
        return page.section("results", "Results", lead="No evaluation has finished yet.")
    sentence = sentence or (
        "There are no results: no evaluation has finished. Evaluate with --eval-only."
    )
    return page.section("results", "Results", page.missing(sentence))


def _after(iterations: int | None) -> str:
    return f"after {iterations:,} iterations" if iterations else ""


def evaluated_after(folder: RunFolder, task: str) -> int | None:
    """Iterations after which a task got the results that it has; None where no log line tells.

    The log may be older than the results, which ``--eval-only`` writes anew.
    """
    metrics = folder.results.get(task, {})
    name = next((n for n in metrics if finite(metrics[n]) is not None), "")
    for entry in reversed(folder.metrics):
        logged = finite(entry.get(f"eval/{task}/{name}"))
        if logged is not None:
            same = math.isclose(logged, finite(metrics[name]), rel_tol=1e-6)
            return entry["iteration"] + 1 if same else None
    return None


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


def _beside_paper(folder: RunFolder) -> str:
    """The paper's values of this run's metrics, as a table; "" where the config has none."""
    try:
        found = read_paper(folder.path.name, folder.config.get("paper"))
    except (TypeError, ValueError) as error:
        return page.missing(f"The paper's values cannot be shown: {error}")
    only = folder.tasks[0] if len(folder.tasks) == 1 else ""
    metrics = [
        PaperMetric(entry.task or only, entry.metric, entry.tables)
        for entry in found
        if (entry.task or only) in folder.tasks and any(entry.tables.values())
    ]
    if not metrics:
        return ""
    sources = list(
        dict.fromkeys((t, row) for m in metrics for t, rows in m.tables.items() for row in rows)
    )
    lines = [
        [f"{page.escape(m.task)} <small>{page.escape(metric_words(_metric(folder, m)))}</small>"]
        + [f"<b>{number(_ours(folder, m))}</b>"]
        + [_as_printed(m.tables.get(table, {}).get(row)) for table, row in sources]
        for m in metrics
    ]
    several = len({table for table, _ in sources}) > 1
    head = ["", "This run"]
    head += [page.escape(f"{row}, {table}" if several else row) for table, row in sources]
    if len(sources) > len(lines):  # few metrics, many rows: a line for each of these
        head, *lines = ([row[place] for row in (head, *lines)] for place in range(len(head)))
    caption = "Beside the paper" if several else f"Beside the paper's {sources[0][0] or 'values'}"
    return page.scroll(page.table(head, lines, page.escape(caption), css="paper"), caption)


def _as_printed(value: float | None) -> str:
    return "–" if value is None else str(value)


def _metric(folder: RunFolder, entry: PaperMetric) -> str:
    """The key of the paper's metric in the results of its task."""
    metrics = folder.results.get(entry.task, {})
    name = entry.metric or headline(metrics)
    if name in metrics:
        return name
    alike = [other for other in metrics if other.endswith(f"/{name}")]
    return alike[0] if len(alike) == 1 else name  # of one dataset, which is named in front


def _ours(folder: RunFolder, entry: PaperMetric) -> float | None:
    return finite(folder.results.get(entry.task, {}).get(_metric(folder, entry)))


def _result_card(task: str, metrics: Mapping[str, Any], when: str) -> str:
    """The leading metric of each kind; all others folded, those of single classes apart."""
    metrics = {
        name: finite(value)
        for name, value in metrics.items()
        if value is None or isinstance(value, (int, float))
    }
    title = f"<h3>{page.escape(task)}</h3>"
    if not metrics:
        return f'<div class="card">{title}{page.missing("Not evaluated.")}</div>'
    lead, *others = _leads(metrics)
    small = "<br>".join([page.escape(metric_words(lead)), *([when] if when else [])])
    body = f'<p class="headline">{number(metrics[lead])}<small>{small}</small></p>'
    body += _metric_rows(metrics, others)
    single = [name for name in metrics if PER_CLASS.search(name)]
    rest = [name for name in metrics if name not in {lead, *others, *single}]
    for words, names in (("More", rest), ("Per class", single)):
        if names:
            body += page.fold(f"{words} ({len(names)})", _metric_rows(metrics, names))
    return f'<div class="card">{title}{body}</div>'


def _leads(metrics: Mapping[str, Any]) -> list[str]:
    """The metric that stands for the task, then those of its other kinds: box AP and mask AP."""
    kinds: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        kinds.setdefault(_parts(name)[1], {})[name] = value
    first = headline(metrics)
    found = [headline(of_kind) for of_kind in kinds.values()]
    return [first, *(n for n in found if n != first and "/".join(_parts(n)[1:]) in HEADLINES)]


def _metric_rows(metrics: Mapping[str, float | None], names: Sequence[str]) -> str:
    rows = [(page.escape(metric_words(name)), number(metrics[name])) for name in names]
    return page.table([], rows, css="metrics") if rows else ""


def metric_words(name: str) -> str:
    """A metric's name for readers: "bbox/AP" is "box AP"."""
    _, kind, metric = _parts(name)
    words = {"bbox": f"box {metric}", "segm": f"mask {metric}"}
    return words.get(kind, WORDS.get(f"{kind}/{metric}", metric))


def number(value: float | None) -> str:
    """A metric's value for readers; "n/a" where there is none."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.4f}" if abs(value) < 1 and value != 0 else f"{value:,.2f}"
