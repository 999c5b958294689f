"""The task object: reads dicts and config nodes alike, keeps lazy what is lazy, refuses early."""

from __future__ import annotations

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from gppf_d2.tasks.spec import Evaluation, Task, restrict, tasks_from_config


class Part:
    """Stands for a mapper, a head, an evaluator; nobody may build it here."""

    def __init__(self, x: int = 0) -> None:
        raise AssertionError("the task object built what has to stay lazy")


def good(**more: object) -> dict:
    return {"train": "coco_train", "mapper": L(Part)(), "batch_size": 8, "head": L(Part)()} | more


def test_defaults() -> None:
    task = Task(name="coco", **good())
    assert task.train == ("coco_train",)
    assert (task.weight, task.loss_weight, task.eval_period, task.repeat_threshold) == (1, 1, 0, 0)
    assert task.evaluators == [] and task.batch_transform is None
    assert not task.filter_empty and not task.equal_datasets


def test_config_nodes_and_dicts_are_read_alike_and_stay_lazy() -> None:
    evaluation = L(Evaluation)(dataset="coco_val", evaluator=L(Part)(), mapper=L(Part)(x=1))
    node = OmegaConf.create(
        {
            "coco": L(Task)(**good(train=["one", "two"], weight=2.5, evaluators=[evaluation])),
            "ade": good(batch_size=2),
        },
        flags={"allow_objects": True},
    )
    tasks = tasks_from_config(node)
    assert list(tasks) == ["coco", "ade"]
    assert tasks["coco"].name == "coco" and tasks["coco"].train == ("one", "two")
    assert tasks["coco"].weight == 2.5
    [entry] = tasks["coco"].evaluators
    assert isinstance(entry, Evaluation) and entry.dataset == "coco_val"
    assert "_target_" in entry.mapper and entry.mapper.x == 1
    assert "_target_" in tasks["coco"].head


def test_tasks_that_are_built_already_are_named_by_their_key() -> None:
    task = Task(**good())
    assert tasks_from_config({"x": task})["x"].name == "x"
    assert task.name == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"weight": 0}, "weight is 0; it must be a positive number"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": "1"}, "weight is '1'"),
        ({"loss_weight": -0.1}, "loss_weight is -0.1"),
        ({"eval_period": -1}, "eval_period is -1"),
        ({"repeat_threshold": 1.5}, "repeat_threshold is 1.5"),
        ({"equal_datasets": 1}, "equal_datasets is 1; it must be true or false"),
        ({"train": ()}, r"train is \(\); name at least one registered dataset"),
        ({"train": ["a", 3]}, "train is"),
        ({"train": ["a", "a"]}, "twice"),
        ({"head": None}, "head is None"),
        ({"mapper": None}, "mapper is None"),
        ({"evaluators": "coco"}, "evaluators is 'coco'"),
        ({"evaluators": [3]}, "an evaluator is 3"),
        ({"evaluators": [{"dataset": "v", "mapper": 1}]}, "an evaluator lacks evaluator"),
        ({"evaluators": [{"dataset": "", "mapper": 1, "evaluator": 1}]}, "dataset is ''"),
        ({"evaluators": [{"dataset": "v", "mapper": 1, "evaluator": None}]}, "evaluator is None"),
        ({"batchsize": 3}, "no field 'batchsize'; it takes .*Did you mean 'batch_size'"),
    ],
)
def test_refusals_name_task_value_and_what_is_allowed(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"Task 'coco'.*{sentence}"):
        tasks_from_config({"coco": good(**change)})


def test_missing_fields_are_listed() -> None:
    with pytest.raises(ValueError, match="Task 'coco' lacks train, mapper, head"):
        tasks_from_config({"coco": {"batch_size": 2}})
    with pytest.raises(ValueError, match="Task 'coco' is 'x'; write L"):
        tasks_from_config({"coco": "x"})
    with pytest.raises(ValueError, match="empty"):
        tasks_from_config({})


@pytest.mark.parametrize("name", ["Coco", "1st", "a-b", "a.b", "ä", "_a"])
def test_names_must_be_usable_as_keys(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        tasks_from_config({name: good()})


def test_key_and_name_must_agree() -> None:
    assert tasks_from_config({"a": good(name="a")})["a"].name == "a"
    with pytest.raises(ValueError, match="key 'a' is named 'b'"):
        tasks_from_config({"a": good(name="b")})


def test_restrict_keeps_the_order_of_the_config() -> None:
    tasks = tasks_from_config({"a": good(), "b": good(), "c": good()})
    assert list(restrict(tasks, ["c", "a"])) == ["a", "c"]
    with pytest.raises(KeyError, match="no task 'x'; the config has a, b, c"):
        restrict(tasks, ["a", "x"])
    with pytest.raises(ValueError, match="No task is left"):
        restrict(tasks, [])
