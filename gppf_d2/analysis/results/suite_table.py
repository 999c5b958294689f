"""One table of many runs: a column per config, our rows first, the paper's rows beside them.

A suite's folder holds ``<row>/<column>/``, each the output folder of one run, or of a sweep, whose
last training then counts (``final/``). A config may say what the paper has (``paper``, see
``results.paper``); where it does not, the metric that stands for its task is taken. A row has a
mean where it has a value in every column, and all metrics are of one kind ("classification/...").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from gppf_d2.analysis.results.paper import read_paper
from gppf_d2.analysis.results.section import headline

RECORD = "suite.json"  # of one run, written by gppf_d2.tools.suite: its settings and exit status


@dataclass(frozen=True)
class Column:
    """One config of a suite.

    Args:
        name: heading of the column and name of the folders of its runs.
        metric: key in results.json; "" takes the one that stands for the task.
        tables: of the paper, as "Table 5" -> name of a row -> value; None where it has none.
    """

    name: str
    metric: str = ""
    tables: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, paper: Mapping[str, Any] | None) -> Column:
        """From the ``paper`` of a config of one task; of several metrics the first one counts.

        Raises:
            ValueError: a ``paper`` that cannot be meant, or one of several tasks.
        """
        metrics = read_paper(name, paper)
        tasks = list(dict.fromkeys(metric.task for metric in metrics))
        if len(tasks) > 1:
            raise ValueError(
                f"paper of {name!r} is of the tasks {', '.join(tasks)}; a column of the table has "
                "one."
            )
        return cls(name, metrics[0].metric, metrics[0].tables) if metrics else cls(name)


def results_folder(folder: Path) -> Path:
    """Where the results of a run lie: in its folder, or in that of a sweep's last training."""
    final = folder / "final"
    return final if final.is_dir() else folder


def is_finished(folder: Path) -> bool:
    """Whether a run is trained and evaluated: a suite says so, or its files look like it."""
    place = results_folder(folder)
    if not (place / "results.json").is_file():
        return False
    record = read_record(folder)
    return record["status"] == 0 if record else (place / "model_final.pth").is_file()


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a suite wrote down of one of its runs; None of a run that no suite started."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return None


def measured(folder: Path, metric: str) -> tuple[str, float | None]:
    """Name and value of a finished run's metric; None where it has none, or one that is no number.

    Args:
        folder: of the run.
        metric: key in results.json; "" takes the one that stands for the task.
    """
    if not is_finished(folder):
        return metric, None
    for metrics in json.loads((results_folder(folder) / "results.json").read_text()).values():
        name = metric or headline(metrics)
        if name in metrics:
            return name, metrics[name]
    return metric, None


def build_table(folder: Path, columns: Sequence[Column], rows: Sequence[str]) -> dict[str, Any]:
    """Read all runs of a suite.

    Args:
        folder: of the suite.
        columns: of the table.
        rows: our rows that come first; others that are in the folder follow by name.

    Returns:
        {"columns": [{"name", "metric"}], "rows": [{"name", "table", "values", "mean"}]}: "table" is
        "" for our rows, a value or a mean is None where it is not known.
    """
    there = {
        path.parent.name
        for column in columns
        for path in folder.glob(f"*/{column.name}")
        if any(path.glob("*.json")) or any(results_folder(path).glob("*.json"))
    }
    metrics = {column.name: column.metric for column in columns}
    found = []
    for row in [*rows, *sorted(there - set(rows))]:
        values = {}
        for column in columns:
            name, values[column.name] = measured(folder / row / column.name, column.metric)
            metrics[column.name] = name or metrics[column.name]
        found.append((row, "", values))
    sources = {(r, t): None for column in columns for t, of in column.tables.items() for r in of}
    for row, table in sources:
        found.append((row, table, {c.name: c.tables.get(table, {}).get(row) for c in columns}))
    named = [{"name": column.name, "metric": metrics[column.name]} for column in columns]
    comparable = _comparable(named)
    lines = [
        {"name": row, "table": table, "values": values, "mean": _mean(values, comparable)}
        for row, table, values in found
    ]
    return {"columns": named, "rows": lines}


def _comparable(columns: Sequence[Mapping[str, str]]) -> bool:
    """Whether a mean over these columns means something: the metrics known are of one kind."""
    return len({c["metric"].split("/")[-2:][0] for c in columns if c["metric"]}) <= 1


def _mean(values: Mapping[str, float | None], comparable: bool) -> float | None:
    known = [value for value in values.values() if value is not None]
    return fmean(known) if comparable and len(known) == len(values) else None


def to_markdown(table: Mapping[str, Any]) -> str:
    """The table for readers; ours in bold, a dash for what is not known."""
    names = [column["name"] for column in table["columns"]]
    several = len(names) > 1 and _comparable(table["columns"])
    header = ["", *names, *(["mean"] if several else [])]
    lines = [header, ["---", *(["---:"] * (len(header) - 1))]]
    for row in table["rows"]:
        name = f"{row['name']}, {row['table']}" if row["table"] else f"**{row['name']}**"
        values = [row["values"][column] for column in names] + [row["mean"]] * several
        lines.append([name, *map(_number, values)])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    metrics = {column["metric"] for column in table["columns"]}
    if len(metrics) == 1:
        return f"{text}\nMetric: {metrics.pop() or 'not known yet'}.\n"
    of_column = (f"{c['name']} {c['metric'] or 'not known yet'}" for c in table["columns"])
    return f"{text}\nMetrics: {', '.join(of_column)}.\n"


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"
