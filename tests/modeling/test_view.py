"""Heads reach the backbone through a view that holds nothing, once per micro-step."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from detectron2.modeling.backbone import FPN
from torch import nn

from gppf_d2.modeling.heads import ClassificationHead
from gppf_d2.modeling.lego import LegoResNet
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.modeling.lego_models import tiny

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]


class PyramidHead(nn.Module):
    """A head with the view deep inside; ``calls`` says how it uses it."""

    def __init__(self, calls: str = "once") -> None:
        super().__init__()
        self.fpn = FPN(SharedBackbone(["res2", "res3"]), ["res2", "res3"], 8)
        self.momentum = copy.deepcopy(self.fpn) if calls == "momentum" else None
        self.calls = calls

    def forward(self, samples: list[dict]) -> dict | list[dict]:
        x = torch.stack([sample["image"].float() for sample in samples]).div(255)
        if not self.training:
            return [{"p2": p} for p in self.fpn(x)["p2"]]
        if self.calls == "never":
            return {"loss": self.fpn.fpn_lateral2.weight.sum()}
        loss = self.fpn(x)["p3"].square().mean()
        if self.calls == "twice":
            self.fpn(x)
        if self.calls == "evaluation":
            self.fpn.bottom_up.eval()
            loss = loss + self.fpn(x)["p3"].mean()
        if self.calls == "momentum":
            target = self.momentum(x)["p3"]
            loss = loss + (self.fpn.fpn_lateral2.weight.sum() - target.detach()).square().mean()
        return {"loss": loss}


def model_with(**heads: str) -> MultiTaskModel:
    """Tasks with pyramid heads; "classes" gets a classification head."""
    torch.manual_seed(0)
    model = MultiTaskModel(tiny(18, 2).float(), list(heads))
    for task, calls in heads.items():
        if calls == "classes":
            model.add_head(
                task,
                lambda: ClassificationHead(
                    backbone=SharedBackbone(["res5"]), num_classes=5, pixel_mean=MEAN, pixel_std=STD
                ),
            )
        else:
            model.add_head(task, lambda calls=calls: PyramidHead(calls))
    return model


def samples(count: int = 2) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.randint(0, 256, (3, 64, 64), generator=generator), "label": i}
        for i in range(count)
    ]


def step(model: MultiTaskModel, task: str, iteration: int = 0) -> torch.Tensor:
    model.begin_micro_step(0, iteration, 0, 0)
    losses = model.losses(task, samples())
    total = sum(losses.values()) + model.finish_micro_step()
    total.backward()
    return total.detach()


def test_a_view_is_built_with_its_model_or_not_at_all():
    with pytest.raises(RuntimeError, match="MultiTaskModel.add_head or a Task config"):
        SharedBackbone(["res2"])
    model = MultiTaskModel(tiny(18, 2), ["a"])
    with pytest.raises(ValueError, match="res6"):
        model.add_head("a", lambda: SharedBackbone(["res2", "res6"]))
    with pytest.raises(KeyError, match="this model has a"):
        model.add_head("b", lambda: SharedBackbone(["res2"]))
    with pytest.raises(RuntimeError):
        SharedBackbone(["res2"])


def test_nothing_of_a_head_reaches_the_core():
    model = model_with(a="once", b="classes")
    head, view = model.heads["a"], model.heads["a"].fpn.bottom_up
    assert list(view.parameters()) == [] == list(view.buffers()) and view.state_dict() == {}
    shared = {id(p) for p in model.backbone.parameters()}
    assert not shared & {id(p) for p in head.parameters()}
    assert all(not isinstance(module, LegoResNet) for module in head.modules())
    head.eval().double().requires_grad_(False).to(memory_format=torch.channels_last)
    weight = model.backbone.stem.units[0].conv1.weight
    assert model.backbone.training and weight.dtype == torch.float32 and weight.requires_grad
    names = set(model.state_dict())
    assert not [name for name in names if name.startswith("heads.") and "units" in name]
    assert {"controllers.a", "controllers.b", "heads.b.linear.weight"} <= names
    assert "backbone.res2.0.units.1.conv1.norm.running_var" in names
    assert set(view.output_shape()) == {"res2", "res3"} and view.size_divisibility == 0


def test_a_second_training_call_is_refused_with_the_tasks_name():
    model = model_with(good="once", bad="twice")
    step(model, "good")
    with pytest.raises(RuntimeError, match="'bad' called the backbone twice"):
        step(model, "bad")
    step(model, "good")


def test_an_evaluation_call_inside_a_training_step_is_no_training_call():
    model = model_with(a="evaluation")
    step(model, "a")
    assert (
        model.backbone.training
        and int(model.backbone.stem.units[0].conv1.norm.num_batches_tracked) == 1
    )


def test_the_views_mode_decides_and_is_restored():
    model = model_with(a="once").eval()
    before = model.inference("a", samples())
    norm = model.backbone.res2[0].units[0].conv1.norm
    tracked = int(norm.num_batches_tracked)
    loss = step(model, "a")
    assert loss > 0 and not model.backbone.training and not model.heads["a"].training
    assert int(norm.num_batches_tracked) == tracked + 1
    model.train()
    assert model.inference("a", samples())[0]["p2"].shape == before[0]["p2"].shape
    assert model.heads["a"].fpn.bottom_up.training and norm.training


def test_a_momentum_copy_runs_beside_the_graph():
    """It shares the core, moves no running statistics and is not counted as the training call."""
    model = model_with(a="momentum")
    head = model.heads["a"]
    assert head.momentum.bottom_up.model is model
    twin = copy.deepcopy(model)
    twin.heads["a"].calls = "once"
    step(model, "a")
    step(twin, "a")
    for (name, found), wanted in zip(model.backbone.named_buffers(), twin.backbone.buffers()):
        assert torch.equal(found, wanted), name
    before = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    x = torch.rand(2, 3, 64, 64)
    first, second = head.momentum.bottom_up(x), head.momentum.bottom_up([x])[0]
    assert torch.equal(first["res3"], second["res3"]) and not first["res3"].requires_grad
    model.begin_micro_step(0, 0, 0, 0)
    training = head.fpn.bottom_up(x)["res3"]
    torch.testing.assert_close(training, head.momentum.bottom_up(x)["res3"])
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("num_batches_tracked") and name.startswith(("stem", "res2", "res3")):
            assert int(buffer) == int(before[name]) + 1


def test_a_copy_or_pickle_of_the_model_has_a_backbone_of_its_own():
    model = model_with(a="once")
    twin = copy.deepcopy(model)
    assert twin.heads["a"].fpn.bottom_up.model is twin
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    assert loaded.heads["a"].fpn.bottom_up.model is loaded
    assert step(twin, "a") == step(model, "a") == step(loaded, "a")


def test_gates_are_a_function_of_the_micro_steps_keys():
    model = model_with(a="once", b="once")
    model.temperature = 0.5
    first = step(model, "a", iteration=3)
    torch.manual_seed(99)
    assert step(model, "a", iteration=3) == first
    assert step(model, "a", iteration=4) != first


def test_unused_tasks_and_layers_get_no_gradient():
    model = model_with(a="once", b="classes")
    step(model, "a")
    assert model.controllers["a"].grad is not None and model.controllers["b"].grad is None
    assert model.heads["b"].linear.weight.grad is None
    assert model.backbone.res4[0].units[0].conv1.weight.grad is None
    assert model.backbone.res3[1].units[1].conv1.weight.grad is not None
    model.zero_grad()
    step(model_with(a="never"), "a")
    assert model.backbone.res3[1].units[1].conv1.weight.grad is None


def test_several_views_in_one_call_give_a_list():
    model = model_with(a="once")
    model.begin_micro_step(0, 0, 0, 0)
    features = model.heads["a"].fpn.bottom_up([torch.rand(2, 3, 64, 64), torch.rand(1, 3, 32, 96)])
    assert [tuple(one["res3"].shape) for one in features] == [(2, 16, 8, 8), (1, 16, 4, 12)]


def test_routes_report_probabilities_and_argmax():
    model = model_with(a="once")
    with torch.no_grad():
        model.controllers["a"][0, 1] = 2.0
    report = model.routes()["a"]
    assert report["route"] == [1] + [0] * 8
    assert report["probabilities"][0][1] == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_fixed_routes_train_one_unit_per_layer():
    route = [1, 0, 1, 0, 1, 0, 1, 0, 1]
    model = MultiTaskModel(
        tiny(18, 2).float(), ["a"], mode="fixed", eval_mode="fixed", fixed_routes={"a": route}
    )
    model.add_head("a", lambda: PyramidHead())
    step(model, "a")
    assert model.backbone.stem.units[0].conv1.weight.grad is None
    assert model.backbone.stem.units[1].conv1.weight.grad is not None
    assert model.controllers["a"].grad is None and model.routes()["a"]["route"] == route
    with pytest.raises(ValueError, match="no entry in fixed_routes"):
        MultiTaskModel(tiny(18, 2), ["a"], mode="fixed")
    with pytest.raises(ValueError, match="Unknown gate mode"):
        MultiTaskModel(tiny(18, 2), ["a"], eval_mode="best")


def test_a_head_that_returns_no_losses_is_refused():
    model = model_with(a="once")
    model.heads["a"].forward = lambda samples: [1]
    with pytest.raises(TypeError, match="'a' returned list"):
        model.losses("a", samples())
    with pytest.raises(KeyError, match="No head for task 'c'"):
        model.losses("c", samples())
