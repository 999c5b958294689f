"""Pictures of routes: the numbers behind them, and that they show something."""

from __future__ import annotations

import numpy as np
import pytest

from gppf_d2.analysis.figures import DARK, LIGHT, to_array
from gppf_d2.analysis.routes import (
    agreement_figure,
    probabilities_of,
    route_agreement,
    route_curves,
    route_heatmap,
    undecided_layers,
)
from tests.analysis.run_folders import LAYERS, make_routes


def decided(route: list[int], num_units: int = 2, p: float = 1.0) -> dict:
    table = np.full((len(route), num_units), (1 - p) / max(num_units - 1, 1))
    table[np.arange(len(route)), route] = p
    return {"probabilities": table.tolist(), "route": route}


def ink(pixels: np.ndarray) -> float:
    """Share of pixels that differ from the corner's colour."""
    return float((np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).sum(-1) > 30).mean())


def test_agreement_counts_layers_with_the_same_unit() -> None:
    routes = {
        "layers": LAYERS,
        "tasks": {"a": decided([0, 0, 0, 0]), "b": decided([0, 1, 1, 1]), "c": decided([1] * 4)},
    }
    names, matrix = route_agreement(routes)
    assert names == ["a", "b", "c"]
    assert np.allclose(matrix, [[1, 0.25, 0], [0.25, 1, 0.75], [0, 0.75, 1]])


def test_undecided_layers_are_counted_below_the_threshold() -> None:
    routes = {"layers": LAYERS, "tasks": {"a": decided([0] * 4, p=0.89), "b": decided([1] * 4)}}
    assert undecided_layers(routes) == {"a": 4, "b": 0}


def test_tasks_whose_tables_do_not_fit_are_left_out() -> None:
    routes = make_routes(5)
    routes["tasks"]["objects"]["probabilities"].pop()
    routes["tasks"]["broken"] = {}
    assert list(probabilities_of(routes)) == ["scenes"]
    assert probabilities_of({}) == {}


@pytest.mark.parametrize("num_units", [1, 3])
def test_heatmap_is_drawn_and_prints_only_undecided_probabilities(num_units: int) -> None:
    routes = {"layers": LAYERS, "tasks": {"a": decided([0] * 4, num_units, 1.0)}}
    if num_units > 1:
        routes["tasks"]["b"] = decided([2, 1, 0, 2], num_units, 0.63)
    figure = route_heatmap(routes)
    assert ink(to_array(figure)) > 0.2
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count(".63") == (4 if num_units > 1 else 0)
    assert "1.00" not in texts
    assert {"stem", "res2", "res3"} <= set(texts)


def test_heatmap_puts_the_outline_on_the_argmax() -> None:
    light = route_heatmap({"layers": ["stem"], "tasks": {"a": decided([1], p=0.7)}})
    outlined = [p for p in light.axes[0].patches if p.get_linewidth() > 1]
    assert [(p.get_x() > 0, round(p.get_y())) for p in outlined] == [(True, 1)]


def test_heatmap_of_many_layers_stays_within_the_page() -> None:
    layers = ["stem"] + [f"res4.{index}" for index in range(49)]
    routes = {"layers": layers, "tasks": {"a": decided([0] * 50, p=0.6)}}
    assert route_heatmap(routes).get_figwidth() <= 15.01


def test_curves_have_a_panel_per_layer_and_a_line_per_task() -> None:
    history = [make_routes(step, sharpness=step / 10) for step in (0, 20, 40)]
    figure = route_curves(history, DARK)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == LAYERS
    for index, axes in enumerate(panels):
        for line, task in zip(axes.lines, ("objects", "scenes")):
            expected = [max(entry["tasks"][task]["probabilities"][index]) for entry in history]
            assert np.allclose(line.get_ydata(), expected)
    assert ink(to_array(figure)) > 0.01


def test_curves_of_a_task_that_joined_late_start_late() -> None:
    history = [make_routes(0, ["objects"]), make_routes(10, ["objects", "scenes"])]
    lines = route_curves(history).axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[0, 10], [10]]


def test_agreement_figure_prints_every_pair_in_both_themes() -> None:
    for theme in (LIGHT, DARK):
        figure = agreement_figure(make_routes(0), theme)
        assert len(figure.axes[0].texts) == 4
        assert ink(to_array(figure)) > 0.2


@pytest.mark.parametrize("draw", [route_heatmap, agreement_figure, lambda r: route_curves([r])])
def test_routes_without_probabilities_are_refused(draw) -> None:
    with pytest.raises(ValueError, match="hold"):
        draw({"layers": LAYERS, "tasks": {}, "iteration": 1})
