"""Reading configs: overrides, tasks, errors that name what exists, and the saved text."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gppf_d2.engine.config import config_text, fingerprint, load_config
from gppf_d2.engine.errors import UserError

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
