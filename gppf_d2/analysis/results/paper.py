"""What the paper has: the ``paper`` of a config, read into one form.

A config may say it in the units of the metrics, which are keys of ``results.json``; a row that the
paper leaves open is None:

    paper = dict(table="Table 5", metric="voc/AP50", rows={"GPPF-R50(Objects365)": 73.6, ...})
    paper = dict(metric="voc/AP50", tables={"Table 2": {"ImageNet": 79.3, ...}, "Table 3": {...}})
    paper = dict(table="Table 1", tasks=dict(coco={"bbox/AP": {"Single": 46.8, ...}, ...}, ...))

The last one is for several tasks, or several metrics of one. The row that the config reproduces
comes first where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMS = ({"metric", "table", "rows"}, {"metric", "tables"}, {"table", "tasks"})

Rows = Mapping[str, float | None]


@dataclass(frozen=True)
class PaperMetric:
    """The paper's values of one metric.

    Args:
        task: whose metric; "" where the config does not say, because it has one task.
        metric: key in results.json; "" takes the one that stands for the task.
        tables: "Table 5" -> name of a row -> value; "" is the name of a table that has none.
    """

    task: str = ""
    metric: str = ""
    tables: Mapping[str, Rows] = field(default_factory=dict)


def read_paper(name: str, paper: Mapping[str, Any] | None) -> list[PaperMetric]:
    """The metrics that a config's ``paper`` has values of.

    Args:
        name: of the config, for messages.
        paper: of the config; None has no metric.

    Raises:
        ValueError: something that ``paper`` does not have, or forms that do not go together.
    """
    paper = dict(paper or {})
    if not paper:
        return []
    unknown = sorted(set(paper) - set().union(*FORMS))
    if unknown:
        raise ValueError(
            f"paper of {name!r} has {unknown[0]!r}; it takes 'table', 'metric' and 'rows', or "
            "'metric' and 'tables', or 'table' and 'tasks'."
        )
    if "tables" in paper and {"table", "rows"} & set(paper):
        raise ValueError(
            f"paper of {name!r} has 'tables' and 'table' or 'rows' too; put the rows of every "
            "table into 'tables'."
        )
    table = str(paper.get("table", ""))
    if "tasks" not in paper:
        tables = paper.get("tables") or {}
        if "rows" in paper or "table" in paper:
            tables = {table: paper.get("rows", {})}
        return [PaperMetric(metric=paper.get("metric", ""), tables=_tables(name, tables))]
    if not set(paper) <= {"table", "tasks"}:
        raise ValueError(
            f"paper of {name!r} has 'tasks' and {sorted(set(paper) - {'table', 'tasks'})[0]!r} "
            "too; a task has its rows under each of its metrics."
        )
    return [
        PaperMetric(task, metric, _tables(name, {table: rows}))
        for task, metrics in _mapping(name, paper["tasks"]).items()
        for metric, rows in _mapping(name, metrics).items()
    ]


def _tables(name: str, tables: Any) -> dict[str, Rows]:
    checked = {table: _mapping(name, rows) for table, rows in _mapping(name, tables).items()}
    for rows in checked.values():
        for row, value in rows.items():
            if value is not None and not isinstance(value, (int, float)):
                raise ValueError(
                    f"paper of {name!r} has {value!r} in the row {row!r}; give a number, or None "
                    "where the paper has none."
                )
    return checked


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"paper of {name!r} has {value!r} where names with values belong; write rows as "
            "{'name of the row': value}."
        )
    return value
