"""The numbers behind the curves, from metrics with gaps, holes and values that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gppf_d2.analysis.training.scalars import (
    Scalars,
    loss_labels,
    loss_names,
    non_finite,
    realised_shares,
    relative_shares,
    series,
    smooth,
    summed,
    task_shares,
    thin,
    time_parts,
    values_at,
)


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


def test_series_takes_finite_values_where_the_key_is() -> None:
    metrics = [
        {"iteration": 0, "x": 1.0},
        {"iteration": 1},
        {"iteration": 2, "x": math.nan},
        {"iteration": 3, "x": None},
        {"iteration": 4, "x": 2},
        {"iteration": 5, "x": "3"},
        {"iteration": 6, "x": True},
    ]
    steps, values = series(metrics, "x")
    assert steps.tolist() == [0, 4] and values.tolist() == [1.0, 2.0]
    assert non_finite(metrics, "x") == [2]
    assert len(series(metrics, "y")[0]) == 0


def test_columns_can_be_made_once_and_span_the_run() -> None:
    scalars = Scalars([{"iteration": 3, "a/x": 1.0}, {"iteration": 8, "a/y": 2.0, "ab/z": 3.0}])
    assert Scalars.of(scalars) is scalars
    assert (scalars.first, scalars.last) == (3, 8)
    assert scalars.below("a") == ["x", "y"]
    assert series(scalars, "a/y")[0].tolist() == [8]
    assert (Scalars([]).first, Scalars([]).last) == (0, 0)


def test_sums_leave_out_what_is_not_there_and_are_not_finite_where_a_part_is_not() -> None:
    metrics = [
        {"iteration": 0, "a": 1.0, "b": 2.0},
        {"iteration": 1, "a": 1.0},
        {"iteration": 2},
        {"iteration": 3, "a": 1.0, "b": math.nan},
    ]
    steps, values = summed(metrics, ["a", "b"])
    assert steps.tolist() == [0, 1] and values.tolist() == [3, 1]
    assert len(summed(metrics, [])[0]) == 0


def test_values_at_iterations_are_zero_where_the_line_has_none() -> None:
    line = (np.array([1, 4, 9]), np.array([1.0, 4.0, 9.0]))
    assert values_at(line, np.array([0, 1, 2, 4])).tolist() == [0, 1, 0, 4]
    assert values_at(line, np.array([9])).tolist() == [9]
    assert values_at((np.zeros(0, dtype=int), np.zeros(0)), np.array([3])).tolist() == [0]
    assert len(values_at(line, np.zeros(0, dtype=int))) == 0


def test_smooth_keeps_constants_and_lines_and_reduces_noise() -> None:
    assert np.allclose(smooth(np.full(50, 3.0)), 3.0)
    line = np.arange(60.0)
    assert np.allclose(smooth(line)[5:-5], line[5:-5])
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise).std() < 0.5 * noise.std()
    for count in range(4):
        assert len(smooth(np.ones(count))) == count


def test_thinning_averages_neighbours_and_keeps_the_mean() -> None:
    steps, values = thin((np.arange(10), np.arange(10.0) ** 2), most=4)
    assert steps.tolist() == [0, 3, 6, 8]
    groups = [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert np.allclose(values, [np.mean([i**2 for i in group]) for group in groups])
    short = (np.arange(3), np.ones(3))
    assert thin(short, most=3) is short


def test_losses_of_a_task_are_not_those_of_one_with_a_longer_name() -> None:
    metrics = [{"iteration": 0, "loss/depth/total": 1.0, "loss/depth_b/silog": 2.0}]
    assert loss_names(metrics, "depth") == ["total"]
    assert loss_names(metrics, "depth_b") == ["silog"]


def test_losses_have_the_label_of_their_head() -> None:
    assert loss_labels(label_metrics(), "student") == {
        "boxes": ["boxes.loss_box", "boxes.loss_cls"],
        "classes": ["classes.loss_classes"],
    }


def share_metrics() -> list[dict]:
    wanted = {"wanted_share/a": 0.75, "wanted_share/b": 0.25}
    return [
        {"iteration": 9, "share/a": 1.0, **wanted},
        {"iteration": 14, "lr": 1.0},
        {"iteration": 39, "share/a": 0.5, "share/b": 0.5, **wanted},
    ]


def test_shares_are_weighted_by_the_length_of_log_periods() -> None:
    shares = task_shares(share_metrics())
    assert shares["a"]["realised"] == pytest.approx((10 * 1.0 + 30 * 0.5) / 40)
    assert shares["b"]["realised"] == pytest.approx(30 * 0.5 / 40)
    assert (shares["a"]["wanted"], shares["b"]["wanted"]) == (0.75, 0.25)


def test_shares_so_far_follow_the_run_and_are_compared_with_what_was_wanted_so_far() -> None:
    steps, values = realised_shares(share_metrics())["b"]
    assert steps.tolist() == [9, 39] and np.allclose(values, [0, 0.375])
    steps, values = relative_shares(share_metrics())["b"]
    assert np.allclose(values, [0, 1.5])
    assert relative_shares([{"iteration": 9, "share/a": 1.0}]) == {}
    steps, values = relative_shares(share_metrics()[:1])["b"]
    assert steps.tolist() == [9] and values.tolist() == [0], "a task that has not run has had none"


def test_shares_of_metrics_without_them() -> None:
    assert task_shares([{"iteration": 0, "lr": 1.0}]) == {}
    assert task_shares([{"iteration": 0, "wanted_share/a": 1.0}]) == {
        "a": {"wanted": 1.0, "realised": None}
    }
    metrics = [{"iteration": 0, "share/a": 1.0, "wanted_share/b": 0.5}]
    assert task_shares(metrics)["b"] == {"wanted": 0.5, "realised": 0.0}


def test_parts_of_the_time_add_up_and_a_slow_start_is_taken_out() -> None:
    metrics = [{"iteration": step, "time": 1.0, "data_time": 0.2} for step in range(20)]
    metrics[0]["time"] = 30.0
    steps, parts, cut = time_parts(metrics)
    assert cut == {0: 30.0} and steps.tolist() == list(range(1, 20))
    assert {name: values[0] for name, values in parts.items()} == pytest.approx(
        {"wait for data": 0.2, "the step": 0.8}
    )


def test_times_that_are_often_slow_stay() -> None:
    metrics = [{"iteration": step, "time": 1.0 + 9 * (step % 4 == 0)} for step in range(40)]
    steps, parts, cut = time_parts(metrics)
    assert len(steps) == 40 and not cut
    assert list(parts) == ["the step"]
