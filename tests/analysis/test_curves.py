"""Training curves from metrics with gaps, holes and values that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gppf_d2.analysis.curves import (
    loss_figure,
    loss_names,
    non_finite,
    schedule_figure,
    series,
    smooth,
    task_shares,
    time_figure,
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
