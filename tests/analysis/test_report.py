"""The report page: every section, well-formed, self-contained, in whatever state the run is."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest
from PIL import Image

from gppf_d2.analysis import draw_routes, write_report
from gppf_d2.analysis.page import photograph
from gppf_d2.analysis.report import report_page
from gppf_d2.analysis.results.section import results_section
from gppf_d2.analysis.run_folder import read_run
from gppf_d2.tools.report import main
from tests.analysis.html_page import Page
from tests.analysis.run_folders import make_metrics, make_routes, make_run, write_lines

SECTIONS = ["results", "predictions", "routes", "training", "run"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Page]:
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    return path, text, Page(text)


def test_report_has_every_section_and_its_numbers(report) -> None:
    path, _, page = report
    assert path.name == "report.html"
    anchors = [a.get("id") for a in page.all("section")]
    assert anchors == SECTIONS
    assert {a["href"] for a in page.all("a")} == {"#main", *(f"#{anchor}" for anchor in anchors)}
    words = "demo", "objects", "scenes", "12.34", "box AP", "abc1234", "60 of 60", "50.0%"
    assert "cannot be shown" not in page.text
    for word in words:
        assert word in page.text
    assert "finished · 60 iterations" in page.text


def test_report_needs_no_network_and_no_script(report) -> None:
    _, text, page = report
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert "url(" not in text
    assert page.all("script") == [] and page.all("iframe") == []
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", f"<{tag} {name}>"
            if name in ("src", "srcset"):
                assert value.startswith("data:image/"), value[:40]
    assert [link["href"] for link in page.all("link")] == ["data:,"]


def test_style_sheet_is_the_one_its_policy_names(report) -> None:
    _, text, page = report
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"style-src 'sha256-{digest}'" in policy


def test_every_picture_has_words_and_a_true_size(report, tmp_path: Path) -> None:
    _, _, page = report
    pictures = page.all("img")
    # one sheet; heat map, curves, agreement, two losses, time and more in two renderings
    assert len(pictures) >= 8 and len(page.all("source")) == len(pictures) - 1
    for index, picture in enumerate(pictures):
        assert len(picture["alt"]) > 20
        file = tmp_path / str(index)
        file.write_bytes(base64.b64decode(picture["src"].split(",", 1)[1]))
        with Image.open(file) as image:
            ratio = image.width / image.height
            assert image.convert("L").getextrema()[0] < 128, "a blank picture"
        assert int(picture["width"]) / int(picture["height"]) == pytest.approx(ratio, rel=0.01)


def test_text_from_the_run_is_escaped(report) -> None:
    _, text, page = report
    assert "a <b> & c" in page.text and "a &lt;b&gt; &amp; c" in text


def test_routes_picture_is_written_beside_the_report(report) -> None:
    path, _, _ = report
    with Image.open(path.parent / "routes.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert not list(path.parent.glob(".*.tmp"))


def test_empty_folder_gets_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text())
    assert "no iteration logged yet" in page.text
    for name in ("metrics.json", "routes.json", "results.json", "config.yaml"):
        assert name in page.text
    assert page.all("img") == [] and draw_routes(tmp_path) is None
    assert not (tmp_path / "routes.png").exists()


def test_crashed_run_shows_what_it_has_and_the_end_of_its_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=["objects"])
    for name in ("results.json", "routes.json", "routes.jsonl", "run.json"):
        (run / name).unlink()
    (run / "predictions" / "objects.png").write_bytes(b"no picture")
    speed = {"eta_seconds": 125.2, "samples_per_second": 12.5}
    write_lines(run / "metrics.json", [m | speed for m in make_metrics(30, ["objects"])])
    with open(run / "metrics.json", "a") as file:
        file.write('{"iteration": 39, "loss/ob')
    (run / "log.txt").write_text("old line\n" * 50 + "\x1b[31mthe <last> words\x1b[0m\n")
    page = Page(write_report(run).read_text())
    assert "not finished · 30 of 60 iterations" in page.text
    assert "the <last> words" in page.text and "\x1b" not in page.text
    assert "There are no routes" in page.text
    assert "objects.png cannot be read as a picture" in page.text
    assert any(image["alt"].startswith("Losses of task objects") for image in page.all("img"))
    (bar,) = page.all("progress")
    assert (bar["value"], bar["max"]) == ("30", "60")
    for words in ("50%", "0:02:05 left", "12.5 samples/s", "last line just now"):
        assert words in page.text


def test_a_run_that_stopped_has_no_time_left(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=["objects"])
    speed = {"eta_seconds": 77.0, "samples_per_second": 12.5}
    lines = [m | speed for m in make_metrics(30, ["objects"])]  # one every 10 x 0.5 s

    def page_after(seconds: float, time_of_one: float = 0.5) -> str:
        write_lines(run / "metrics.json", [m | {"time": time_of_one} for m in lines])
        then = time.time() - seconds
        os.utime(run / "metrics.json", (then, then))
        return report_page(read_run(run))

    (run / "results.json").unlink()
    going = page_after(50)
    assert "0:01:17 left" in going and "silent" not in going
    assert '<p class="lead">No evaluation has finished yet.</p>' in going
    assert "--eval-only" not in going
    stopped = page_after(130)
    assert "stopped or silent: no line for 2 minutes" in stopped
    assert "0:01:17" not in stopped and "last line" not in stopped
    assert "no evaluation has finished. Evaluate with --eval-only." in stopped
    assert "0:01:17 left" in page_after(130, time_of_one=3.0), "a line every 30 s: not yet"
    (run / "log.txt").write_text("evaluating\n")
    assert "0:01:17 left" in page_after(130), "the log goes on while tasks are evaluated"


def test_broken_results_are_told_where_results_stand(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"objects": {')
    folder = read_run(tmp_path)
    assert "results.json cannot be read" in results_section(folder)
    assert "--eval-only" not in results_section(folder)


def test_numbers_that_no_float_holds_and_names_like_formulas_cost_nothing(tmp_path: Path) -> None:
    names = ["$x^{$", "<i>$\\frac$"]
    run = make_run(tmp_path / "run", tasks=["objects"])
    huge = "1" + "0" * 400
    (run / "config.yaml").write_text(f"train: {{max_iter: {huge}}}\ntasks: {{objects: {{}}}}\n")
    (run / "results.json").write_text(f'{{"objects": {{"bbox/AP": {huge}}}}}')
    (run / "run.json").write_text('{"started": 1e300, "commit": "abc1234"}')
    (run / "routes.json").write_text("[" * 100_000)
    (run / "routes.jsonl").write_text(json.dumps(make_routes(9, names)))
    (run / "metrics.json").write_text(
        f'{{"iteration": 9, "eta_seconds": {huge}, "loss/objects/total": {huge}}}\n'
    )
    page = Page(write_report(run).read_text())
    assert "cannot be shown:" not in page.text and "abc1234" in page.text
    assert "10 iterations" in page.text and "n/a" in page.text
    assert any(names[0] in image["alt"] and names[1] in image["alt"] for image in page.all("img"))
    with Image.open(run / "routes.png") as image:
        assert image.width > 100


def test_a_routes_picture_that_fails_does_not_cost_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gppf_d2.analysis.report._draw_routes", lambda _: 1 / 0)
    assert "no iteration logged yet" in write_report(tmp_path).read_text()
    assert "cannot be drawn" in caplog.text


def test_a_very_long_sheet_is_made_shorter(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("1", (8, 70_000)).save(path)
    (picture,) = Page(photograph(path, "many images")).all("img")
    assert (picture["width"], picture["height"]) == ("7", "65500")
    assert picture["src"].startswith("data:image/jpeg")


def test_metrics_of_several_datasets_have_a_card_each(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(
        '{"t": {"night_val/sem_seg/mIoU": null, "day_val/sem_seg/mIoU": 0.5, "strange": 1e9,'
        ' "day_val/bbox/AP-a/b": 1.5}}'
    )
    page = Page(write_report(tmp_path).read_text())
    for text in ("t · night_val", "t · day_val", "n/a", "0.5000", "strange", "box AP-a/b"):
        assert text in page.text
    assert page.text.count("mean IoU") == 2


def test_tool_prints_the_path_or_one_sentence(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path)]) == 0, "its own page does not make a folder another one"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").write_text("")
    assert main([str(tmp_path / "configs")]) == 2
    assert not (tmp_path / "configs" / "report.html").exists()
    (tmp_path / "run.json").write_text("{}")
    assert main([str(tmp_path), "--output", str(tmp_path / "nowhere" / "a.html")]) == 2
    assert not (tmp_path / "nowhere").exists()
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(error.startswith("error: '") for error in errors)
    assert "holds no run" in errors[1] and "nowhere" in errors[2]


def test_a_task_with_label_heads_has_its_sheets_its_labels_losses_and_their_weights(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run", tasks=["student"])
    sheet = run / "predictions" / "student.png"
    for label in ("boxes", "segments"):
        (run / "predictions" / f"student.{label}.png").write_bytes(sheet.read_bytes())
    for path in (sheet, run / "routes.json", run / "routes.jsonl"):
        path.unlink()
    names = ("total", "boxes.loss_cls", "boxes.loss_box", "depth.loss_depth")
    losses = {f"loss/student/{name}": 1.0 for name in names}
    weights = {"weight/boxes": 1.0, "weight/depth": 0.5}
    write_lines(
        run / "metrics.json", [{"iteration": step, **losses, **weights} for step in (9, 29)]
    )
    page = Page(write_report(run).read_text())
    words = [picture["alt"] for picture in page.all("img")]
    assert sum("Predictions of student, label boxes" in text for text in words) == 1
    assert sum("Predictions of student, label segments" in text for text in words) == 1
    assert "No picture of predictions" not in page.text
    assert sum("Learned weights of the labels" in text for text in words) == 1
    folded = [text for text in words if text.startswith("Losses of label")]
    assert [text.rstrip(".") for text in folded] == [
        "Losses of label boxes of task student over the iterations, total from 2 at iteration 9 "
        "to 2 at 29"
    ]
    assert "Losses of each label of student" in page.text


def test_a_section_that_fails_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> str:
        raise KeyError("layers")

    monkeypatch.setattr("gppf_d2.analysis.report.routes_section", fail)
    page = Page(write_report(tmp_path).read_text())
    assert [a.get("id") for a in page.all("section")] == SECTIONS
    assert "This section cannot be shown: KeyError: 'layers'" in page.text
    assert caplog.records[0].exc_info is not None
