"""Training a part: what is frozen keeps every bit, and computes what it computes in evaluation."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from gppf_d2.distributed import norm_position
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.freezing import freeze, read_patterns
from gppf_d2.engine.run import RunArguments, Session
from gppf_d2.engine.training import Training
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.engine.runs import QUICK, assert_equal_states
from tests.harness import run_distributed
from tests.modeling.lego_models import loss_of, tiny, tiny_swin


class Head(nn.Module):
    """What a head may hold: a view, norms of two kinds, dropout, a layer after them."""

    def __init__(self, feature: str) -> None:
        super().__init__()
        self.view = SharedBackbone([feature])
        channels = self.view.output_shape()[feature].channels
        self.neck = nn.Sequential(nn.Conv2d(channels, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5))
        self.pool = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.score = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        (feature,) = self.view(x).values()
        return {
            "loss": loss_of([{"score": self.score(self.pool(self.neck(feature).mean((2, 3))))}])
        }


def model_of(
    backbone: LegoBackbone, feature: str = "res5", tasks: Sequence[str] = ("a", "b")
) -> MultiTaskModel:
    torch.manual_seed(3)
    model = MultiTaskModel(backbone, tasks, mode="soft", eval_mode="mean")
    for task in tasks:
        model.add_head(task, lambda: Head(feature))
    return model.double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 40, 32, generator=torch.Generator().manual_seed(1)).double()


def step(model: MultiTaskModel, images: Tensor, task: str = "a") -> None:
    """Forward and backward of one micro-step in training mode."""
    model.train()
    model.begin_micro_step(0, 1, 0, 0)
    loss = model.losses(task, images)["loss"] + model.finish_micro_step()
    if loss.requires_grad:
        loss.backward()


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_only_what_a_pattern_matches_trains_and_only_its_norms_move(images: Tensor) -> None:
    model = model_of(tiny(18, 2))
    before = state(model)
    report = freeze(model, ["backbone.res5.1.*", "heads.a.neck.*"])
    step(model, images)
    assert trained(model) == set(report.trained)
    assert all(re.match(r"backbone\.res5\.1\.|heads\.a\.neck\.", name) for name in report.trained)
    norms = {name.rpartition(".")[0] for name in moved(model, before)}
    assert norms and all(re.match(r"backbone\.res5\.1\.|heads\.a\.neck\.", n) for n in norms)
    assert set(report.trained) | set(report.frozen) == {n for n, _ in model.named_parameters()}
    assert "heads.a.pool.1" in report.held and "heads.a.pool.2" in report.held  # norm, dropout
    assert not any(name.startswith("heads.a.neck") for name in report.held)


@pytest.mark.parametrize("backbone", [tiny(18, 2), tiny_swin(2, drop_path_rate=0.5)])
def test_a_frozen_backbone_computes_what_it_does_in_evaluation_without_a_graph(
    backbone: LegoBackbone, images: Tensor
) -> None:
    name = list(backbone.output_shape())[-1]
    model = model_of(backbone, name)
    before = state(model)
    freeze(model, ["heads.*"])
    model.modes["a"] = "mean"  # as evaluation has it
    model.train()
    model.begin_micro_step(0, 1, 0, 0)
    features = model.features("a", [images], [name], training=True)[0][name]
    assert not features.requires_grad
    evaluated = model.features("a", [images], [name], training=False)[0][name]
    assert torch.equal(features.detach(), evaluated)
    assert not model.finish_micro_step().requires_grad
    assert not moved(model, before)


def test_dropout_of_a_frozen_head_is_off_and_of_a_trained_one_on(images: Tensor) -> None:
    model = model_of(tiny(18, 1))
    freeze(model, ["heads.a.score.*", "heads.b.*"])
    for task, equal in (("a", True), ("b", False)):
        losses = []
        for _ in range(2):
            model.begin_micro_step(0, 1, 0, 0)
            losses.append(model.losses(task, images)["loss"].detach())
        assert torch.equal(*losses) == equal


@pytest.mark.parametrize("checkpoint", [False, True])
def test_one_unit_of_each_layer_can_train_alone(images: Tensor, checkpoint: bool) -> None:
    """The other one's norms are in evaluation, so the layer cannot advance in step any more."""
    found = {}
    for mixing in ("in_step", "plain"):
        model = model_of(tiny(18, 2, mixing=mixing, checkpoint=checkpoint))
        before = state(model)
        freeze(model, ["*.units.1.*", "heads.a.score.*"])
        assert {layer.mixing for layer in model.backbone.layers} == {"plain"}
        step(model, images)
        assert moved(model, before) and all(".units.1." in n for n in moved(model, before))
        found[mixing] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found["plain"] and found["plain"].keys() == found["in_step"].keys()
    for name, gradient in found["plain"].items():
        torch.testing.assert_close(found["in_step"][name], gradient)


def test_layers_that_are_frozen_or_trained_as_a_whole_stay_in_step() -> None:
    model = model_of(tiny(18, 2))
    freeze(model, ["backbone.res5.*", "heads.*", "backbone.res4.*.conv1.*"])
    assert {layer.mixing for layer in model.backbone.layers} == {"in_step"}


def test_keys_are_those_of_the_whole_model_and_weights_load_afterwards(images: Tensor) -> None:
    whole, part = model_of(tiny(18, 1)), model_of(tiny(18, 1, seed=5))
    freeze(part, ["heads.a.*", "heads.b.score.*"])
    part.load_state_dict(whole.state_dict())
    copied = copy.deepcopy(part)
    for model in (part, copied):
        before = state(model)
        step(model, images)
        assert all(name.startswith("heads.a.") for name in moved(model, before))


def test_controllers_train_alone_through_frozen_units(images: Tensor) -> None:
    model = model_of(tiny(18, 2))
    freeze(model, ["controllers.*"])
    step(model, images)
    assert trained(model) == {"controllers.a"}
    assert model.controllers["a"].grad.abs().min() > 0


def test_what_did_not_train_before_does_not_begin_to() -> None:
    model = model_of(tiny(18, 1, freeze_at=2))
    report = freeze(model, ["backbone.*", "heads.*"])
    assert not any(name.startswith(("backbone.stem", "backbone.res2")) for name in report.trained)
    assert any(name.startswith("backbone.res3") for name in report.trained)


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (["heads.*", "backbone.rse5.*"], "'backbone.rse5.*', which matches no parameter; close to"),
        (["backbone.rse5.*"], r"backbone\.res5\.\*"),
        (["backbone.res5"], r"backbone\.res5\.\*"),
        (["*scroe*"], r"\*\.score\.\*"),
        (["heads.a.*"], "lets nothing of task 'b' train; add a pattern such as 'heads.b"),
        (["heads.a.*", "controllers.*"], "lets nothing of task 'b' train"),  # N = 1: no gate
    ],
)
def test_patterns_that_cannot_be_meant_get_a_sentence(patterns: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        freeze(model_of(tiny(18, 1)), patterns)


@pytest.mark.parametrize("value", [5, [1], {"heads": True}])
def test_what_is_no_list_of_patterns_gets_a_sentence(value: object) -> None:
    with pytest.raises(UserError, match="train.trainable is .*; give a list of patterns"):
        read_patterns(OmegaConf.create({"it": value}).it)
    assert read_patterns("heads.*") == read_patterns(OmegaConf.create(["heads.*"])) == ["heads.*"]


# --- two ranks, through the whole of a run ---

BOTH = ("heads.objects.*", "heads.parsing.*")
CASES = {
    # nothing shared trains: its bucket holds flags alone, and no norm has a collective
    "heads": ([*BOTH], []),
    "end": (["backbone.res5.*", *BOTH], ["train.accumulation=2", "backbone.checkpoint=True"]),
}
SLOW = {
    **CASES,
    "one unit": (["*.units.1.*", "controllers.*", *BOTH], ["gates.mode=hard"]),
    "pinned": ([*BOTH], ["schedule.policy=pinned"]),
    "predictors": (["heads.*.linear.*", "heads.*predictor*"], []),
}


def runs(rank: int, world_size: int, root: str, output: str, cases: dict, resume: bool) -> dict:
    """What `one_run` finds, per case."""
    os.environ["DETECTRON2_DATASETS"] = root
    return {name: one_run(Path(output, name), resume, *case) for name, case in cases.items()}


def one_run(folder: Path, resume: bool, patterns: list[str], overrides: list[str]) -> dict:
    """Names that moved and that are frozen, the state, collectives of norms.

    With ``resume`` a second run goes on from the first step and has to end with the same state.
    """
    cfg = load_config(
        str(QUICK / "mini_r18.py"),
        [
            f"train.trainable=[{','.join(patterns)}]", "train.num_workers=0", "train.max_iter=2",
            "train.replica_check_period=1", "train.checkpoint_period=1", "train.ema_decay=0.9",
            "tasks.objects.batch_size=2", "tasks.parsing.batch_size=1",
            f"train.output_dir={folder}", *overrides,
        ],
        ["objects", "parsing"],
    )  # fmt: skip
    cfg.backbone.update(stem_out_channels=8, res2_out_channels=8)
    for task in cfg.tasks.values():
        task.evaluators = []
    counted = mock.Mock(side_effect=norm_position._gather)
    with mock.patch.object(norm_position, "_gather", counted):
        first = trained_for_two_steps(cfg)
    found = {"collectives": counted.call_count, **first}
    if resume:
        if comm.get_rank() == 0:
            for name in ("model_0000002", "model_final"):
                (folder / f"{name}.pth").unlink()
        dist.barrier()
        second = trained_for_two_steps(cfg, resume=True)
        assert_equal_states(second["state"], first["state"])
    return {**found, "state": {name: value.numpy() for name, value in found["state"].items()}}


def trained_for_two_steps(cfg: DictConfig, resume: bool = False) -> dict:
    session = Session(cfg, RunArguments(config_file="", resume=resume))
    before = state(session.model)
    with session.closing():
        Training(session).run()
    return {
        "moved": sorted(moved(session.model, before)),
        "frozen": [n for n, p in session.model.named_parameters() if not p.requires_grad],
        "state": state(session.model),
    }


def check(ranks: list[dict], pinned: bool = False) -> None:
    for found in ranks:
        assert found["moved"], "nothing trained"
        frozen = {name.rpartition(".")[0] for name in found["frozen"]}  # modules
        assert not [name for name in found["moved"] if name.rpartition(".")[0] in frozen]
    for name, value in ranks[0]["state"].items():
        if not (pinned and name.startswith("heads.")):
            assert (value == ranks[1]["state"][name]).all(), f"{name} differs between the ranks"


@pytest.mark.timeout(280)
def test_two_ranks_train_a_part_and_stay_equal(mini_root: Path, tmp_path: Path) -> None:
    ranks = run_distributed(runs, 2, str(mini_root), str(tmp_path), CASES, False, timeout=200)
    for name in CASES:
        check([rank[name] for rank in ranks])
    heads, end = ranks[0]["heads"], ranks[0]["end"]
    assert heads["collectives"] == 0
    assert {n.split(".")[0] for n in heads["moved"]} == {"heads"}
    assert end["collectives"] > 0
    assert {n.split(".")[1] for n in end["moved"] if n.startswith("backbone.")} == {"res5"}


@pytest.mark.slow
@pytest.mark.timeout(380)
def test_two_ranks_train_further_parts_and_resume(mini_root: Path, tmp_path: Path) -> None:
    ranks = run_distributed(runs, 2, str(mini_root), str(tmp_path), SLOW, True, timeout=300)
    for name in SLOW:
        check([rank[name] for rank in ranks], pinned=name == "pinned")
    moved_units = {n for n in ranks[0]["one unit"]["moved"] if n.startswith("backbone.")}
    assert moved_units and all(".units.1." in n for n in moved_units)
