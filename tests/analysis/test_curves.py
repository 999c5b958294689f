"""Small charts of training: what they draw, and what they do with gaps, outliers and one entry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gppf_d2.analysis.figures import DARK, to_array
from gppf_d2.analysis.training.curves import (
    SIZE,
    evaluation_figure,
    loss_figure,
    replaced_figure,
    scalar_figure,
    share_figure,
    time_figure,
    weight_figure,
)
from gppf_d2.analysis.training.scalars import MOST_POINTS
from tests.analysis.run_folders import make_metrics
from tests.analysis.test_scalars import label_metrics


def labels_of(figure) -> list[str]:
    return [line.get_label() for line in figure.axes[0].lines]


def test_loss_figure_shows_total_raw_and_smoothed_and_its_parts() -> None:
    figure = loss_figure(make_metrics(400), "scenes")
    assert labels_of(figure) == ["loss_box", "loss_cls", "_raw", "total"]
    assert figure.axes[0].get_ylim()[0] <= 0
    pixels = to_array(figure)
    assert (pixels.std(axis=(0, 1)) > 5).all()


def test_loss_that_stops_being_finite_is_marked() -> None:
    metrics = make_metrics(40)
    metrics[-1]["loss/objects/total"] = math.nan
    assert "not finite at 39" in labels_of(loss_figure(metrics, "objects"))


def test_losses_of_a_task_with_label_heads_are_summed_by_label() -> None:
    metrics = label_metrics()
    lines = {line.get_label(): line for line in loss_figure(metrics, "student").axes[0].lines}
    assert list(lines) == ["boxes", "classes", "_raw", "total"]
    assert lines["boxes"].get_ydata()[0] == 3
    axes = loss_figure(metrics, "student", label="boxes").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["loss_box", "loss_cls", "_raw", "total"]
    assert lines["_raw"].get_ydata().tolist() == [3, 13, 23, 33, 43, 53]
    assert axes.get_title(loc="left") == "student · boxes"
    with pytest.raises(ValueError, match="no finite loss of label 'depth' of task 'student'"):
        loss_figure(metrics, "student", label="depth")


def test_a_single_label_head_shows_its_losses_as_those_of_the_task() -> None:
    metrics = [
        {key: value for key, value in entry.items() if "classes." not in key}
        for entry in label_metrics()
    ]
    assert labels_of(loss_figure(metrics, "student")) == ["loss_box", "loss_cls", "_raw", "total"]


def test_learned_weights_have_a_line_per_label() -> None:
    figure = weight_figure(label_metrics())
    assert labels_of(figure) == ["boxes", "classes"]
    assert figure.axes[0].lines[1].get_ydata().tolist() == [1, 2, 3, 4, 5, 6]


def test_one_entry_gives_a_point_and_no_entry_a_sentence() -> None:
    metrics = make_metrics(10)
    assert len(metrics) == 1
    assert loss_figure(metrics, "objects").axes[0].lines[-1].get_marker() == "o"
    assert scalar_figure(metrics, "lr", "Learning rate").axes[0].lines[0].get_marker() == "o"
    assert len(time_figure(metrics).axes[0].patches) == 2
    empty = [{"iteration": 1}]
    with pytest.raises(ValueError, match="no finite loss of task 'unknown'"):
        loss_figure(metrics, "unknown")
    for draw in (
        lambda: time_figure(empty),
        lambda: weight_figure(empty),
        lambda: share_figure(empty, []),
        lambda: replaced_figure(empty, []),
        lambda: scalar_figure(empty, "lr", "Learning rate"),
        lambda: evaluation_figure(empty, "eval/a/bbox/AP", "a", "box AP"),
    ):
        with pytest.raises(ValueError, match="The metrics (hold|do not tell)"):
            draw()


def test_time_is_a_stack_of_the_parts_that_adds_up_to_the_iteration() -> None:
    parts = {"time/data": 0.1, "time/forward": 0.4, "time/backward": 0.3, "time": 1.0}
    metrics = [{"iteration": step, "data_time": 0.2, **parts} for step in range(4)]
    axes = time_figure(metrics).axes[0]
    tops = {area.get_label(): area.get_paths()[0].vertices[:, 1].max() for area in axes.collections}
    assert list(tops) == ["wait for data", "forward", "backward", "other"]
    assert np.allclose(list(tops.values()), [0.1, 0.5, 0.8, 1.0])


def test_what_time_leaves_out_is_said_in_the_chart() -> None:
    metrics = make_metrics(100)
    metrics[0]["time"] = 40.0
    axes = time_figure(metrics).axes[0]
    assert "not drawn: up to 40 s" in [text.get_text() for text in axes.texts]
    assert axes.get_ylim()[1] < 1


def test_shares_are_drawn_against_the_wanted_ones_without_the_noise_of_the_start() -> None:
    metrics = [{"iteration": 0, "share/a": 1.0, "wanted_share/a": 0.25, "wanted_share/b": 0.75}]
    for step in range(1, 200):
        metrics.append({**metrics[0], "iteration": step, "share/a": 0.25, "share/b": 0.75})
    figure = share_figure(metrics, ["b", "a"])
    axes = figure.axes[0]
    assert labels_of(figure) == ["wanted", "b", "a"]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["a"].get_ydata()[0] == 4 and axes.get_ylim()[1] < 1.2
    assert lines["b"].get_color() == "#0072b2"  # the colour of the run's first task


def test_evaluations_show_the_last_value_as_a_number() -> None:
    key = "eval/a/bbox/AP"
    metrics = [{"iteration": 9, key: 10.0}, {"iteration": 14}, {"iteration": 19, key: 12.345}]
    axes = evaluation_figure(metrics, key, "a", "box AP", DARK).axes[0]
    assert axes.lines[0].get_ydata().tolist() == [10.0, 12.345]
    assert {text.get_text() for text in axes.texts} == {"box AP", "12.3"}


def test_a_logarithmic_axis_needs_positive_values() -> None:
    metrics = [{"iteration": step, "grad_norm": float(step)} for step in range(3)]
    assert scalar_figure(metrics, "grad_norm", "Norm", log=True).axes[0].get_yscale() == "linear"
    assert scalar_figure(metrics[1:], "grad_norm", "Norm", log=True).axes[0].get_yscale() == "log"


def test_replaced_samples_add_up() -> None:
    metrics = [{"iteration": step} for step in range(5)]
    metrics[1]["replaced/a"], metrics[3]["replaced/a"] = 2.0, 1.0
    (line,) = replaced_figure(metrics, ["a", "b"]).axes[0].lines
    assert line.get_xydata().tolist() == [[0, 0], [1, 2], [3, 3], [4, 3]]


def test_charts_have_one_size_and_grow_with_the_rows_of_a_legend() -> None:
    tasks = [f"task_{index}" for index in range(12)]
    metrics = make_metrics(40, tasks)
    assert tuple(loss_figure(metrics, tasks[0]).get_size_inches()) == SIZE
    assert tuple(scalar_figure(metrics, "lr", "Learning rate").get_size_inches()) == SIZE
    assert share_figure(metrics, tasks).get_figheight() > SIZE[1]


def test_long_runs_are_thinned_out() -> None:
    metrics = [
        {"iteration": step, "loss/a/total": 1.0, "time": 1.0, "lr": 1.0} for step in range(4000)
    ]
    for figure in (
        loss_figure(metrics, "a"),
        scalar_figure(metrics, "lr", "Learning rate", smoothed=True),
    ):
        assert all(len(line.get_xdata()) == MOST_POINTS for line in figure.axes[0].lines)
    (area,) = time_figure(metrics).axes[0].collections
    assert len(area.get_paths()[0].vertices) < 2.1 * MOST_POINTS
