"""Checkpoint files: atomic, kept last n, truncated newest, refused when of another config."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from gppf_d2.engine.checkpoint import (
    FORMAT,
    Checkpointer,
    load_model_state,
    load_optimizer_state,
    optimizer_state,
    read_checkpoint,
    write_atomically,
)
from gppf_d2.engine.ema import ParameterEMA
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.optimizer import parameter_groups
from gppf_d2.engine.state import config_changes


class Model(nn.Module):
    """The state-dict shape of a MultiTaskModel with linear parts."""

    def __init__(self, tasks: tuple[str, ...] = ("a", "b"), width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, width)
        self.controllers = nn.ParameterDict({t: nn.Parameter(torch.zeros(2, 2)) for t in tasks})
        self.heads = nn.ModuleDict({t: nn.Linear(width, 1) for t in tasks})


def state(iteration: int) -> dict:
    return {"format": FORMAT, "iteration": iteration, "model": {"x": torch.zeros(1000)}}


def test_the_newest_n_are_kept_and_named_ones_always(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=2)
    checkpointer.save(state(0), "model_best_a")
    for iteration in (10, 20, 30):
        checkpointer.save(state(iteration))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model_0000020.pth", "model_0000030.pth", "model_best_a.pth"]
    assert checkpointer.latest()[1]["iteration"] == 30


def test_a_truncated_newest_file_falls_back_to_the_previous_one_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(state(10))
    newest = checkpointer.save(state(20))
    newest.write_bytes(newest.read_bytes()[:700])
    with caplog.at_level(logging.ERROR):
        path, found = checkpointer.latest()
    assert path.name == "model_0000010.pth" and found["iteration"] == 10
    assert "model_0000020.pth" in caplog.text and "PREVIOUS" in caplog.text


def test_a_broken_newer_file_never_costs_a_good_one(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(state(10))
    (tmp_path / "model_0000020.pth").write_bytes(b"broken")
    assert checkpointer.latest()[1]["iteration"] == 10
    checkpointer.save(state(15))
    assert (tmp_path / "model_0000015.pth").is_file(), "what was just written stays"
    checkpointer.latest(set_aside=True)
    assert (tmp_path / "model_0000020.corrupt").is_file()
    assert checkpointer.latest()[1]["iteration"] == 15


def test_config_changes_name_keys_and_values() -> None:
    old = "train: {seed: 0, output_dir: a}\ntasks: {a: {batch_size: 2}}\n"
    new = "train: {seed: 1, output_dir: b}\ntasks: {a: {batch_size: 2, weight: 3}}\n"
    assert config_changes(old, new) == [
        "train.seed was 0, is 1",
        "tasks.a.weight was 'absent', is 3",
    ]


def test_only_broken_checkpoints_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "model_0000010.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="None of the 1 checkpoints"):
        Checkpointer(tmp_path).latest()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda target: Path(target).write_text("old"))

    def fail(target: Path) -> None:
        Path(target).write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"format": 1, "model": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_config_is_refused_with_the_differences() -> None:
    with pytest.raises(UserError, match=r"backbone.weight \(5, 2\) against \(3, 2\)"):
        load_model_state(Model(), Model(width=5).state_dict(), source="F")
    with pytest.raises(UserError, match="--allow-task-changes"):
        load_model_state(Model(), Model(("a", "c")).state_dict(), source="F")


def test_tasks_may_come_and_go_on_request() -> None:
    old, new = Model(("a", "c")), Model(("a", "b"))
    fresh = new.heads["b"].weight.clone()
    load_model_state(new, old.state_dict(), source="F", allow_task_changes=True)
    assert torch.equal(new.heads["a"].weight, old.heads["a"].weight)
    assert torch.equal(new.heads["b"].weight, fresh)


def test_a_rank_that_holds_one_head_takes_only_that() -> None:
    full, mine = Model(), Model()
    del mine.heads["b"]
    load_model_state(mine, full.state_dict(), source="F", held={"a"})
    assert torch.equal(mine.heads["a"].weight, full.heads["a"].weight)


def test_optimizer_state_travels_by_name_whatever_the_groups() -> None:
    torch.manual_seed(0)
    model = Model()
    one = torch.optim.SGD(parameter_groups(model), lr=0.1, momentum=0.9)
    model.backbone(torch.ones(1, 2)).sum().backward()
    one.step()
    two = torch.optim.SGD(parameter_groups(model, backbone_lr_multiplier=0.5), lr=0.1, momentum=0.9)
    load_optimizer_state(two, optimizer_state(one))
    for p in model.backbone.parameters():
        assert torch.equal(two.state[p]["momentum_buffer"], one.state[p]["momentum_buffer"])
    assert model.heads["a"].weight not in two.state


def test_adam_steps_survive_the_way_through_a_file(tmp_path: Path) -> None:
    model = Model()
    one = torch.optim.AdamW(parameter_groups(model), lr=0.1)
    model.backbone(torch.ones(1, 2)).sum().backward()
    one.step()
    torch.save({"format": 1, "model": {}, "optimizer": optimizer_state(one)}, tmp_path / "c.pth")
    two = torch.optim.AdamW(parameter_groups(model), lr=0.1)
    load_optimizer_state(two, read_checkpoint(tmp_path / "c.pth")["optimizer"])
    one.step()
    after = model.backbone.weight.clone()
    assert two.state[model.backbone.weight]["step"] == 1
    assert torch.isfinite(after).all()


def test_the_moving_average_is_lent_and_given_back() -> None:
    model = Model()
    ema = ParameterEMA(model, 0.5)
    before = model.backbone.weight.clone()
    with torch.no_grad():
        model.backbone.weight += 1
    ema.update(model)
    with ema.applied(model):
        decay = min(0.5, 2 / 11)
        assert torch.allclose(model.backbone.weight, before + (1 - decay))
    assert torch.equal(model.backbone.weight, before + 1)
