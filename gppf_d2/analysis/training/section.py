"""The report's section of training: losses, evaluations, shares of the tasks, time, optimisation.

``training_charts`` lists what a run folder has numbers for, each chart with its words; the section
puts them on the page and ``pictures`` into TensorBoard. Charts are small multiples of one
size whose x axes all span the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from gppf_d2.analysis import page
from gppf_d2.analysis.figures import Theme, task_styles
from gppf_d2.analysis.results.section import by_dataset, headline, metric_words
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.analysis.training import curves
from gppf_d2.analysis.training.scalars import (
    Line,
    Scalars,
    loss_labels,
    loss_names,
    relative_shares,
    replaced_samples,
    series,
    summed,
    task_shares,
    time_parts,
)

LOSSES, EVALUATIONS, SHARES = "Losses", "Evaluations", "Task shares"
SPEED, OPTIMISATION = "Speed", "Optimisation"
LEADS = {
    LOSSES: "Losses before their weights, averaged over the processes that ran the task: the bold "
    "line is smoothed, the faint one raw.",
    EVALUATIONS: "The leading metric of every task that was evaluated more than once.",
}


@dataclass(frozen=True)
class Chart:
    """One chart of training.

    Args:
        name: in TensorBoard, "losses/coco".
        build: draws it in a theme.
        alt: what it shows, in words and numbers.
        caption: words below it, "" for none.
    """

    name: str
    build: Callable[[Theme], Figure]
    alt: str
    caption: str = ""


def training_section(folder: RunFolder) -> str:
    """The report's section of training, with a sentence for what is missing."""
    if not folder.metrics:
        part = page.missing("There are no training curves: metrics.json is not there or empty.")
        return page.section("training", "Training", part)
    scalars = Scalars.of(folder.metrics)
    charts = training_charts(folder, scalars)
    below = {LOSSES: _label_losses(folder, scalars) + _without_loss(folder, scalars)}
    beside = {SHARES: _share_table(folder, scalars)}
    parts = []
    for title, group in charts.items():
        inside = "".join(_on_page(chart) for chart in group) + beside.get(title, "")
        if not inside and not below.get(title):
            continue
        lead = f'<p class="lead">{LEADS[title]}</p>' if title in LEADS else ""
        grid = f'<div class="grid">{inside}</div>' if inside else ""
        parts.append(f"<div><h3>{title}</h3>{lead}{grid}{below.get(title, '')}</div>")
    return page.section("training", "Training", f'<div class="stack">{"".join(parts)}</div>')


def training_charts(folder: RunFolder, scalars: Scalars | None = None) -> dict[str, list[Chart]]:
    """The charts that a run folder has numbers for, by the heading that they stand under.

    Args:
        folder: of the run.
        scalars: its metrics as columns, where the caller has them.
    """
    scalars = scalars or Scalars.of(folder.metrics)
    tasks = folder.tasks
    temperature = _scalar(scalars, "temperature", "Temperature") if has_choice(folder) else []
    return {
        LOSSES: [chart for task in tasks for chart in _loss(folder, scalars, task)]
        + _weights(scalars),
        EVALUATIONS: [chart for task in tasks for chart in _evaluations(folder, scalars, task)],
        SHARES: _shares(folder, scalars),
        SPEED: _time(scalars)
        + _scalar(scalars, "samples_per_second", "Samples per second", smoothed=True)
        + _replaced(folder, scalars),
        OPTIMISATION: _scalar(scalars, "lr", "Learning rate")
        + temperature
        + _scalar(scalars, "grad_norm", "Norm of the gradient", smoothed=True, log=True)
        + _scalar(scalars, "loss_scale", "Loss scale", log=True),
    }


def has_choice(folder: RunFolder) -> bool:
    """Whether layers have several units, so that routes and a temperature mean something; true
    where nothing tells."""
    backbone = folder.config.get("backbone")
    configured = backbone.get("num_units") if isinstance(backbone, dict) else None
    return folder.routes.get("num_units", configured) != 1


def _on_page(chart: Chart) -> str:
    return page.chart(chart.build, chart.alt, page.escape(chart.caption))


def _loss(folder: RunFolder, scalars: Scalars, task: str, label: str = "") -> list[Chart]:
    labels = loss_labels(scalars, task)
    keys = labels[label] if label else ["total"]
    line = summed(scalars, [f"loss/{task}/{key}" for key in keys])
    if not len(line[0]) and (label or not any(_finite_losses(scalars, task))):
        return []
    whose = f"{f'label {label} of ' * bool(label)}task {task}"
    alt = f"Losses of {whose} over the iterations"
    if len(line[0]):
        alt += f", total {_ends(line)}"
    alt += "."

    def build(theme: Theme) -> Figure:
        color = task_styles(folder.tasks, theme)[task]["color"]
        return curves.loss_figure(scalars, task, theme, color, label)

    return [Chart(f"losses/{task}{f'.{label}' * bool(label)}", build, alt)]


def _finite_losses(scalars: Scalars, task: str) -> list[bool]:
    """Of every loss of a task, whether it has a finite value."""
    return [len(series(scalars, f"loss/{task}/{name}")[0]) > 0
            for name in loss_names(scalars, task)]  # fmt: skip


def _without_loss(folder: RunFolder, scalars: Scalars) -> str:
    names = [task for task in folder.tasks if not any(_finite_losses(scalars, task))]
    return page.missing(f"The metrics hold no finite loss of: {', '.join(names)}.") if names else ""


def _label_losses(folder: RunFolder, scalars: Scalars) -> str:
    """The parts of every label's loss, folded, for tasks with several label heads."""
    folded = []
    for task in folder.tasks:
        labels = loss_labels(scalars, task)
        shown = [label for label, losses in labels.items() if len(losses) > 1 and len(labels) > 1]
        charts = [chart for label in shown for chart in _loss(folder, scalars, task, label)]
        if charts:
            pictures = "".join(_on_page(chart) for chart in charts)
            grid = f'<div class="grid">{pictures}</div>'
            folded.append(page.fold(f"Losses of each label of {task}", grid))
    return "".join(folded)


def _weights(scalars: Scalars) -> list[Chart]:
    lines = {label: series(scalars, f"weight/{label}") for label in sorted(scalars.below("weight"))}
    told = "; ".join(f"{label} {_ends(line)}" for label, line in lines.items() if len(line[0]))
    if not told:
        return []
    alt = f"Learned weights of the labels over the iterations: {told}."
    return [Chart("losses/weights", lambda theme: curves.weight_figure(scalars, theme), alt)]


def _evaluations(folder: RunFolder, scalars: Scalars, task: str) -> list[Chart]:
    """A chart of the leading metric of a task, or of each of its datasets, evaluated repeatedly."""
    keys = {name: f"eval/{task}/{name}" for name in scalars.below(f"eval/{task}")}
    charts = []
    for dataset, metrics in by_dataset(keys).items():
        metric = headline(metrics)
        line = series(scalars, metrics[metric]) if metric else ((), ())
        if len(line[0]) < 2:
            continue
        title = f"{task} · {dataset}" if dataset else task
        alt = f"{metric_words(metric)} of {title} at {len(line[0])} evaluations, {_ends(line)}."

        def build(theme: Theme, key=metrics[metric], title=title, metric=metric) -> Figure:
            color = task_styles(folder.tasks, theme)[task]["color"]
            unit = metric_words(metric)
            return curves.evaluation_figure(scalars, key, title, unit, theme, color)

        charts.append(Chart(f"evaluations/{title.replace(' · ', '.')}", build, alt))
    return charts


def _shares(folder: RunFolder, scalars: Scalars) -> list[Chart]:
    lines = relative_shares(scalars)
    if len(lines) < 2:
        return []
    told = ", ".join(f"{task} {line[1][-1]:.0%}" for task, line in lines.items())
    alt = f"How much of its wanted share every task has had so far. At the end: {told}."

    def build(theme: Theme) -> Figure:
        return curves.share_figure(scalars, folder.tasks, theme)

    return [Chart("shares", build, alt)]


def _share_table(folder: RunFolder, scalars: Scalars) -> str:
    shares = task_shares(scalars)
    if len(shares) == 1:  # always all of the work
        return ""
    if not shares:
        return page.missing("The metrics do not tell how often every task ran.")
    rows = [
        (
            page.escape(task),
            page.bar(shares[task]["realised"], shares[task]["wanted"]),
            _percent(shares[task]["realised"]),
            _percent(shares[task]["wanted"]),
        )
        for task in sorted(shares, key=folder.tasks.index)
    ]
    head = ["Task", "", "realised", "wanted"]
    body = page.table(head, rows, caption="How often every task ran", css="shares")
    return f'<div class="card shares">{body}</div>'


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _time(scalars: Scalars) -> list[Chart]:
    if not len(series(scalars, "time")[0]):
        return []
    steps, parts, cut = time_parts(scalars)
    means = {name: float(values.mean()) for name, values in parts.items()}
    total = sum(means.values())
    told = ", ".join(
        f"{name} {_percent(seconds / total)}" if total else name for name, seconds in means.items()
    )
    caption = f"On average {total:.3g} s: {told}."
    if "exchange" in means:
        caption += " Exchange includes the wait for the slowest process."
    if cut:
        slowest = max(cut, key=cut.get)
        caption += (
            f" Not drawn: {len(cut)} slow log period{'s' * (len(cut) > 1)}, "
            f"up to {cut[slowest]:.3g} s an iteration at {slowest:,}."
        )
    alt = f"Seconds an iteration takes over the iterations, as a stack of its parts. {caption}"
    return [Chart("speed/time", lambda theme: curves.time_figure(scalars, theme), alt, caption)]


def _replaced(folder: RunFolder, scalars: Scalars) -> list[Chart]:
    counts = {task: line[1][-1] for task, line in replaced_samples(scalars).items()}
    if not counts:
        return []
    told = ", ".join(f"{task} {count:,.0f}" for task, count in counts.items())
    caption = f"Samples that could not be read and were replaced by others, in all: {told}."
    return [
        Chart(
            "speed/replaced",
            lambda theme: curves.replaced_figure(scalars, folder.tasks, theme),
            f"Replaced samples over the iterations. {caption}",
            caption,
        )
    ]


def _scalar(
    scalars: Scalars, key: str, title: str, smoothed: bool = False, log: bool = False
) -> list[Chart]:
    line = series(scalars, key)
    if not len(line[0]):
        return []

    def build(theme: Theme) -> Figure:
        return curves.scalar_figure(scalars, key, title, theme, smoothed=smoothed, log=log)

    return [Chart(f"scalars/{key}", build, f"{title} over the iterations, {_ends(line)}.")]


def _ends(line: Line) -> str:
    """The first and the last value of a line, in words."""
    steps, values = line
    if len(steps) == 1:
        return f"{values[0]:.3g} at iteration {steps[0]:,}"
    return f"from {values[0]:.3g} at iteration {steps[0]:,} to {values[-1]:.3g} at {steps[-1]:,}"
