"""The page that compares runs: of different kinds, tasks and states; best values, differences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gppf_d2.analysis.comparison import page as comparison_module
from gppf_d2.analysis.comparison.config_differences import config_differences
from gppf_d2.analysis.comparison.figures import (
    DASHES,
    last_common_step,
    mark,
    mean_before,
    overlay,
    run_styles,
)
from gppf_d2.analysis.comparison.page import run_names, write_comparison
from gppf_d2.analysis.comparison.results import best_places, result_rows
from gppf_d2.analysis.figures import DARK, LIGHT, LINE_STYLES
from gppf_d2.analysis.similarity.cka import block_structure
from gppf_d2.analysis.similarity.similarity import Network, Similarity
from gppf_d2.tools.report import main
from tests.analysis.html_page import Page
from tests.analysis.run_folders import make_routes, make_run, write_lines

BLOCKS = np.kron(np.eye(2), np.ones((2, 2)))  # CKA of four layers, the first two and the others


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    """A finished run, one of another kind that is not finished, and an empty folder."""
    place = tmp_path_factory.mktemp("runs")
    whole, part, empty = make_run(place / "whole"), place / "else" / "part <2>", place / "empty"
    make_run(part, tasks=["objects"], iterations=40)
    (part / "config.yaml").write_text("train: {max_iter: 80}\ntasks: {objects: {weight: 2.0}}\n")
    (part / "results.json").write_text('{"objects": {"bbox/AP": 15.0, "bbox/APs": null}}')
    for name in ("routes.json", "routes.jsonl"):
        (part / name).unlink()
    (part / "routes.json").write_text(json.dumps(make_routes(39, ["objects"], num_units=1)))
    facts = {"commit": "fff9999", "hardware": {"gpus": ["H100", "H100"], "cpu": "EPYC"}}
    (part / "run.json").write_text(json.dumps(facts))
    empty.mkdir()
    for file, network, kernel, bandwidth, size in (
        ("routes.json", "objects", "linear", None, 64),
        ("large.json", "part <2>", "rbf", 0.5, 224),  # a network that is called like another run
    ):
        Similarity(
            networks=(Network(network, ("a", "b", "c", "d")),), matrix=BLOCKS, kernel=kernel,
            bandwidth=bandwidth, images=64, batch_size=32, passes=1, size=size, dataset="val",
        ).save(whole / "cka" / file)  # fmt: skip
    text = write_comparison([whole, part, empty], place / "pages" / "page.html").read_text()
    return text, Page(text)


def test_page_has_every_section_and_names_every_run(comparison) -> None:
    text, page = comparison
    anchors = [a.get("id") for a in page.all("section")]
    assert anchors == ["results", "configs", "training", "routes", "similarity", "runs"]
    assert "Comparison of 3 runs" in page.text and "part <2>" in page.text
    assert "part &lt;2&gt;" in text and "part <2>" not in text
    for words in (
        "finished · 60 iterations", "40 of 80 iterations", "no iteration logged yet",
        "abc1234", "fff9999", "2 × H100", "EPYC",
    ):  # fmt: skip
        assert words in page.text, words


def test_page_has_the_block_structure_that_was_measured(comparison) -> None:
    text, _ = comparison
    rows = re.findall(r"</svg> (whole<small>.*?)</tr>", text)
    score = f"{block_structure(BLOCKS).score:.2f}<small>a to b</small>"
    assert float(score[:4]) > 0.5
    cells = [re.split("</t[hd]>(?:<td>)?", row)[:-1] for row in rows]
    assert cells == [
        ["whole<small>large.json</small>", "part &lt;2&gt;", "64 of val", "224 × 224",
         "rbf<small>0.5 median distances</small>", score],
        ["whole<small>routes.json</small>", "objects", "64 of val", "64 × 64", "linear", score],
    ]  # fmt: skip


def test_page_marks_the_best_and_tells_the_difference_to_the_first_run(comparison) -> None:
    text, _ = comparison
    row = re.search(r"<tr><th[^>]*><span class=\"of\">objects</span> box AP</th>(.*?)</tr>", text)
    cells = re.findall(r"<td>(.*?)</td>", row.group(1))
    assert cells[0] == "12.34" and cells[2] == "–"
    assert "★" in cells[1] and "<b>15.00</b>" in cells[1] and "<small>+2.66</small>" in cells[1]
    assert 'role="img" aria-label="best"' in cells[1]


def test_page_says_what_runs_lack_instead_of_failing(comparison) -> None:
    _, page = comparison
    for sentence in (
        "Without any evaluation so far: empty.",
        "config.yaml is not there or cannot be read: empty.",
        "there are no curves: empty.",
        "One unit a layer, so nothing to choose: part <2>.",
        "No routes yet: empty.",
        "empty: There is no run.json",
    ):
        assert sentence in page.text, sentence
    assert "cannot be shown:" not in page.text


def test_charts_say_in_words_and_numbers_what_they_show(comparison) -> None:
    _, page = comparison
    alts = [picture["alt"] for picture in page.all("img")]
    # two losses, seconds an iteration, one heat map
    assert len(alts) == 4
    assert "whole 1.64 at iteration 9 to 1.05 at 59" in alts[0] and "part <2> 1.64" in alts[0]
    assert sum("Selection probabilities of run whole" in alt for alt in alts) == 1


def test_only_settings_that_differ_are_on_the_page(comparison) -> None:
    text, _ = comparison
    keys = re.findall(r'<th scope="row"><code>(.*?)</code></th>', text)
    assert keys == ["train.max_iter", "tasks.objects.weight", "tasks.scenes"]


def test_the_style_sheet_has_the_colours_of_the_charts(comparison) -> None:
    text, _ = comparison
    for place in range(len(LIGHT.palette)):
        colors = re.findall(rf"\.run-{place} {{ stroke: (#\w+); }}", text)
        assert colors == [LIGHT.palette[place], DARK.palette[place]]
    assert mark(0) in text and mark(2) in text and len(DASHES) == len(LINE_STYLES)


def test_unexpected_content_costs_at_most_a_section(tmp_path: Path, monkeypatch) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        run.mkdir()
        (run / "config.yaml").write_text("tasks: {}\n")
    (runs[1] / "results.json").write_text('{"objects": {"bbox/AP": [1, 2]}, "scenes": 3}')
    (runs[1] / "run.json").write_text('{"hardware": 7, "commit": {"a": 1}}')
    (runs[1] / "routes.json").write_text('{"layers": 5, "tasks": []}')
    (runs[1] / "metrics.json").write_text('{"iteration": 7, "loss/objects/total": NaN}\n')
    (runs[1] / "cka").mkdir()
    (runs[1] / "cka" / "torn.json").write_text('{"models": [')
    page = Page(write_comparison(runs, tmp_path / "page.html").read_text())
    assert "The configs are the same but for the output folder." in page.text
    assert "b: torn.json cannot be read" in page.text
    assert "Losses that are not finite: objects of b at 7." in page.text
    assert len(page.all("section")) == 6 and "cannot be shown: " not in page.text
    monkeypatch.setattr(comparison_module, "config_differences", lambda _: 1 / 0)
    page = Page(write_comparison(runs, tmp_path / "page.html").read_text())
    assert "This section cannot be shown: ZeroDivisionError" in page.text
    assert len(page.all("section")) == 6 and "torn.json" in page.text


def test_runs_are_named_by_folder_and_by_their_path_where_names_are_equal(tmp_path: Path) -> None:
    assert run_names(["x/one", "x/two"]) == ["one", "two"]
    assert run_names(["x/a/run", "x/b/run", "other"]) == ["a/run", "b/run", "other"]
    assert run_names(["a/x/run", "b/x/run"]) == ["a/x/run", "b/x/run"]
    assert run_names(["/run", "/a/run"]) == ["//run", "a/run"]
    with pytest.raises(ValueError, match="'x/../x/one' is named twice"):
        run_names(["x/one", "x/../x/one"])


def test_rows_tell_errors_from_scores_and_equals_from_best() -> None:
    rows = result_rows(
        [
            {"t": {"depth/abs_rel": 0.2, "depth/delta1": 0.5, "bbox/AP": 1.0, "bbox/AP-cat": 3.0}},
            {"t": {"depth/abs_rel": 0.1, "depth/delta1": 0.5, "val/sem_seg/mIoU": 7.0}},
            {"t": {"depth/abs_rel": float("nan"), "bbox/AP": 1.5, "segm/AP": None}, "u": {}},
        ]
    )
    found = {(row.task, row.metric): row for row in rows}
    assert found["t", "depth/abs_rel"].values == (0.2, 0.1, None)
    best = {key: best_places(row) for key, row in found.items()}
    assert best["t", "depth/abs_rel"] == {1} and best["t", "depth/delta1"] == set()
    assert ("t", "segm/AP") not in found and found["t", "bbox/AP-cat"].values == (3.0, None, None)
    assert best["t", "bbox/AP"] == {2} and best["t · val", "sem_seg/mIoU"] == set()
    leading = [key for key, row in found.items() if row.leading]
    assert leading == [("t", "depth/delta1"), ("t", "bbox/AP"), ("t · val", "sem_seg/mIoU")]


def test_config_differences_are_flat_and_told_once() -> None:
    base = {
        "train": {"output_dir": "a", "max_iter": 5},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
        "tasks": {"one": {"sizes": [1, 2], "steps": [{"p": 1}, {"p": 2}]}},
    }
    other = {
        "train": {"output_dir": "b", "max_iter": 5},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
        "tasks": {
            "one": {"sizes": [1, 3], "steps": [{"p": 1}, {"p": 3}]},
            "two": {"head": {"_target_": "x.Head", "a": 1}},
        },
    }
    third = {**other, "tasks": {"two": {"head": {"_target_": "x.Head", "a": 2}}}}
    found = {one.key: one.values for one in config_differences([base, other, third])}
    assert found == {
        "optimizer._target_": ("torch.optim.SGD", "torch.optim.AdamW", "torch.optim.AdamW"),
        "optimizer.momentum": ("0.9", None, None),
        "tasks.one": ("(4 settings)", "(4 settings)", None),
        "tasks.one.sizes": ("[1, 2]", "[1, 3]", None),
        "tasks.one.steps[1].p": ("2", "3", None),
        "tasks.two": (None, "(2 settings)", "(2 settings)"),
        "tasks.two.head.a": (None, "1", "2"),
    }
    assert config_differences([base, base]) == []


def test_losses_are_compared_where_all_runs_have_been() -> None:
    long = (np.arange(0, 1000, 10), np.linspace(10, 0, 100))
    short = (np.array([0, 300]), np.array([9.0, 4.0]))
    none = (np.zeros(0, dtype=int), np.zeros(0))
    lines = {"long": long, "short": short, "none": none}
    step = last_common_step(lines)
    assert step == 300 and mean_before(short, step) == 4.0 and mean_before(none, step) is None
    assert mean_before(long, step) == pytest.approx(long[1][28:31].mean())
    assert mean_before(short, 200) == 9.0
    assert last_common_step({"none": none}) is None


def test_every_run_has_its_own_look_and_keeps_it_without_points() -> None:
    names = [f"run {index}" for index in range(28)]
    styles = run_styles(names, LIGHT)
    assert len({tuple(style.values()) for style in styles.values()}) == 28
    assert len({style["linestyle"] for name, style in styles.items() if name in names[:4]}) == 4
    line = (np.array([0, 10, 20]), np.array([3.0, 2.0, 1.0]))
    empty = (line[0][:0], line[1][:0])
    figure = overlay({"gone": empty, "_there": line}, "loss", DARK)
    assert {drawn.get_color() for drawn in figure.axes[0].lines} == {DARK.palette[1]}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_there"]
    assert overlay(dict.fromkeys(names, line), "loss").legends == []
    with pytest.raises(ValueError, match="No run has values of: loss"):
        overlay({"a": empty}, "loss")


def test_tool_writes_where_it_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        run.mkdir()
        write_lines(run / "metrics.json", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages").mkdir()
    assert main([str(run) for run in runs]) == 0
    assert main([str(runs[0]), "--output", "pages/one.html"]) == 0
    assert capsys.readouterr().out.split() == ["comparison.html", "pages/one.html"]
    assert "Comparison of 2 runs" in (tmp_path / "comparison.html").read_text()
    assert "no iteration logged yet" in (tmp_path / "pages" / "one.html").read_text()
    assert sorted(path.name for path in runs[0].iterdir()) == ["metrics.json"]
    monkeypatch.setattr("gppf_d2.analysis.live.LiveServer.serve_forever", lambda _: None)
    for arguments in (
        ["a", "a"],
        ["a", "a", "--live", "--port", "0"],
        ["a", "c"],
        ["a", "b", "--output", "pages"],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: '") and error.count("\n") == 1, arguments
