"""Reading run folders that are whole, torn, resumed or empty."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gppf_d2.analysis.run_folder import read_lines, read_run
from tests.analysis.run_folders import make_metrics, make_run, write_lines


def test_whole_run_lacks_nothing(tmp_path: Path) -> None:
    folder = read_run(make_run(tmp_path / "run"))
    assert folder.missing == []
    assert folder.tasks == ["objects", "scenes"]
    assert (folder.iterations, folder.max_iter, folder.finished) == (60, 60, True)
    assert folder.results["objects"]["bbox/AP"] == 12.34
    assert list(folder.sheets) == ["objects"]


def test_torn_last_line_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_lines(path, make_metrics(30))
    with open(path, "a") as file:
        file.write('null\n[1]\n{"lr": 1}\n\x00\x00\n{"iteration": 39, "loss/objec')
    assert [entry["iteration"] for entry in read_lines(path)] == [9, 19, 29]


def test_resumed_run_keeps_the_later_of_two_entries(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_lines(
        path,
        [
            {"iteration": 9, "lr": 1.0, "time": 3.0},
            {"iteration": 19, "lr": 2.0},
            {"iteration": 9, "lr": 5.0},
        ],
    )
    assert read_lines(path) == [
        {"iteration": 9, "lr": 5.0, "time": 3.0},
        {"iteration": 19, "lr": 2.0},
    ]


def test_empty_folder_names_every_missing_part(tmp_path: Path) -> None:
    folder = read_run(tmp_path)
    text = " ".join(folder.missing)
    names = "run.json config.yaml metrics.json routes.json routes.jsonl results.json predictions/"
    for name in names.split():
        assert name in text
    assert not folder.finished and folder.iterations == 0 and folder.tasks == []


def test_broken_files_become_sentences(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "results.json").write_text('{"objects": {"bbox')
    (run / "config.yaml").write_text("train: [unclosed")
    (run / "run.json").write_text("[]")
    folder = read_run(run)
    assert len(folder.missing) == 3
    assert folder.results == {} and folder.config == {} and folder.run == {}


def test_last_line_of_history_stands_in_for_missing_routes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    last = json.loads((run / "routes.json").read_text())
    (run / "routes.json").unlink()
    folder = read_run(run)
    assert folder.routes == last and folder.missing == []


def test_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        read_run(tmp_path / "nowhere")


def test_values_that_are_not_finite_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(
        '{"iteration": 9, "loss": NaN, "lr": 1.0}\n{"iteration": 19, "loss": Infinity}\n'
    )
    first, second = read_lines(path)
    assert math.isnan(first["loss"]) and first["lr"] == 1.0 and second["loss"] == math.inf
