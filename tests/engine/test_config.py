"""Reading configs: overrides, tasks, errors that name what exists, and the saved text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from detectron2.config import instantiate
from omegaconf import DictConfig

from gppf_d2.engine.checkpoint import Checkpointer
from gppf_d2.engine.config import (
    batches_per_step,
    config_text,
    fingerprint,
    load_config,
    scale_to_batches,
)
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.run import Session
from gppf_d2.tasks.spec import tasks_from_config

PROJECT = Path(__file__).resolve().parents[2]
MINI = str(PROJECT / "configs/quick/mini_r18.py")


def test_overrides_reach_nested_keys() -> None:
    cfg = load_config(MINI, ["train.max_iter=7", "tasks.scenes.batch_size=3", "backbone.depth=50"])
    assert (cfg.train.max_iter, cfg.tasks.scenes.batch_size, cfg.backbone.depth) == (7, 3, 50)


def test_an_argument_that_a_call_may_take_can_be_added() -> None:
    assert load_config(MINI, ["tasks.scenes.eval_period=5"]).tasks.scenes.eval_period == 5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_itr=7", ["max_itr", "max_iter"]),
        ("trian.max_iter=7", ["trian", "train"]),
        ("tasks.sceens.batch_size=1", ["sceens", "scenes"]),
        ("train.max_iter", ["key=value"]),
    ],
)
def test_a_typing_error_is_answered_with_what_exists(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(MINI, [override])
    for word in words:
        assert word in str(caught.value)


def test_tasks_keeps_some_in_the_order_of_the_config() -> None:
    assert list(load_config(MINI, tasks=["depth", "objects"]).tasks) == ["objects", "depth"]


@pytest.mark.parametrize("names", [["nothing"], []])
def test_unknown_tasks_are_refused_with_the_known_ones(names: list[str]) -> None:
    with pytest.raises(UserError, match="objects, scenes, boxes, parsing, depth"):
        load_config(MINI, tasks=names)


def test_a_missing_or_broken_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config file"):
        load_config(str(tmp_path / "absent.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("train = dict(\n")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(str(broken))
    lacking = tmp_path / "lacking.py"
    lacking.write_text("train = dict(max_iter=1)\n")
    with pytest.raises(UserError, match="lacks input, backbone"):
        load_config(str(lacking))


def test_the_saved_text_loads_again_as_the_same_run(tmp_path: Path) -> None:
    cfg = load_config(MINI, ["train.max_iter=7"])
    text = config_text(cfg)
    assert yaml.safe_load(text)["train"]["max_iter"] == 7
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert fingerprint(load_config(str(path))) == fingerprint(cfg)


def test_the_fingerprint_sees_every_change_but_the_output_folder() -> None:
    cfg = load_config(MINI)
    assert fingerprint(load_config(MINI, ["train.output_dir=/elsewhere"])) == fingerprint(cfg)
    assert fingerprint(load_config(MINI, ["tasks.scenes.batch_size=3"])) != fingerprint(cfg)


def scaled(*overrides: str, batches: int):
    cfg = load_config(MINI, ["train.reference_world_size=56", *overrides])
    return cfg, scale_to_batches(cfg, batches)


def test_k_times_the_batches_are_k_times_the_rate_and_a_kth_of_the_iterations() -> None:
    given = ["train.max_iter=1000", "train.eval_period=100", "tasks.scenes.eval_period=10"]
    cfg, half = scaled(*given, batches=28)
    assert half.optimizer.lr == cfg.optimizer.lr / 2
    assert (half.train.max_iter, half.train.eval_period) == (2000, 200)
    assert half.train.checkpoint_period == 2 * cfg.train.checkpoint_period
    assert half.tasks.scenes.eval_period == 20
    assert half.train.log_period == cfg.train.log_period
    assert cfg.train.max_iter == 1000, "the given config was changed"


def test_scaling_ends_where_it_began() -> None:
    _, half = scaled(batches=28)
    assert scale_to_batches(half, 28) is half, "a second time changes something"
    back = scale_to_batches(half, 56)
    cfg, _ = scaled(batches=28)
    assert config_text(back) == config_text(cfg)


def test_a_resumed_run_keeps_the_pace_that_it_began_with(tmp_path: Path) -> None:
    cfg, at_start = scaled(batches=2)
    save = Checkpointer(tmp_path).save

    def resumed(given: DictConfig, resume: bool = True) -> str:
        run = SimpleNamespace(
            cfg=given,
            world_size=4,
            rank=0,
            folder=tmp_path,
            arguments=SimpleNamespace(resume=resume, overrides=()),
        )
        return config_text(Session._scaled(run, given, Session._began_with(run)))

    now = config_text(scale_to_batches(cfg, 4))
    (tmp_path / "config.yaml").write_text(config_text(at_start))
    assert resumed(cfg) == now, "a start without a checkpoint set the pace"
    save({"format": 1, "model": {}, "iteration": 1, "config": config_text(at_start)})
    assert resumed(cfg) == resumed(at_start) == config_text(at_start)
    assert resumed(cfg, resume=False) == now


def test_nothing_is_scaled_at_the_reference_or_without_one() -> None:
    cfg, same = scaled(batches=56)
    assert same is cfg
    off = load_config(MINI, [])
    assert scale_to_batches(off, 3) is off


def test_what_the_command_line_sets_is_meant_as_it_is() -> None:
    given = ["train.max_iter=20", "optimizer.lr=0.5"]
    cfg, _ = scaled(*given, batches=28)
    half = scale_to_batches(cfg, 28, given)
    assert (half.train.max_iter, half.optimizer.lr) == (20, 0.5)
    assert half.train.checkpoint_period == 2 * cfg.train.checkpoint_period


def test_periods_never_become_zero_and_zero_stays() -> None:
    _, many = scaled("train.max_iter=2", "train.eval_period=0", batches=5600)
    assert (many.train.max_iter, many.train.eval_period) == (1, 0)


def test_batches_per_step_are_ranks_times_virtual_ranks_times_accumulation() -> None:
    cfg = load_config(MINI, ["train.virtual_ranks=4", "train.accumulation=7"])
    assert batches_per_step(cfg, 2) == 56


def test_a_reference_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(UserError, match="reference_world_size is -1"):
        scale_to_batches(load_config(MINI, ["train.reference_world_size=-1"]), 2)


def test_test_time_augmentation_can_be_asked_for_on_the_command_line() -> None:
    tta = "{_target_: gppf_d2.modeling.tta.SemanticTTA, scales: [0.5, 1.0], flip: true}"
    cfg = load_config(MINI, [f"tasks.parsing.evaluators.0.tta={tta}"])
    (evaluation,) = tasks_from_config(cfg.tasks)["parsing"].evaluators
    assert instantiate(evaluation.tta).scales == (0.5, 1.0)
