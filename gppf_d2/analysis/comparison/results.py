"""Results of several runs side by side: a row per task and metric, a column per run.

The best value of a row carries a star and is set in bold; below the values of the second run and
those after it stands how they differ from the first run. A row without two values, or with equal
ones, has no best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gppf_d2.analysis import page
from gppf_d2.analysis.comparison.figures import heads
from gppf_d2.analysis.results.section import (
    PER_CLASS,
    by_dataset,
    headline,
    metric_words,
    number,
)
from gppf_d2.analysis.run_folder import RunFolder, finite

# metrics of which less is better, by their last part; all others are of the other kind
ERRORS = {"depth": {"abs_rel", "sq_rel", "rmse", "rmse_log"}, "normals": {"mean", "median"}}
STAR = '<span class="star" role="img" aria-label="best">★</span>'

Results = Mapping[str, Mapping[str, Any]]


class Row(NamedTuple):
    """One metric of one task.

    Args:
        task: name, with the dataset where the task has several: "student · mini_depth_val".
        metric: "bbox/AP".
        values: of every run; None where a run has no such result, or one that is no finite number.
        leading: whether the metric stands for its kind.
    """

    task: str
    metric: str
    values: tuple[float | None, ...]
    leading: bool


def result_rows(results: Sequence[Results]) -> list[Row]:
    """The rows of all tasks and metrics that any run has a value of.

    Args:
        results: the content of every run's ``results.json``, {task: {metric: value}}.
    """
    rows = []
    for task in dict.fromkeys(task for of_run in results for task in of_run):
        datasets = [by_dataset(of_run[task]) if of_run.get(task) else {} for of_run in results]
        for dataset in dict.fromkeys(name for of_run in datasets for name in of_run):
            columns = [of_run.get(dataset, {}) for of_run in datasets]
            names = list(dict.fromkeys(name for column in columns for name in column))
            leading = _leading(names)
            for name in names:
                values = tuple(finite(column.get(name)) for column in columns)
                label = f"{task} · {dataset}" if dataset else task
                if values.count(None) < len(values):
                    rows.append(Row(label, name, values, name in leading))
    return rows


def smaller_is_better(metric: str) -> bool:
    """Whether a metric ("depth/abs_rel") measures an error."""
    kind, _, name = metric.rpartition("/")
    return name in ERRORS.get(kind.rpartition("/")[2], ())


def best_places(row: Row) -> set[int]:
    """Places of the runs with the best value; none where there is nothing to choose between."""
    known = [value for value in row.values if value is not None]
    if len(set(known)) < 2:
        return set()
    best = min(known) if smaller_is_better(row.metric) else max(known)
    return {place for place, value in enumerate(row.values) if value == best}


def results_section(runs: Mapping[str, RunFolder]) -> str:
    """The section of results.

    Args:
        runs: by name, in the order of the columns.
    """
    rows = result_rows([run.results for run in runs.values()])
    if not rows:
        part = page.missing("There are no results: no evaluation of any of these runs has ended.")
        return page.section("results", "Results", part)
    names = list(runs)
    leading = [row for row in rows if row.leading]
    classes = [row for row in rows if PER_CLASS.search(row.metric)]
    others = [row for row in rows if not row.leading and not PER_CLASS.search(row.metric)]
    parts = [_table(leading, names, "Results")]
    for title, folded in (("Further metrics", others), ("Metrics per class", classes)):
        if folded:
            parts.append(page.fold(f"{title} ({len(folded)})", _table(folded, names, title)))
    lacking = [name for name, run in runs.items() if not run.results]
    if lacking:
        parts.append(page.missing(f"Without any evaluation so far: {', '.join(lacking)}."))
    first = page.escape(names[0])
    lead = f"★ marks the best run of a row. In small type: the difference to {first}."
    body = f'<div class="stack">{"".join(parts)}</div>'
    return page.section("results", "Results", body, lead=lead)


def _leading(names: Sequence[str]) -> set[str]:
    """The metric that stands for each kind ("bbox", "segm") that a task is measured in."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        if not PER_CLASS.search(name):
            kinds.setdefault(name.rpartition("/")[0], []).append(name)
    return {headline(dict.fromkeys(of_kind)) for of_kind in kinds.values()}


def _table(rows: Sequence[Row], names: Sequence[str], label: str) -> str:
    lines = []
    for row in rows:
        title = f'<span class="of">{page.escape(row.task)}</span> '
        title += page.escape(metric_words(row.metric))
        if smaller_is_better(row.metric):
            title += ' <span class="of">(less is better)</span>'
        best = best_places(row)
        cells = [_cell(row.values, place, place in best) for place in range(len(names))]
        lines.append((title, *cells))
    return page.scroll(page.table(["", *heads(names)], lines, css="runs"), label)


def _cell(values: Sequence[float | None], place: int, best: bool) -> str:
    value, first = values[place], values[0]
    if value is None:
        return "–"
    text = f"{STAR} <b>{number(value)}</b>" if best else number(value)
    if place == 0 or first is None:
        return text
    digits = 4 if max(abs(value), abs(first)) < 1 else 2  # as ``number`` shows them
    difference = f"{value - first:+.{digits}f}".replace("-", "−")
    return f"{text}<small>{difference}</small>"
