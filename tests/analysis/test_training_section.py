"""The report's section of training: what it shows of whole, odd and empty runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.analysis.training.section import has_choice, training_charts, training_section
from tests.analysis.run_folders import make_metrics, make_routes


def folder_of(metrics: list[dict], **parts: object) -> RunFolder:
    return RunFolder(Path("run"), metrics=metrics, **parts)


def rich_metrics() -> list[dict]:
    """Two tasks with parts of the time, two evaluations, replaced samples and a loss scale."""
    metrics = make_metrics(60)
    for entry in metrics:
        entry |= {"time/forward": 0.2, "time/backward": 0.2, "samples_per_second": 4.0}
        entry |= {"grad_norm": 1.5, "loss_scale": 1024.0}
    metrics[2] |= {"eval/objects/bbox/AP": 10.0, "eval/objects/bbox/APl": float("nan")}
    metrics[5] |= {"eval/objects/bbox/AP": 12.5, "eval/scenes/sem_seg/mIoU": 40.0}
    metrics[1]["replaced/scenes"] = 3.0
    return metrics


def names(folder: RunFolder) -> list[str]:
    return [chart.name for group in training_charts(folder).values() for chart in group]


def test_there_is_a_chart_for_all_that_was_logged() -> None:
    assert names(folder_of(rich_metrics())) == [
        "losses/objects",
        "losses/scenes",
        "evaluations/objects",
        "shares",
        "speed/time",
        "scalars/samples_per_second",
        "speed/replaced",
        "scalars/lr",
        "scalars/temperature",
        "scalars/grad_norm",
        "scalars/loss_scale",
    ]
    assert names(folder_of([{"iteration": 0}])) == []


def test_charts_say_in_words_and_numbers_what_they_show() -> None:
    groups = training_charts(folder_of(rich_metrics()))
    alts = {chart.name: chart.alt for group in groups.values() for chart in group}
    assert "total from 1.64 at iteration 9 to 1.05 at 59" in alts["losses/scenes"]
    assert "box AP of objects at 2 evaluations, from 10 at" in alts["evaluations/objects"]
    assert "forward 40.0%, backward 40.0%, other 20.0%" in alts["speed/time"]
    assert "slowest process" not in alts["speed/time"], "nothing is exchanged"
    (waits,) = training_charts(folder_of([{"iteration": 0, "time": 2.0, "time/exchange": 1.0}]))[
        "Speed"
    ]
    assert (
        "exchange 50.0%, other 50.0%. Exchange includes the wait for the slowest" in waits.caption
    )
    assert "objects 100%, scenes 100%" in alts["shares"]
    assert "scenes 3" in alts["speed/replaced"]
    assert alts["scalars/lr"] == "Learning rate over the iterations, from 0.1 at iteration 9 to " \
        "0.1 at 59."  # fmt: skip


@pytest.mark.parametrize("told_by", ["routes", "config"])
def test_one_unit_a_layer_has_no_temperature(told_by: str) -> None:
    routes = make_routes(59, num_units=1) if told_by == "routes" else {}
    config = {"backbone": {"num_units": 1}} if told_by == "config" else {}
    folder = folder_of(make_metrics(60), routes=routes, config=config)
    assert not has_choice(folder)
    assert "scalars/temperature" not in names(folder)
    assert has_choice(folder_of([])) and has_choice(folder_of([], routes=make_routes(5)))


def test_datasets_of_a_task_are_evaluated_each_in_its_own_chart() -> None:
    metrics = [
        {"iteration": step, "eval/s/one_val/bbox/AP": 1.0, "eval/s/two_val/depth/delta1": 0.5}
        for step in range(2)
    ]
    assert names(folder_of(metrics, config={"tasks": {"s": {}}})) == [
        "evaluations/s.one_val",
        "evaluations/s.two_val",
    ]


def test_section_groups_the_charts_and_says_what_is_missing() -> None:
    metrics = [{"iteration": 9, "loss/objects/total": 1.0, "lr": 0.1}]
    folder = folder_of(metrics, config={"tasks": {"objects": {}, "scenes": {}}})
    text = training_section(folder)
    assert re.findall("<h3>(.*?)</h3>", text) == ["Losses", "Task shares", "Optimisation"]
    assert "no finite loss of: scenes." in text
    assert "do not tell how often every task ran" in text
    assert text.count("<img") == 2
    assert "no training curves" in training_section(folder_of([]))


def test_names_are_escaped_and_labels_folded() -> None:
    losses = {"loss/<s>/a.x": 1.0, "loss/<s>/a.y": 1.0, "loss/<s>/b.x": 1.0, "loss/<s>/total": 3.0}
    text = training_section(folder_of([{"iteration": 0, **losses, "weight/<s>/a": 1.0}]))
    assert "<s>" not in text and "Losses of each label of &lt;s&gt;" in text
    assert text.count("<details>") == 1
    assert "task &lt;s&gt;" in text and "Learned weights" in text
