"""How several runs trained, side by side: each curve of all runs in one chart, a table below.

Runs may be of different length: losses are compared at the last iteration that all of them have
logged. Times are without the rare slow iterations, above all the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from gppf_d2.analysis import page
from gppf_d2.analysis.comparison.figures import heads, last_common_step, mean_before, overlay
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.analysis.training.scalars import Line, Scalars, non_finite, series, time_parts

NOTHING: Line = (np.zeros(0, dtype=int), np.zeros(0))


def training_section(runs: Mapping[str, RunFolder]) -> str:
    """The section of training: the total loss of every task, then speed.

    Args:
        runs: by name, in the order of the page.
    """
    columns = {name: Scalars.of(run.metrics) for name, run in runs.items()}
    silent = [name for name, run in runs.items() if not run.metrics]
    parts = [_losses(runs, columns), _speed(columns)]
    if silent:
        sentence = (
            f"metrics.json is not there or empty, so there are no curves: {', '.join(silent)}."
        )
        parts.append(page.missing(sentence))
    return page.section("training", "Training", f'<div class="stack">{"".join(parts)}</div>')


def _losses(runs: Mapping[str, RunFolder], columns: Mapping[str, Scalars]) -> str:
    tasks = dict.fromkeys(task for run in runs.values() for task in run.tasks)
    charts, rows, broken = [], [], []
    for task in tasks:
        key = f"loss/{task}/total"
        lines = _lines(columns, key)
        bad = {name: non_finite(scalars, key) for name, scalars in columns.items()}
        broken += [f"{task} of {name} at {steps[0]:,}" for name, steps in bad.items() if steps]
        step = last_common_step(lines)
        if step is None:
            continue
        charts.append(_chart(lines, task, f"Loss of task {task}"))
        means = [mean_before(line, step) for line in lines.values()]
        cells = ["–" if mean is None else f"{mean:.4g}" for mean in means]
        rows.append((page.escape(task), f"{step:,}", *cells))
    told = page.missing(f"Losses that are not finite: {'; '.join(broken)}.") if broken else ""
    if not rows:
        return told or page.missing("No run has logged a loss.")
    table = page.table(["Task", "iteration", *heads(list(columns))], rows, css="runs")
    caption = (
        "Total loss where all runs with this task have been: the mean over the last tenth of the "
        "iterations up to the one that is named."
    )
    return (
        f"<div><h3>Losses</h3>{_grid(charts)}</div>"
        f'<div>{page.scroll(table, "Losses of every task")}<p class="note">{caption}</p></div>'
        f"{told}"
    )


def _speed(columns: Mapping[str, Scalars]) -> str:
    times, parts = {}, {}
    for name, scalars in columns.items():
        times[name], parts[name] = _time(scalars)
    samples = _lines(columns, "samples_per_second")
    charts, rows = [], []
    if last_common_step(times) is not None:
        charts.append(_chart(times, "Seconds an iteration", "Seconds an iteration takes"))
        rows.append(("Seconds an iteration", *_medians(times)))
    for part in dict.fromkeys(part for of_run in parts.values() for part in of_run):
        title = f'<span class="of">of which</span> {page.escape(part)}'
        rows.append(
            (title, *_medians({n: of_run.get(part, NOTHING) for n, of_run in parts.items()}))
        )
    if last_common_step(samples) is not None:
        charts.append(_chart(samples, "Samples per second", "Samples per second"))
        rows.append(("Samples per second", *_medians(samples)))
    if not rows:
        return page.missing("No run tells how long an iteration took.")
    table = page.table(["Median", *heads(list(columns))], rows, css="runs")
    return f"<div><h3>Speed</h3>{_grid(charts)}</div>{page.scroll(table, 'Speed of every run')}"


def _time(scalars: Scalars) -> tuple[Line, dict[str, Line]]:
    """Seconds an iteration takes, without rare outliers, and those of its parts."""
    try:
        steps, parts, _ = time_parts(scalars)
    except ValueError:  # a run that logs no time
        return NOTHING, {}
    return (steps, sum(parts.values())), {name: (steps, part) for name, part in parts.items()}


def _lines(columns: Mapping[str, Scalars], key: str) -> dict[str, Line]:
    return {name: series(scalars, key) for name, scalars in columns.items()}


def _medians(lines: Mapping[str, Line]) -> list[str]:
    return [f"{np.median(values):.3g}" if len(values) else "–" for _, values in lines.values()]


def _chart(lines: Mapping[str, Line], title: str, what: str) -> str:
    told = "; ".join(
        f"{name} {values[0]:.3g} at iteration {steps[0]:,} to {values[-1]:.3g} at {steps[-1]:,}"
        for name, (steps, values) in lines.items()
        if len(steps)
    )
    return page.chart(partial(overlay, lines, title), f"{what} over the iterations. {told}.")


def _grid(charts: list[str]) -> str:
    return f'<div class="grid">{"".join(charts)}</div>'
