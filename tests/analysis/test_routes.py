"""Routes: the numbers behind the pictures, what the pictures show, and the report's section."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from gppf_d2.analysis import page
from gppf_d2.analysis.figures import DARK, LIGHT, task_styles, to_array
from gppf_d2.analysis.routes import section as routes_section
from gppf_d2.analysis.routes.agreement import agreement_figure, readable_count, task_tree
from gppf_d2.analysis.routes.costs import BackboneCosts
from gppf_d2.analysis.routes.curves import route_curves
from gppf_d2.analysis.routes.heatmap import route_heatmap
from gppf_d2.analysis.routes.tables import (
    MOST_POINTS,
    arbitrary_layers,
    learning_curves,
    probabilities_of,
    route_agreement,
    sure_layers,
)
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.modeling.lego.controller import undecided_layers
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


def test_sure_layers_and_those_whose_choice_is_arbitrary_are_counted() -> None:
    tasks = {"a": decided([0] * 4, p=0.89), "b": decided([1] * 4), "c": decided([1] * 4, p=0.54)}
    tasks["one"] = decided([0] * 4, num_units=1)
    routes = {"layers": LAYERS, "tasks": tasks}
    assert sure_layers(routes) == {"a": 0, "b": 4, "c": 0, "one": 4}
    tables = {task: torch.tensor(entry["probabilities"]) for task, entry in tasks.items()}
    assert arbitrary_layers(routes) == {
        task: len(undecided_layers(table)) for task, table in tables.items()
    }
    assert arbitrary_layers(routes) == {"a": 0, "b": 0, "c": 4, "one": 0}


def test_tasks_whose_tables_do_not_fit_are_left_out() -> None:
    routes = make_routes(5)
    routes["tasks"]["objects"]["probabilities"].pop()
    routes["tasks"]["broken"] = {}
    assert list(probabilities_of(routes)) == ["scenes"]
    assert probabilities_of({}) == {}


@pytest.mark.parametrize(
    "table", [None, "text", [[0.5, 0.5]] * 3 + [[1.0]], [[float("nan"), 1.0]] * 4, [[]] * 4]
)
def test_tables_that_are_no_numbers_are_left_out(table) -> None:
    routes = {"layers": LAYERS, "tasks": {"a": {"probabilities": table}, "b": decided([0] * 4)}}
    assert list(probabilities_of(routes)) == ["b"]
    assert probabilities_of({"layers": None, "tasks": []}) == {}


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


@pytest.mark.parametrize("count", [1, 4])
def test_titles_have_room_on_pictures_of_few_layers(count: int) -> None:
    routes = {"iteration": 1_234_567, "temperature": 0.0123, "layers": LAYERS[:count]}
    routes["tasks"] = {"a": decided([0] * count), "b": decided([1] * count)}
    title = "Share of layers with the same unit · iteration 1,234,567 · temperature 0.0123"
    heat_map, tree = route_heatmap(routes), agreement_figure(routes, title=title)
    for figure, title in ((heat_map, heat_map.axes[0]._left_title), (tree, tree.texts[0])):
        figure.canvas.draw()
        box = title.get_window_extent()
        assert title.get_text() and box.x0 >= 5 and box.x1 <= figure.bbox.x1 - 5


def test_curves_of_two_units_show_the_probability_of_unit_1() -> None:
    history = [make_routes(step, sharpness=step / 10) for step in (0, 20, 40)]
    figure = route_curves(history, DARK)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [*LAYERS, "temperature"]
    for index, axes in enumerate(panels[: len(LAYERS)]):
        for line, task in zip(axes.lines, ("objects", "scenes")):
            expected = [entry["tasks"][task]["probabilities"][index][1] for entry in history]
            assert np.allclose(line.get_ydata(), expected)
    assert list(panels[-1].lines[0].get_ydata()) == [0.5] * 3
    assert ink(to_array(figure)) > 0.01


def test_curves_of_three_units_tell_the_final_unit_and_its_last_change() -> None:
    routes = [[0, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 0]]
    history = [
        {"iteration": step, "layers": LAYERS, "tasks": {"a": decided(route, 3, 0.8)}}
        for step, route in zip((0, 10, 20), routes)
    ]
    figure = route_curves(history)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == len(LAYERS), "no temperature is known"
    assert [axes.texts[0].get_text() for axes in panels] == ["1", "1", "2", "0"]
    assert [list(axes.lines[1].get_xdata()) for axes in panels] == [[10], [], [], [20]]
    assert np.allclose(panels[0].lines[0].get_ydata(), 0.8)


def test_curves_of_a_task_that_joined_late_start_late() -> None:
    history = [make_routes(0, ["objects"]), make_routes(10, ["objects", "scenes"])]
    lines = route_curves(history).axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[0, 10], [10]]


def test_curves_have_the_colours_of_the_run() -> None:
    order = ["other", "scenes", "objects"]
    figure = route_curves([make_routes(0)], LIGHT, order)
    drawn = [to_hex(line.get_color()) for line in figure.axes[0].lines]
    assert drawn == [task_styles(order, LIGHT)[task]["color"] for task in ("scenes", "objects")]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scenes", "objects"]


def test_long_histories_are_thinned_out_with_their_ends() -> None:
    tasks = {"a": decided([0] * 4)}
    history = [{"iteration": i, "layers": LAYERS, "tasks": tasks} for i in range(20_000)]
    start = time.process_time()
    steps, values = learning_curves(history).tasks["a"]
    assert time.process_time() - start < 1
    assert len(steps) == MOST_POINTS and values.shape == (MOST_POINTS, 4, 2)
    assert (steps[0], steps[-1]) == (0, 19_999) and np.ptp(np.diff(steps)) <= 1


def test_entries_of_another_backbone_are_left_out_of_the_curves() -> None:
    other = {"iteration": 0, "layers": ["stem"], "tasks": {"objects": decided([0])}}
    broken = {"iteration": 5, "layers": LAYERS, "tasks": None, "temperature": "hot"}
    curves = learning_curves([other, broken, make_routes(10)])
    assert [steps.tolist() for steps, _ in curves.tasks.values()] == [[10], [10]]


def test_tree_joins_the_tasks_that_agree_most_and_orders_them_together() -> None:
    agreement = np.array(
        [[1, 0.2, 0.2, 0.9], [0.2, 1, 1, 0.4], [0.2, 1, 1, 0.4], [0.9, 0.4, 0.4, 1]]
    )
    order, branches = task_tree(agreement)
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 3}), frozenset({1, 2})}
    joined = sorted(min(agreements) for agreements, _ in branches)
    assert np.allclose(joined, [0.3, 0.9, 1.0]), "the last one is the mean of four pairs"
    assert all(0 <= row <= 3 for _, rows in branches for row in rows)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tree_of_equal_tasks_is_flat(count: int) -> None:
    order, branches = task_tree(np.ones((count, count)))
    assert sorted(order) == list(range(count)) and len(branches) == count - 1
    assert all(np.allclose(agreements, 1) for agreements, _ in branches)


def test_agreement_figure_prints_every_pair_in_both_themes() -> None:
    routes = {"layers": LAYERS, "tasks": {"a": decided([0] * 4), "b": decided([0, 1, 1, 0])}}
    for theme in (LIGHT, DARK):
        figure = agreement_figure(routes, theme)
        matrix, tree = figure.axes
        assert sorted(text.get_text() for text in matrix.texts) == ["100%", "100%", "50%", "50%"]
        assert len(tree.lines) == 1
        assert ink(to_array(figure)) > 0.2


def test_agreement_figure_puts_shared_parameters_below_the_diagonal() -> None:
    tasks = {"a": decided([0] * 4), "b": decided([0, 0, 1, 1]), "c": decided([1] * 4)}
    parameters = 1_000_000 * np.array([[1, 1], [2, 2], [4, 4], [8, 8]])
    costs = BackboneCosts(tuple(LAYERS), parameters, parameters * 1.0, 0, 0.0, 224)
    matrix = agreement_figure({"layers": LAYERS, "tasks": tasks}, LIGHT, costs).axes[0]
    names = [label.get_text() for label in matrix.get_yticklabels()]
    cells = {text.get_position()[::-1]: text.get_text() for text in matrix.texts}
    shared = {"ab": "3.0 M", "bc": "12.0 M", "ac": "0"}
    agreed = {"ab": "50%", "bc": "50%", "ac": "0%"}
    for (row, column), text in cells.items():
        pair = "".join(sorted({names[row], names[column]}))
        assert text == ("15.0 M" if row == column else (shared if row > column else agreed)[pair])


def test_shared_parameters_are_coloured_by_their_share_of_the_smaller_route() -> None:
    tasks = {"a": decided([0] * 4), "b": decided([0, 0, 0, 1])}
    parameters = np.array([[1, 1], [1, 1], [1, 1], [1, 9]])  # the routes have 4 and 12, 3 in common
    costs = BackboneCosts(tuple(LAYERS), parameters, parameters * 1.0, 0, 0.0, 224)
    matrix = agreement_figure({"layers": LAYERS, "tasks": tasks}, LIGHT, costs).axes[0]
    assert matrix.images[0].get_array().tolist() == [[1, 0.75], [0.75, 1]]
    agreed = agreement_figure({"layers": LAYERS, "tasks": tasks}).axes[0].images[0].get_array()
    costs.parameters[0] = 5  # 8 and 16, 7 in common
    matrix = agreement_figure({"layers": LAYERS, "tasks": tasks}, LIGHT, costs).axes[0]
    assert matrix.images[0].get_array()[1, 0] == 7 / 8 and agreed[1, 0] == 0.75


def test_agreement_figure_of_one_task_has_no_tree() -> None:
    figure = agreement_figure(make_routes(0, ["objects"]))
    assert len(figure.axes) == 1 and figure.axes[0].texts[0].get_text() == "100%"


def test_counts_of_parameters_are_readable() -> None:
    counts = [0, 9_408, 350_000, 996_000, 11_176_512, 407_000_000]
    assert list(map(readable_count, counts)) == [
        "0", "9.4 k", "0.35 M", "1.0 M", "11.2 M", "407 M"
    ]  # fmt: skip


@pytest.mark.parametrize("draw", [route_heatmap, agreement_figure, lambda r: route_curves([r])])
def test_routes_without_probabilities_are_refused(draw) -> None:
    with pytest.raises(ValueError, match="hold"):
        draw({"layers": LAYERS, "tasks": {}, "iteration": 1})


RESNET = {
    "_target_": "gppf_d2.modeling.lego.LegoResNet",
    "depth": 18, "num_units": 2, "stem_out_channels": 8, "res2_out_channels": 8,
}  # fmt: skip
RESNET_LAYERS = ["stem"] + [f"res{stage}.{block}" for stage in (2, 3, 4, 5) for block in (0, 1)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of the charts that a section asks for; nothing is drawn."""
    words: list[str] = []

    def chart(build, alt: str, caption: str = "", wide: bool = False) -> str:
        words.append(alt)
        return f"<figure>{caption}</figure>"

    monkeypatch.setattr(page, "chart", chart)
    return words


def run_folder(tmp_path, tasks: dict, config: dict | None = None) -> RunFolder:
    units = len(next(iter(tasks.values()))["probabilities"][0])
    entry = {"iteration": 9, "num_units": units, "layers": RESNET_LAYERS, "tasks": tasks}
    config = {"tasks": {"b": {}, "a": {}}, **(config or {})}
    return RunFolder(tmp_path, config=config, routes=entry, history=[entry])


def test_section_tells_what_tasks_share_and_what_their_routes_cost(tmp_path, drawn) -> None:
    tasks = {"a": decided([0] * 9), "b": decided([0] * 8 + [1], p=0.53)}
    html = routes_section.routes_section(run_folder(tmp_path, tasks, {"backbone": RESNET}))
    assert len(drawn) == 3
    assert "Probability 0.9 or more: b in 0 of 9, a in 9 of 9 layers." in drawn[0]
    assert "the choice is arbitrary" in html and "follow from it: b in 9 of 9, a in 0" in html
    assert "iterations 9 to 9" in drawn[1]
    assert "a and b 89%" in drawn[2]
    assert "Every task learns" in html
    assert not re.search("[^n]decided", html + " ".join(drawn)), "a word of the export"
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html)
    assert [name for name, _ in rows] == ["b", "a"], "in the order of the config"
    cells = re.findall("<td>(.*?)</td>", rows[0][1])
    assert cells == ["0.18 M", "50%", "42 M", "74.0 k"]
    assert "0.35 M parameters in 9 layers of 2 units" in html
    assert "0.10 M are common to all tasks" in html


def test_section_of_one_unit_says_that_there_is_nothing_to_choose(tmp_path, drawn) -> None:
    folder = run_folder(
        tmp_path, {"a": decided([0] * 9, num_units=1)}, {"backbone": {**RESNET, "num_units": 1}}
    )
    html = routes_section.routes_section(folder)
    assert drawn == [] and "nothing to choose" in html and "Every task learns" not in html
    assert "0.18 M parameters in 9 layers of 1 unit." in html and "42 M FLOPs" in html


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "The config describes no backbone."),
        ({"backbone": {**RESNET, "num_units": 3}}, "describes another backbone than routes.json"),
        ({"backbone": {"_target_": "nowhere.Net"}}, "cannot be measured"),
    ],
)
def test_section_without_costs_says_why(tmp_path, drawn, config: dict, sentence: str) -> None:
    folder = run_folder(tmp_path, {"a": decided([0] * 9)}, config)
    html = routes_section.routes_section(folder)
    assert sentence in html and 'class="missing"' in html and len(drawn) == 2


def test_section_names_the_tasks_whose_route_the_config_fixes(tmp_path, drawn) -> None:
    tasks = {"a": decided([0] * 9), "b": decided([1] * 9)}
    some = {"gates": {"mode": {"a": "fixed", "b": "soft"}}}
    html = routes_section.routes_section(run_folder(tmp_path, tasks, some))
    assert "The config fixes the units of a." in html and "arbitrary" not in html
    html = routes_section.routes_section(run_folder(tmp_path, tasks, {"gates": {"mode": "fixed"}}))
    assert "Every task learns" not in html and "The config fixes which unit" in html


@pytest.mark.parametrize(
    ("mode", "sentence"), [("mean", "Evaluation mixes all units"), ("fixed", "the config fixes")]
)
def test_section_says_when_evaluation_does_not_follow_the_routes(
    tmp_path, drawn, mode: str, sentence: str
) -> None:
    tasks = {"a": decided([0] * 9), "b": decided([1] * 9)}
    for eval_mode in (mode, "argmax"):
        gates = {"gates": {"mode": "soft", "eval_mode": eval_mode}}
        html = routes_section.routes_section(run_folder(tmp_path, tasks, gates))
        assert (sentence in html) == (eval_mode == mode)


def test_section_without_routes_or_history_says_so(tmp_path, drawn) -> None:
    html = routes_section.routes_section(RunFolder(tmp_path))
    assert "There are no routes" in html and drawn == []
    folder = run_folder(tmp_path, {"a": decided([0] * 9)})
    folder.history = [{"iteration": 1, "tasks": {"a": "torn"}}]
    html = routes_section.routes_section(folder)
    assert "How the routes were learned cannot be shown" in html and len(drawn) == 1
