"""The ``sweep`` section of a config: points, expressions, overrides, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from gppf_d2.engine.config import load_config
from gppf_d2.tools.sweep_plan import Plan, as_text, pick_metric

CONFIG = str(Path(__file__).with_name("sweep_config.py"))
GOOD = {"metric": "a/b", "grid": {"lr": [0.1, 0.01]}}


def test_points_are_all_combinations() -> None:
    plan = Plan.of({**GOOD, "grid": {"lr": [1.0, 2.0], "steps": [5, 6]}}, "f.py")
    assert plan.points() == [
        {"lr": 1.0, "steps": 5},
        {"lr": 1.0, "steps": 6},
        {"lr": 2.0, "steps": 5},
        {"lr": 2.0, "steps": 6},
    ]


def test_without_set_the_names_of_the_grid_are_keys() -> None:
    plan = Plan.of({**GOOD, "grid": {"optimizer.lr": [0.1], "train.max_iter": [40]}}, "f.py")
    (point,) = plan.points()
    assert plan.overrides(point) == ["optimizer.lr=0.1", "train.max_iter=40"]


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [("a", "8"), ("a / b", "2.0"), ("a*b", "32"), ("2 * a / b / 0.5", "8.0"), ("a / b * b", "8.0")],
)
def test_expressions_go_from_left_to_right(expression: str, wanted: str) -> None:
    plan = Plan("m", {"a": [8], "b": [4]}, set={"k": expression, "l": "b"})
    assert plan.overrides({"a": 8, "b": 4})[0] == f"k={wanted}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"metric": ""}, "sweep.metric is ''"),
        ({"direction": "up"}, "'maximize' and 'minimize'"),
        ({"grid": {}}, "sweep.grid is empty"),
        ({"grid": {"lr": 0.1}}, "sweep.grid.lr is 0.1"),
        ({"grid": {"lr": [[1]]}}, "sweep.grid.lr holds"),
        ({"grid": {"lr": [1, 1.0]}}, "names a value twice"),
        ({"set": {"optimizer.lr": "rate"}}, "an expression holds names of the grid"),
        ({"set": {"optimizer.lr": "__import__('os')"}}, "an expression holds names of the grid"),
        ({"set": {"optimizer.lr": "3"}}, "uses 'lr' of the grid nowhere"),
        ({"search": "a=1"}, "sweep.search is 'a=1'"),
        ({"final": ["a"]}, "sweep.final is"),
        ({"metrics": "a"}, "Did you mean 'metric'?"),
    ],
)
def test_a_bad_plan_is_refused_with_a_sentence(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        Plan.of({**GOOD, **change}, "f.py")
    assert sentence in str(error.value)


def test_a_config_without_the_section_is_refused() -> None:
    with pytest.raises(ValueError, match="has no `sweep` section"):
        Plan.of(None, "f.py")
    with pytest.raises(ValueError, match="lacks grid"):
        Plan.of({"metric": "a"}, "f.py")


def test_division_by_zero_is_refused() -> None:
    plan = Plan("m", {"a": [1.0], "b": [0]}, set={"k": "a / b"})
    with pytest.raises(ValueError, match="a division by 0"):
        plan.overrides({"a": 1.0, "b": 0})


@pytest.mark.parametrize(
    "value",
    [1e-06, 9.999999999999999e-06, 3, True, None, "in21k", "a b", "it's", "true", "1e-3"]
    + ["a\\b", "a\\", "a\\'b", "{x}", ""],
)
def test_values_arrive_unchanged_through_an_override(value: object) -> None:
    cfg = load_config(CONFIG, [f"tasks.t.train={as_text(value)}"])
    assert cfg.tasks.t.train == value and type(cfg.tasks.t.train) is type(value)


def test_a_metric_is_found_by_its_name_or_its_task() -> None:
    results = {"one": {"a/x": 1.0, "a/y": 2.0}, "two": {"a/x": 3.0, "a/n": None}}
    assert pick_metric(results, "a/y") == 2.0
    assert pick_metric(results, "two/a/x") == 3.0
    for metric, sentence in [
        ("a/x", "several tasks have 'a/x' in results.json, which has one/a/x, two/a/x"),
        ("a/z", "there is no 'a/z'"),
        ("a/n", "is not a finite number"),
    ]:
        with pytest.raises(ValueError) as error:
            pick_metric(results, metric)
        assert sentence in str(error.value)
