"""ALL configs load, build their models and say what they are; how many there are is asserted."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from gppf_d2.engine import setup
from gppf_d2.engine.config import config_text, load_config
from gppf_d2.pseudo import Teacher
from gppf_d2.tools.pseudo_label import load_settings
from gppf_d2.tools.sweep_plan import plan_of

PROJECT = Path(__file__).resolve().parent.parent
QUICK = PROJECT / "configs/quick"
# configs of the paper's runs, each with a tiny twin of the same name below configs/quick
FULL = {
    PROJECT / "configs/pretrain": 22,
    PROJECT / "configs/finetune": 26,
    # 4 teachers, 10 students, 6 transfer tasks and a labelling
    PROJECT / "configs/must": 21,
}
LEAVES = sorted(
    path
    for path in (PROJECT / "configs").rglob("*.py")
    if path.parent.name != "common" and path.name != "__init__.py"
)


def test_there_are_as_many_configs_as_we_think() -> None:
    assert len(LEAVES) == (11 + 6) + (5 + 4) + 2 * sum(FULL.values())
    for folder, count in FULL.items():
        twins = QUICK / folder.name
        names = {path.relative_to(folder) for path in folder.rglob("*.py")}
        assert len(names) == count
        assert {path.relative_to(twins) for path in twins.rglob("*.py")} == names


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT / "configs").with_suffix("").as_posix()


# The full configs need the memory of a GPU; their twins are the same config after shrink().
SMALL = [
    path
    for path in LEAVES
    if not any(map(path.is_relative_to, FULL)) and not path.stem.endswith("labels")
]


@pytest.mark.parametrize("path", SMALL, ids=name_of)
def test_a_config_loads_builds_and_is_saved(path: Path) -> None:
    cfg = load_config(str(path), ["train.device=cpu"])
    tasks = setup.build_tasks(cfg)
    setup.build_schedule(cfg, tasks, world_size=max(2, len(tasks)))
    model = setup.build_model(cfg, tasks)
    optimizer = setup.build_optimizer(cfg, model)
    grouped = sum(len(group["params"]) for group in optimizer.param_groups)
    assert grouped == sum(p.requires_grad for p in model.parameters())
    assert set(model.heads) == set(tasks) == set(model.controllers)
    assert model.backbone.num_units == cfg.backbone.num_units
    assert "object at 0x" not in config_text(cfg), "config.yaml would not load again"


LABELLINGS = [path for path in LEAVES if path.stem.endswith("labels")]


@pytest.mark.parametrize("path", LABELLINGS, ids=name_of)
def test_a_labelling_loads_and_its_options_are_those_of_its_labels(path: Path) -> None:
    settings = load_settings(str(path))
    labels = {name for teacher in settings.teachers.values() for name in teacher.labels}
    assert labels and set(settings.options) <= labels
    for teacher in settings.teachers.values():
        assert issubclass(teacher["_target_"], Teacher)
        assert "function" not in teacher or (PROJECT / teacher.function.partition(":")[0]).is_file()


def test_the_sweep_of_a_student_reaches_the_weight_of_depth() -> None:
    path = str(PROJECT / "configs/must/students/imagenet.py")
    plan = plan_of(load_config(path), path)
    assert len(plan.points()) == 4
    for point in plan.points():
        (override,) = plan.overrides(point)
        assert override == f"tasks.student.head.weights.depth={point['depth']}"


@pytest.mark.parametrize("path", LEAVES, ids=name_of)
def test_a_config_starts_with_a_protocol(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert "Hardware" in text or "Everything else as in" in text, path


def test_initial_weights_depend_on_seed_and_task_not_on_the_other_tasks() -> None:
    path = str(PROJECT / "configs/quick/mini_r18.py")
    whole, alone = load_config(path), load_config(path, tasks=["depth"])
    states = []
    for cfg in (whole, alone):
        states.append(setup.build_model(cfg, setup.build_tasks(cfg)).state_dict())
    for name, value in states[1].items():
        assert torch.equal(value, states[0][name]), name
