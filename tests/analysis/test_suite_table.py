"""The table of a suite: several tables of the paper, sweeps by hand, means that mean something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gppf_d2.analysis.results.suite_table import Column, build_table, to_markdown

TOP1 = {
    "metric": "classification/top1",
    "tables": {"Table 2": {"Theirs": 85.4, "Others": 87.1}, "Table 3": {"Theirs": 85.4}},
}
AP50 = {
    "metric": "voc/AP50",
    "tables": {"Table 2": {"Theirs": 79.3}, "Table 3": {"Theirs": 79.0}},
}


def columns(*papers: dict) -> list[Column]:
    return [Column.of(name, paper) for name, paper in zip("abc", papers)]


def finished(folder: Path, metric: str, value: float) -> None:
    folder.mkdir(parents=True)
    (folder / "model_final.pth").touch()
    (folder / "results.json").write_text(json.dumps({"task": {metric: value}}))


def test_every_row_of_every_table_in_the_paper_s_order(tmp_path: Path) -> None:
    finished(tmp_path / "ours/a", "classification/top1", 86.0)
    table = build_table(tmp_path, columns(TOP1, AP50), ["ours"])
    found = [(row["name"], row["table"], row["values"]) for row in table["rows"]]
    assert found == [
        ("ours", "", {"a": 86.0, "b": None}),
        ("Theirs", "Table 2", {"a": 85.4, "b": 79.3}),
        ("Others", "Table 2", {"a": 87.1, "b": None}),
        ("Theirs", "Table 3", {"a": 85.4, "b": 79.0}),
    ]


def test_a_sweep_by_hand_is_a_cell_too(tmp_path: Path) -> None:
    finished(tmp_path / "swept/a/final", "classification/top1", 84.0)
    (tmp_path / "swept/a/trials").mkdir()
    (row, *_) = build_table(tmp_path, columns(TOP1), [])["rows"]
    assert row == {"name": "swept", "table": "", "values": {"a": 84.0}, "mean": 84.0}


def test_metrics_of_several_kinds_have_no_mean(tmp_path: Path) -> None:
    per_class = {**TOP1, "metric": "classification/mean_per_class"}
    for papers, mean in (((TOP1, per_class), 85.4), ((TOP1, AP50), None)):
        table = build_table(tmp_path, columns(*papers), [])
        assert table["rows"][0]["mean"] == mean
        assert ("mean |" in to_markdown(table).splitlines()[0]) == (mean is not None)


def test_one_table_or_several() -> None:
    one = Column.of("a", {"table": "Table 5", "metric": "voc/AP50", "rows": {"Theirs": 1.0}})
    assert one.tables == {"Table 5": {"Theirs": 1.0}}
    assert Column.of("a", None).tables == {}
    with pytest.raises(ValueError, match="has 'tables' and 'table' or 'rows' too"):
        Column.of("a", {**TOP1, "rows": {}})


def test_a_paper_of_several_metrics_is_judged_by_the_first() -> None:
    rows = {"Single": 46.8}
    paper = {"table": "Table 1", "tasks": {"coco": {"bbox/AP": rows, "segm/AP": {"Single": 42.0}}}}
    column = Column.of("coco", paper)
    assert (column.metric, column.tables) == ("bbox/AP", {"Table 1": rows})
    with pytest.raises(ValueError, match="is of the tasks coco, lvis"):
        Column.of("a", {"tasks": {**paper["tasks"], "lvis": paper["tasks"]["coco"]}})
    with pytest.raises(ValueError, match="has 'tasks' and 'rows' too"):
        Column.of("a", {**paper, "rows": rows})
