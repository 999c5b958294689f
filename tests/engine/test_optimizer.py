"""Parameter groups, the learning rate as a function of the iteration, the loss scale of fp16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gppf_d2.engine.optimizer import LearningRate, LossScale, named_parameters, parameter_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.controllers = nn.ParameterDict({"a": nn.Parameter(torch.zeros(2, 2))})
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2)})


def group_of(groups: list[dict], name: str) -> dict:
    return next(group for group in groups if name in group["param_names"])


def test_controllers_have_no_decay_and_a_rate_of_their_own() -> None:
    groups = parameter_groups(Model(), controller_lr_multiplier=5.0)
    group = group_of(groups, "controllers.a")
    assert group["weight_decay"] == 0.0 and group["lr_multiplier"] == 5.0
    assert "weight_decay" not in group_of(groups, "backbone.0.weight")


def test_norms_and_biases_can_have_a_decay_of_their_own() -> None:
    groups = parameter_groups(Model(), weight_decay_norm=0.0, weight_decay_bias=0.1)
    assert group_of(groups, "backbone.1.weight")["weight_decay"] == 0.0
    assert group_of(groups, "backbone.1.bias")["weight_decay"] == 0.0
    assert group_of(groups, "heads.a.bias")["weight_decay"] == 0.1
    assert "weight_decay" not in group_of(groups, "heads.a.weight")


def test_every_trainable_parameter_is_in_one_group_under_its_name() -> None:
    model = Model()
    model.backbone[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(parameter_groups(model), lr=1.0)
    expected = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(named_parameters(optimizer)) == expected


def test_the_rate_is_a_pure_function_of_the_iteration() -> None:
    optimizer = torch.optim.SGD(parameter_groups(Model(), controller_lr_multiplier=5.0), lr=2.0)
    rate = LearningRate(optimizer, lambda where: 1.0 - where, max_iter=10)
    for iteration, expected in ((5, 1.0), (0, 2.0), (5, 1.0)):
        assert rate.set(iteration) == pytest.approx(expected)
    assert group_of(optimizer.param_groups, "controllers.a")["lr"] == pytest.approx(5.0)


def test_the_loss_scale_halves_after_an_overflow_and_grows_back() -> None:
    scale = LossScale(enabled=True, scale=8.0, growth_interval=2)
    scale.update(finite=False)
    assert scale.scale == 4.0
    scale.update(finite=True)
    scale.update(finite=True)
    assert scale.scale == 8.0
    other = LossScale(enabled=True)
    other.load_state_dict(scale.state_dict())
    assert other.scale == 8.0


def test_without_fp16_the_scale_stays_one() -> None:
    scale = LossScale(enabled=False)
    scale.update(finite=False)
    assert scale.scale == 1.0
