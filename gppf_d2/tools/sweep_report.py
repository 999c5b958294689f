"""What a sweep shows: a line of progress, a table of all points, a picture of the grid."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from tabulate import tabulate

from gppf_d2.engine.checkpoint import write_atomically
from gppf_d2.tools.sweep_plan import Plan, Value, describe, short
from gppf_d2.tools.sweep_queue import Entry

SHOWN = 10  # lines of the table that is printed
_MARKS = {"failed": "failed", "running": "runs"}


def best_of(entries: Sequence[Entry], plan: Plan) -> Entry | None:
    """The best point that is done; the first of the grid where several are equal."""
    best = None
    for entry in entries:
        if entry.state == "done" and (best is None or plan.better(entry.value, best.value)):
            best = entry
    return best


def progress(entries: Sequence[Entry], plan: Plan) -> str:
    """One line: how many are done, the best so far, the time left at the present pace."""
    count = Counter(entry.state for entry in entries)
    parts = [f"{count['done'] + count['failed']} of {len(entries)} points"]
    if count["failed"]:
        parts.append(f"{count['failed']} failed")
    if count["running"]:
        parts.append(f"{count['running']} running")
    best = best_of(entries, plan)
    if best is not None:
        parts.append(f"best {plan.metric} {short(best.value, 4)} at {describe(best.point)}")
    left = seconds_left(entries)
    if left:
        parts.append(f"about {duration(left)} left")
    return " | ".join(parts)


def seconds_left(entries: Sequence[Entry]) -> float | None:
    """Time left with as many workers as are running now; None where nothing tells it."""
    times = [entry.seconds for entry in entries if entry.state == "done" and entry.seconds]
    running = sum(entry.state == "running" for entry in entries)
    open_ = sum(entry.state in ("running", "waiting", "lost") for entry in entries)
    if not times or not open_:
        return None
    # those that run are half done on average
    return (open_ - running / 2) / max(running, 1) * sum(times) / len(times)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def ranked(entries: Sequence[Entry], plan: Plan) -> list[Entry]:
    """Done points from best to worst, then the others."""
    done = [entry for entry in entries if entry.state == "done"]
    done.sort(key=lambda entry: entry.value, reverse=plan.maximize)
    return done + [entry for entry in entries if entry.state != "done"]


def table(entries: Sequence[Entry], plan: Plan, shown: int = SHOWN) -> str:
    """The best points and all that failed, as text."""
    order = ranked(entries, plan)
    rows = [
        [
            *(short(value) for value in entry.point.values()),
            short(entry.value, 4) if entry.state == "done" else entry.state,
            "" if entry.seconds is None else duration(entry.seconds),
            entry.number if entry.number >= 0 else "",
            entry.error[:60],
        ]
        for place, entry in enumerate(order)
        if place < shown or entry.state == "failed"
    ]
    head = [*plan.grid, plan.metric, "time", "trial", "error"]
    text = tabulate(rows, head, disable_numparse=True)
    hidden = len(order) - len(rows)
    return f"{text}\n... and {hidden} more, in trials.csv" if hidden else text


def write_table(path: Path, entries: Sequence[Entry], plan: Plan) -> None:
    """All points as a CSV file, best first, with all their metrics."""
    order = ranked(entries, plan)
    flat = {id(entry): _flat(entry) for entry in order}
    metrics = sorted({name for row in flat.values() for name in row})
    names = list(plan.grid)
    fixed = ["trial", "state", *names, plan.metric, "seconds", "host", "error"]

    def write(target: str) -> None:
        with open(target, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*fixed, *metrics])
            for entry in order:
                row = [entry.number, entry.state, *entry.point.values(), entry.value, entry.seconds]
                row += [entry.host, entry.error, *(flat[id(entry)].get(name) for name in metrics)]
                writer.writerow(row)

    write_atomically(path, write)


def _flat(entry: Entry) -> dict[str, float]:
    return {
        f"{task}/{name}": value
        for task, metrics in entry.results.items()
        for name, value in metrics.items()
    }


def draw(path: Path, entries: Sequence[Entry], plan: Plan, title: str) -> None:
    """A picture of the grid.

    One name is drawn as a line, two as a heat map, the first along the horizontal axis; of more,
    the heat map of the first two shows the best over the others.
    """
    columns = list(plan.grid.values())[0]
    rows = list(plan.grid.values())[1] if len(plan.grid) > 1 else (None,)
    size = (max(4.8, 1.6 + 0.85 * len(columns)), max(3.4, 1.7 + 0.5 * len(rows)))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    try:
        if len(plan.grid) == 1:
            _line(axes, entries, plan)
        else:
            _heat_map(axes, entries, plan, columns, rows)
        axes.set_title(title, fontsize=10)
        write_atomically(path, lambda target: figure.savefig(target, dpi=150, format="png"))
    finally:
        plt.close(figure)


def _line(axes: Axes, entries: Sequence[Entry], plan: Plan) -> None:
    ((name, values),) = plan.grid.items()
    heights = [entry.value if entry.state == "done" else np.nan for entry in entries]
    axes.plot(range(len(values)), heights, "o-", color="#2a5c8a")
    best = best_of(entries, plan)
    for place, entry in enumerate(entries):
        mark = _MARKS.get(entry.state, "") if entry.state != "done" else short(entry.value, 3)
        known = entry.state == "done"
        axes.annotate(
            mark,
            (place, entry.value if known else 0.03),
            xycoords="data" if known else ("data", "axes fraction"),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            weight="bold" if entry is best else "normal",
        )
    axes.margins(y=0.15)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xticks(range(len(values)), [short(value) for value in values])
    axes.set_xlabel(name)
    axes.set_ylabel(plan.metric)


def _heat_map(
    axes: Axes,
    entries: Sequence[Entry],
    plan: Plan,
    columns: Sequence[Value],
    rows: Sequence[Value],
) -> None:
    """The second name upwards, as on an axis."""
    horizontal, vertical, *others = plan.grid
    cells = _cells(entries, plan, horizontal, vertical)
    values = np.full((len(rows), len(columns)), np.nan)
    for (row, column), entry in cells.items():
        if entry.state == "done":
            values[row, column] = entry.value
    colors = matplotlib.colormaps["viridis" if plan.maximize else "viridis_r"]
    image = axes.imshow(values, origin="lower", aspect="auto", cmap=colors)
    axes.set_facecolor("0.93")  # of points without a value
    best = best_of(list(cells.values()), plan)
    for (row, column), entry in cells.items():
        done = entry.state == "done"
        text = short(entry.value, 3) if done else _MARKS.get(entry.state, "")
        dark = done and sum(colors(image.norm(entry.value))[:3]) < 1.3
        color = "white" if dark else "black" if done else "0.45"
        weight = "bold" if entry is best else "normal"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8,
                  weight=weight)  # fmt: skip
        if entry is best:
            frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, lw=2.5, color="crimson")
            axes.add_patch(frame)
    axes.set_xticks(range(len(columns)), [short(value) for value in columns])
    axes.set_yticks(range(len(rows)), [short(value) for value in rows])
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    label = plan.metric + (f", best over {', '.join(others)}" if others else "")
    if np.isfinite(values).any():
        axes.figure.colorbar(image, label=label)


def _cells(
    entries: Sequence[Entry], plan: Plan, horizontal: str, vertical: str
) -> dict[tuple[int, int], Entry]:
    """(row, column) -> the best of its points; one that is not done where none is."""
    cells: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        row = list(plan.grid[vertical]).index(entry.point[vertical])
        column = list(plan.grid[horizontal]).index(entry.point[horizontal])
        cells.setdefault((row, column), []).append(entry)
    return {place: best_of(group, plan) or group[0] for place, group in cells.items()}
