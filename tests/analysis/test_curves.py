"""Training curves from metrics with gaps, holes and values that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gppf_d2.analysis.curves import (
    loss_figure,
    loss_labels,
    loss_names,
    non_finite,
    schedule_figure,
    series,
    smooth,
    summed,
    task_shares,
    time_figure,
    weight_figure,
)
from gppf_d2.analysis.figures import to_array
from tests.analysis.run_folders import make_metrics


def test_series_takes_finite_values_where_the_key_is() -> None:
    metrics = [
        {"iteration": 0, "x": 1.0},
        {"iteration": 1},
        {"iteration": 2, "x": math.nan},
        {"iteration": 3, "x": None},
        {"iteration": 4, "x": 2},
    ]
    steps, values = series(metrics, "x")
    assert steps.tolist() == [0, 4] and values.tolist() == [1.0, 2.0]
    assert non_finite(metrics, "x") == [2]
    assert len(series(metrics, "y")[0]) == 0


def test_smooth_keeps_constants_and_lines_and_reduces_noise() -> None:
    assert np.allclose(smooth(np.full(50, 3.0)), 3.0)
    line = np.arange(60.0)
    assert np.allclose(smooth(line)[5:-5], line[5:-5])
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.5 * noise.std()
    for count in range(4):
        assert len(smooth(np.ones(count))) == count


def test_loss_figure_shows_total_raw_and_smoothed_and_its_parts() -> None:
    figure = loss_figure(make_metrics(400), "scenes")
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["loss_box", "loss_cls", "_raw", "total"]
    assert figure.axes[0].get_ylim()[0] <= 0
    pixels = to_array(figure)
    assert (pixels.std(axis=(0, 1)) > 5).all()


def test_losses_of_a_task_are_not_those_of_one_with_a_longer_name() -> None:
    metrics = [{"iteration": 0, "loss/depth/total": 1.0, "loss/depth_b/silog": 2.0}]
    assert loss_names(metrics, "depth") == ["total"]
    assert loss_names(metrics, "depth_b") == ["silog"]


def test_one_entry_gives_a_point_and_no_entry_a_sentence() -> None:
    metrics = make_metrics(10)
    assert len(metrics) == 1
    line = loss_figure(metrics, "objects").axes[0].lines[-1]
    assert line.get_marker() == "o"
    with pytest.raises(ValueError, match="no finite loss of task 'unknown'"):
        loss_figure(metrics, "unknown")
    for draw in (time_figure, schedule_figure):
        with pytest.raises(ValueError, match="The metrics hold"):
            draw([{"iteration": 1}])


def test_loss_that_stops_being_finite_is_marked() -> None:
    metrics = make_metrics(40)
    metrics[-1]["loss/objects/total"] = math.nan
    labels = [line.get_label() for line in loss_figure(metrics, "objects").axes[0].lines]
    assert "not finite at 39" in labels


def test_figures_do_with_what_is_there() -> None:
    metrics = [{"iteration": step, "time": 1.0, "lr": 0.1} for step in range(3)]
    assert len(time_figure(metrics).axes[0].lines) == 2
    assert [axes.get_title(loc="left") for axes in schedule_figure(metrics).axes] == [
        "Learning rate"
    ]


def test_shares_are_weighted_by_the_length_of_log_periods() -> None:
    metrics = [
        {"iteration": 9, "share/a": 1.0, "wanted_share/a": 0.75, "wanted_share/b": 0.25},
        {"iteration": 14, "lr": 1.0},
        {"iteration": 39, "share/a": 0.5, "share/b": 0.5},
    ]
    shares = task_shares(metrics)
    assert shares["a"]["realised"] == pytest.approx((10 * 1.0 + 30 * 0.5) / 40)
    assert shares["b"]["realised"] == pytest.approx(30 * 0.5 / 40)
    assert (shares["a"]["wanted"], shares["b"]["wanted"]) == (0.75, 0.25)


def test_shares_of_metrics_without_them() -> None:
    assert task_shares([{"iteration": 0, "lr": 1.0}]) == {}
    assert task_shares([{"iteration": 0, "wanted_share/a": 1.0}]) == {
        "a": {"wanted": 1.0, "realised": None}
    }


def label_metrics() -> list[dict]:
    """A student with boxes (two losses) and classes (one), and learned weights."""
    entries = []
    for iteration in range(0, 60, 10):
        entry = {
            "loss/student/boxes.loss_cls": 1.0 + iteration,
            "loss/student/boxes.loss_box": 2.0,
            "loss/student/classes.loss_classes": 0.5,
            "loss/student/absent": 0.0,
            "loss/student/total": 3.5 + iteration,
            "weight/boxes": 1.0,
            "weight/classes": 1.0 + iteration / 10,
        }
        entries.append({"iteration": iteration, **entry})
    return entries


def test_losses_of_a_task_with_label_heads_are_summed_by_label() -> None:
    metrics = label_metrics()
    assert loss_labels(metrics, "student") == {
        "boxes": ["boxes.loss_box", "boxes.loss_cls"],
        "classes": ["classes.loss_classes"],
    }
    axes = loss_figure(metrics, "student").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
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
    labels = [line.get_label() for line in loss_figure(metrics, "student").axes[0].lines]
    assert labels == ["loss_box", "loss_cls", "_raw", "total"]


def test_sums_leave_out_what_is_not_there_and_are_not_finite_where_a_part_is_not() -> None:
    metrics = [
        {"iteration": 0, "a": 1.0, "b": 2.0},
        {"iteration": 1, "a": 1.0},
        {"iteration": 2},
        {"iteration": 3, "a": 1.0, "b": math.nan},
    ]
    steps, values = summed(metrics, ["a", "b"])
    assert steps.tolist() == [0, 1] and values.tolist() == [3, 1]


def test_learned_weights_have_a_line_per_label() -> None:
    axes = weight_figure(label_metrics()).axes[0]
    assert [line.get_label() for line in axes.lines] == ["boxes", "classes"]
    assert axes.lines[1].get_ydata().tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="no weight of a label"):
        weight_figure(make_metrics(10))
