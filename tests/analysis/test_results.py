"""The report's sections of results, beside the paper, and of the run itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gppf_d2.analysis.results.section import results_section
from gppf_d2.analysis.run_folder import read_run
from gppf_d2.analysis.run_section import run_section
from tests.analysis.html_page import Page
from tests.analysis.run_folders import make_metrics, make_run, write_lines


def results_of(run: Path) -> Page:
    return Page(results_section(read_run(run)))


def test_the_run_is_told_with_its_hardware_its_data_its_weights_and_its_config(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run")
    description = json.loads((run / "run.json").read_text())
    description["hardware"] = {
        "host_count": 2, "cpu": "Epyc", "cpu_cores": 64, "memory_gb": 503.5,
        "gpus": ["H100"] * 8 + ["A100"],
    }  # fmt: skip
    sets = {"train": {"a_train": 118287, "b_train": 12}, "evaluation": {"a_val": 5000}}
    description |= {"data": {"objects": sets}, "initial_weights": "loaded 320 <of> 325"}
    (run / "run.json").write_text(json.dumps(description))
    page = Page(run_section(read_run(run)))
    for words in (
        "8 × H100, 1 × A100", "Epyc · 64 cores", "504 GB", "a_train: 118,287 samples",
        "b_train: 12 samples", "a_val: 5,000 samples", "loaded 320 <of> 325", "max_iter: 60",
    ):  # fmt: skip
        assert words in page.text
    assert len(page.all("details")) >= 2


def test_results_say_after_how_many_iterations_unless_they_were_evaluated_anew(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run")
    entries = make_metrics(60)
    for entry, value in ((entries[1], 3.0), (entries[3], 12.34)):
        entry |= {"eval/objects/bbox/AP": value, "eval/scenes/bbox/AP": value}
    write_lines(run / "metrics.json", entries)
    assert "every task, after 40 iterations" in results_of(run).text
    results = json.loads((run / "results.json").read_text())
    results["scenes"]["bbox/AP"] = 13.0
    (run / "results.json").write_text(json.dumps(results))
    text = results_of(run).text
    assert text.count("after 40 iterations") == 1 and "every task, as the" in text


def test_several_metrics_stand_beside_the_paper_s_rows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    rows = {"Theirs": 49.7, "Single": None}
    config["paper"] = {
        "table": "Table 1", "tasks": {"objects": {"bbox/AP": rows}, "absent": {"bbox/AP": rows}}
    }  # fmt: skip
    config["paper"]["tasks"]["scenes"] = {"bbox/AP": rows, "segm/AP": rows}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    words = results_of(run).text
    table = "Beside the paper's Table 1 This run Theirs Single objects box AP 12.34 49.7 –"
    assert table in words
    assert "scenes mask AP n/a 49.7 –" in words and "absent" not in words


def test_one_metric_has_a_line_for_each_row_of_the_paper(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=["objects"])
    (run / "results.json").write_text('{"objects": {"some_val/bbox/AP": 12.34}}')
    config = yaml.safe_load((run / "config.yaml").read_text())
    tables = {"Table 2": {"A": 76.0, "B": 0.25}, "Table 3": {"A": 3}}
    config["paper"] = {"metric": "bbox/AP", "tables": tables}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    words = results_of(run).text
    lines = "This run 12.34 A, Table 2 76.0 B, Table 2 0.25 A, Table 3 3"
    assert f"Beside the paper objects box AP {lines}" in words


@pytest.mark.parametrize("paper", ["{rows: 3}", "[1]", "{metric: a, rows: {b: c}}", "{odd: 1}"])
def test_a_paper_that_cannot_be_meant_is_a_sentence(tmp_path: Path, paper: str) -> None:
    (tmp_path / "results.json").write_text('{"t": {"bbox/AP": 1.0}}')
    (tmp_path / "config.yaml").write_text(f"tasks: {{t: {{}}}}\npaper: {paper}\n")
    words = results_of(tmp_path).text
    assert "The paper's values cannot be shown" in words and "1.00" in words
