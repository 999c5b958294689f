"""One page that shows a run: ``write_report(run_dir)`` writes ``report.html`` into the run folder.

The page opens from disk without a network and shows what the folder holds: summary, results,
predictions, routes, training. What is missing, in a half-finished or crashed run, is said in words
where it would stand. ``draw_routes`` writes the heat map of the routes alone, as ``routes.png``.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import deque
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gppf_d2.analysis import curves, page
from gppf_d2.analysis.figures import Theme, save_png, task_styles, write_file
from gppf_d2.analysis.results import results_section
from gppf_d2.analysis.routes import (
    DECIDED,
    agreement_figure,
    probabilities_of,
    route_agreement,
    route_curves,
    route_heatmap,
    undecided_layers,
)
from gppf_d2.analysis.run_folder import RunFolder, read_run


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` (and ``routes.png``, where there are routes) into a run folder.

    Args:
        run_dir: the run's output folder, in whatever state.

    Returns:
        The path of the page.

    Raises:
        ValueError: ``run_dir`` is not a folder.
    """
    folder = read_run(run_dir)
    draw_routes(run_dir)
    sections = [
        ("results", "Results", results_section(folder.results, folder.tasks)),
        ("predictions", "Predictions", _predictions(folder)),
        ("routes", "Routes", _routes(folder)),
        ("training", "Training", _training(folder)),
        ("run", "The run", _run(folder)),
    ]
    name = _name(folder)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = page.page(
        f"{name} · gppf_d2", _header(folder), sections, f"Written by gppf_d2 on {page.escape(now)}."
    )
    return write_file(Path(run_dir) / "report.html", text.encode("utf-8"))


def draw_routes(run_dir: str | Path) -> Path | None:
    """Write the heat map of a run's routes as ``routes.png``.

    Returns:
        The path of the picture, None where the run has no routes.

    Raises:
        ValueError: ``run_dir`` is not a folder.
    """
    routes = read_run(run_dir).routes
    if not probabilities_of(routes):
        return None
    return save_png(route_heatmap(routes), Path(run_dir) / "routes.png")


def _name(folder: RunFolder) -> str:
    config_file = str(folder.run.get("config_file") or "")
    return Path(config_file).stem or folder.path.resolve().name


def _header(folder: RunFolder) -> str:
    planned = folder.max_iter
    if folder.finished:
        state = f'<span class="state done">finished · {planned:,} iterations</span>'
    elif not folder.iterations:
        state = '<span class="state open">no iteration logged yet</span>'
    else:
        total = f" of {planned:,}" if planned else ""
        words = f"{folder.iterations:,}{total} iterations"
        state = f'<span class="state open">{"not finished · " if planned else ""}{words}</span>'
    tasks = len(folder.tasks)
    over = f"gppf_d2 run · {tasks} task{'' if tasks == 1 else 's'}"
    if isinstance(folder.run.get("world_size"), int):
        size = folder.run["world_size"]
        over += f" · {size} process{'' if size == 1 else 'es'}"
    return f'<p class="over">{page.escape(over)}</p><h1>{page.escape(_name(folder))}</h1>{state}'


def _facts(folder: RunFolder) -> list[tuple[str, str]]:
    run = folder.run
    times = [f.stat().st_mtime for f in (folder.path / "metrics.json",) if f.is_file()]
    iterations = f"{folder.iterations:,}" + (f" of {folder.max_iter:,}" if folder.max_iter else "")
    facts = [
        ("Folder", folder.path.name),
        ("Config", run.get("config_file")),
        ("Iterations", iterations),
        ("Tasks", ", ".join(folder.tasks)),
        ("Processes", run.get("world_size")),
        ("GPUs", run.get("num_gpus")),
        ("Device", run.get("device")),
        ("Started", _date(run.get("started"))),
        ("Last metrics", _date(times[0]) if times else None),
        ("Commit", run.get("commit")),
        ("gppf_d2", run.get("gppf_d2")),
        ("torch", run.get("torch")),
        ("Detectron2", run.get("detectron2")),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _date(value: Any) -> str | None:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return datetime.datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M")
    return str(value) if value else None


def _run(folder: RunFolder) -> str:
    entries = "".join(
        f"<div><dt>{page.escape(name)}</dt><dd>{page.escape(value)}</dd></div>"
        for name, value in _facts(folder)
    )
    command = folder.run.get("command")
    if command:
        text = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        entries += (
            f'<div class="long"><dt>Command</dt><dd><code>{page.escape(text)}</code></dd></div>'
        )
    parts = [f'<div class="card"><dl class="facts">{entries}</dl></div>']
    if folder.missing:
        sentences = "".join(page.missing(sentence) for sentence in folder.missing)
        parts.append(f"<h3>What this folder lacks</h3>{sentences}")
    if not folder.finished:
        parts.append(_log_tail(folder.path / "log.txt"))
    return page.section("run", "The run", f'<div class="stack">{"".join(parts)}</div>')


def _log_tail(path: Path, count: int = 12) -> str:
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = "".join(deque(file, maxlen=count)).rstrip()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", lines)
    return f"<div><h3>The last lines of its log</h3><pre>{page.escape(lines)}</pre></div>"


def _predictions(folder: RunFolder) -> str:
    order = folder.tasks
    sheets = "".join(
        page.photograph(
            path,
            f"Predictions of {path.stem.replace('.', ', label ')}: image, prediction and truth "
            "side by side",
        )
        for task in sorted(folder.sheets, key=order.index)
        for path in folder.sheets[task]
    )
    absent = [task for task in folder.tasks if task not in folder.sheets]
    if not sheets:
        sheets = page.missing("There are no pictures of predictions in this folder.")
    elif absent:
        sheets += page.missing(f"No picture of predictions of: {', '.join(absent)}.")
    return page.section("predictions", "Predictions", f'<div class="stack">{sheets}</div>')


def _routes(folder: RunFolder) -> str:
    routes = folder.routes
    if not probabilities_of(routes):
        part = page.missing("There are no routes: the run has not written routes.json.")
        return page.section("routes", "Routes", part)
    undecided = undecided_layers(routes)
    count = len(routes["layers"])
    told = ", ".join(f"{task} {count - left} of {count}" for task, left in undecided.items())
    heat = page.chart(
        lambda theme: route_heatmap(routes, theme),
        f"Heat map of selection probabilities, tasks by layers by units. Decided layers: {told}.",
        "A band per task, a row per unit, a column per layer. Outlined is the most probable unit; "
        f"its probability is printed while it is below {DECIDED}. "
        f"Layers decided: {page.escape(told)}.",
        wide=True,
    )
    parts = [heat, _route_history(folder)]
    if len(probabilities_of(routes)) > 1:
        names, matrix = route_agreement(routes)
        pairs = "; ".join(
            f"{a} and {b} {matrix[i, j]:.0%}"
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if i < j
        )
        parts.append(
            '<div class="narrow">'
            + page.chart(
                lambda theme: agreement_figure(routes, theme),
                f"Share of layers in which two tasks select the same unit: {pairs}.",
                "Share of layers in which two tasks select the same unit.",
                wide=True,
            )
            + "</div>"
        )
    lead = (
        "Every task learns which unit of each layer it uses. "
        "Where probabilities are undecided, the most probable unit is arbitrary."
    )
    return page.section("routes", "Routes", f'<div class="stack">{"".join(parts)}</div>', lead=lead)


def _route_history(folder: RunFolder) -> str:
    if not any(probabilities_of(entry) for entry in folder.history):
        return page.missing(
            "How the routes were learned cannot be shown: routes.jsonl has no entry."
        )
    first, last = folder.history[0]["iteration"], folder.history[-1]["iteration"]
    return page.chart(
        lambda theme: route_curves(folder.history, theme),
        f"Largest selection probability of every layer and task, iterations {first:,} to {last:,}.",
        "Largest selection probability over the iterations, a panel per layer, a line per task: "
        "at the bottom nothing is chosen yet, at the top the choice is certain.",
        wide=True,
    )


def _training(folder: RunFolder) -> str:
    metrics = folder.metrics
    if not metrics:
        part = page.missing("There are no training curves: metrics.json is not there or empty.")
        return page.section("training", "Training", part)
    charts = [_loss(folder, task) for task in folder.tasks]
    learned = any(key.startswith("weight/") for entry in metrics for key in entry)
    for build, alt in (
        *[(curves.weight_figure, "Learned weights of the labels over the iterations")] * learned,
        (curves.time_figure, "Seconds an iteration takes and seconds it waits for data"),
        (curves.schedule_figure, "Learning rate and temperature over the iterations"),
    ):
        try:
            charts.append(page.chart(lambda theme, build=build: build(metrics, theme), alt))
        except ValueError as error:
            charts.append(page.missing(str(error)))
    labels = "".join(_label_losses(folder, task) for task in folder.tasks)
    body = (
        f'<div class="stack"><div class="grid">{"".join(charts)}</div>{labels}{_shares(folder)}'
        "</div>"
    )
    lead = (
        "Losses before their weights, averaged over the processes that ran the task: "
        "the bold line is smoothed, the faint one raw."
    )
    return page.section("training", "Training", body, lead=lead)


def _loss(folder: RunFolder, task: str, label: str = "") -> str:
    keys = curves.loss_labels(folder.metrics, task)[label] if label else ["total"]
    steps, values = curves.summed(folder.metrics, [f"loss/{task}/{key}" for key in keys])
    alt = f"Losses of {f'label {label} of ' * bool(label)}task {task} over the iterations"
    if len(steps):
        ends = f"{values[0]:.3g} at iteration {steps[0]:,} to {values[-1]:.3g} at {steps[-1]:,}"
        alt = f"{alt}, total from {ends}"

    def build(theme: Theme) -> Figure:
        color = task_styles(folder.tasks, theme)[task]["color"]
        return curves.loss_figure(folder.metrics, task, theme, color, label)

    try:
        return page.chart(build, alt)
    except ValueError as error:
        return page.missing(str(error))


def _label_losses(folder: RunFolder, task: str) -> str:
    """The parts of every label's loss, folded, for a task with several label heads."""
    labels = curves.loss_labels(folder.metrics, task)
    shown = [label for label, losses in labels.items() if len(losses) > 1 and len(labels) > 1]
    if not shown:
        return ""
    charts = "".join(_loss(folder, task, label) for label in shown)
    title = f"Losses of each label of {page.escape(task)}"
    return f'<details><summary>{title}</summary><div class="grid">{charts}</div></details>'


def _shares(folder: RunFolder) -> str:
    shares = curves.task_shares(folder.metrics)
    if not shares:
        return page.missing("The metrics do not tell how often every task ran.")

    def percent(value: float | None) -> str:
        return "n/a" if value is None else f"{value:.1%}"

    rows = [
        (
            page.escape(task),
            page.bar(share["realised"], share["wanted"]),
            percent(share["realised"]),
            percent(share["wanted"]),
        )
        for task, share in shares.items()
    ]
    head = ["Task", "", "realised", "wanted"]
    body = page.table(head, rows, caption="How often every task ran", css="shares")
    return f'<div class="card narrow shares">{body}</div>'
