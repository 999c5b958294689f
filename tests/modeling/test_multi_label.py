"""Heads of several labels: one pass of the trunk, every label head on the images that have its
label."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import NaiveSyncBatchNorm, ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor, SemSegFPNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from gppf_d2.distributed.groups import ProcessGroups
from gppf_d2.distributed.task_average import TaskAverage
from gppf_d2.engine.checkpoint import FORMAT as FORMAT_OF_CHECKPOINTS
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.evaluate import _infer, _named
from gppf_d2.engine.hooks import _learned_weights
from gppf_d2.engine.optimizer import parameter_groups
from gppf_d2.engine.preflight import check_labels
from gppf_d2.engine.transfer import load_pretrained_run
from gppf_d2.modeling.heads import (
    ClassificationHead,
    StagePyramid,
    TrunkView,
    check_input_format,
    prediction_layers,
    replace_sync_norms,
    scaling_rule,
)
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from gppf_d2.tasks.spec import Evaluation
from tests.modeling.lego_models import tiny

MUST = Path(__file__).resolve().parents[2] / "configs" / "common" / "must.py"
MEAN, STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]
FORMAT = {"pixel_mean": MEAN, "pixel_std": STD}
LEVELS = ["p3", "p4", "p5"]
CLASSES, CHANNELS, SIZE = 4, 8, (64, 96)
RULE = L(scaling_rule)(
    student_batch="${train.total_batch_size}", student_lr=0.1, teacher_batch=4, teacher_lr=0.2
)
WEIGHTS = {"boxes": 0.5, "depth": RULE}
WANTED_WEIGHTS = {"classes": 1.0, "boxes": 0.5, "segments": 1.0, "depth": 4.0}
# image -> its labels: classes on all, boxes and segments on two that are not neighbours
GIVEN = [
    ("classes", "boxes", "segments"),
    ("depth", "classes"),
    ("boxes", "segments", "classes", "depth"),
]
SHARES = {"classes": 1.0, "boxes": 2 / 3, "segments": 2 / 3, "depth": 2 / 3}


@functools.cache
def must() -> SimpleNamespace:
    """The functions of configs/common/must.py."""
    names = ("student", "classes", "boxes", "depth", "normals")
    return SimpleNamespace(**dict(zip(names, LazyConfig.load(str(MUST), names))))


def label_heads() -> dict[str, DictConfig]:
    """Figure 3's heads for four labels, thin; the segments' is Detectron2's own."""
    segments = L(SemanticSegmentor)(
        backbone=L(TrunkView)(out_features=LEVELS),
        sem_seg_head=L(SemSegFPNHead)(
            input_shape={
                name: L(ShapeSpec)(channels=CHANNELS, stride=2 ** int(name[1])) for name in LEVELS
            },
            num_classes=CLASSES, conv_dims=CHANNELS, common_stride=8, norm="", ignore_value=255,
        ),
        **FORMAT,
    )  # fmt: skip
    return {
        "classes": must().classes(CLASSES),
        "boxes": must().boxes(CLASSES, channels=CHANNELS, fc_dim=16, norm="", proposals=40,
                              score_threshold=0.0, anchor_sizes=(8, 16, 32, 64, 128)),
        "segments": segments,
        "depth": must().depth(10.0, channels=CHANNELS, norm=""),
    }  # fmt: skip


def student(heads: Mapping[str, Any], **options: Any) -> Callable[[], nn.Module]:
    """must.py's network with these label heads, as an engine builds it from a config."""
    lazy = must().student(heads, **{"channels": CHANNELS, "norm": "", **options})
    content = {"input": {**FORMAT, "pixel_format": "RGB"}, "head": lazy,
               "train": {"total_batch_size": 8}}  # fmt: skip
    config = OmegaConf.create(content, flags={"allow_objects": True})
    return lambda: instantiate(config.head)


def model_of(
    heads: Mapping[str, Any] | None = None, seed: int = 0, **options: Any
) -> MultiTaskModel:
    """A model with one task, "student", whose statistics are frozen."""
    model = MultiTaskModel(tiny(18, 1, norm="FrozenBN").float(), ["student"])
    torch.manual_seed(seed)
    model.add_head("student", student(label_heads() if heads is None else heads, **options))
    return model


def label(name: str, index: int, size: tuple[int, int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(index)
    if name == "classes":
        return {"label": index % CLASSES}
    if name == "segments":
        return {"sem_seg": torch.randint(0, CLASSES, size, generator=generator)}
    if name == "depth":
        return {"depth": torch.rand(size, generator=generator) * 9 + 0.5}
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4, 40, 50], [20, 10, 60, 40 + 5 * index]]))
    instances.gt_classes = torch.tensor([1, 3])
    return {"instances": instances}


def samples(given=GIVEN, sizes=None, first: int = 0) -> list[dict]:
    """One image for each entry; results are wanted at twice the size."""
    made = []
    for index, names in enumerate(given, start=first):
        size = sizes[index] if sizes else SIZE
        generator = torch.Generator().manual_seed(100 + index)
        made.append({
            "image": torch.randint(0, 256, (3, *size), generator=generator).byte(),
            "height": 2 * size[0], "width": 2 * size[1], "file_name": f"{index}.png",
            "labels": {name: label(name, index, size) for name in names},
        })  # fmt: skip
    return made


def losses_of(model: MultiTaskModel, batch: list[dict], rank: int = 0) -> dict[str, Tensor]:
    """One micro-step forward, anchor included."""
    torch.manual_seed(0)
    model.begin_micro_step(0, 0, 0, rank)
    with EventStorage():
        losses = model.losses("student", batch)
    return {**losses, "anchor": model.finish_micro_step()}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, found))


def assert_close(found: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor]) -> None:
    for name, value in wanted.items():
        other = found[name] if found[name] is not None else torch.zeros_like(value)
        error = (other - value).abs().max() / value.abs().max().clamp(min=1e-3)
        assert error < 1e-4, f"{name} differs by {error:.1e}"


class Calls:
    """Counts calls of modules, and keeps what they were last called with."""

    def __init__(self, **modules: nn.Module) -> None:
        self.counts = dict.fromkeys(modules, 0)
        self.inputs: dict[str, Any] = {}
        for name, module in modules.items():
            module.register_forward_hook(lambda m, x, y, name=name: self._count(name, x[0]))

    def _count(self, name: str, given: Any) -> None:
        self.counts[name] += 1
        self.inputs[name] = given


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    return model_of(weights=WEIGHTS)


class Direct(Backbone):
    """What a label head has for itself when it is trained alone: the trunk, not a view of it."""

    def __init__(self, trunk: Backbone, view: TrunkView) -> None:
        super().__init__()
        self.trunk, self.names = trunk, view.out_features

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {name: features[name] for name in self.names}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: self.trunk.output_shape()[name] for name in self.names}

    @property
    def size_divisibility(self) -> int:
        return self.trunk.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return self.trunk.padding_constraints


def alone(model: MultiTaskModel, name: str, batch: list[dict]) -> dict[str, Tensor]:
    """A label head's losses on its images, in a pass of its own."""
    head = model.heads["student"]
    one, view = head.heads[name], head.heads[name].backbone
    mine = [{**sample, **sample["labels"][name]} for sample in batch if name in sample["labels"]]
    one.backbone = Direct(head.trunk, view)
    try:
        torch.manual_seed(0)
        model.begin_micro_step(0, 0, 0, 0)
        with EventStorage():
            return one(mine)
    finally:
        one.backbone = view
        model.finish_micro_step()


def test_each_loss_is_that_of_the_head_alone_on_its_images(model):
    batch = samples()
    losses = losses_of(model, batch)
    found = gradients(model, sum(losses.values()))
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    seen = {"anchor"}
    for name, weight in WANTED_WEIGHTS.items():
        factor = weight * SHARES[name]
        wanted = {f"{name}.{k}": factor * loss for k, loss in alone(model, name, batch).items()}
        for key, loss in wanted.items():
            torch.testing.assert_close(losses[key], loss, rtol=1e-4, atol=1e-6)
        for key, gradient in gradients(model, sum(wanted.values())).items():
            total[key] += 0 if gradient is None else gradient
        seen |= set(wanted)
    assert set(losses) == seen
    assert_close(found, total)
    assert all(found[key].any() for key in total if "fpn_output" in key or "linear" in key)


def test_a_step_is_one_call_of_the_backbone_and_of_each_label_head(model):
    copied = copy.deepcopy(model)
    head = copied.heads["student"]
    calls = Calls(backbone=copied.backbone, trunk=head.trunk, **head.heads)
    losses_of(copied, samples())
    assert set(calls.counts.values()) == {1}
    common = {"image", "height", "width", "file_name"}
    assert [set(s) for s in calls.inputs["boxes"]] == [common | {"instances"}] * 2
    copied.inference("student", samples())
    assert set(calls.counts.values()) == {2}
    copied.inference("student", samples(), label="depth")
    skipped = {"classes": 2, "boxes": 2, "segments": 2}
    assert calls.counts == {"backbone": 3, "trunk": 3, "depth": 3, **skipped}


def test_a_copy_sees_its_own_trunk(model):
    copied = copy.deepcopy(model)
    before = losses_of(model, samples())
    with torch.no_grad():
        for parameter in model.heads["student"].trunk.parameters():
            parameter.mul_(2)
    try:
        torch.testing.assert_close(losses_of(copied, samples()), before)
        assert losses_of(model, samples())["depth.loss_depth"] != before["depth.loss_depth"]
    finally:
        with torch.no_grad():
            for parameter in model.heads["student"].trunk.parameters():
                parameter.div_(2)


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_ranks_with_other_labels_average_to_one_big_batch(weighting):
    """Two ranks, one without segments and one without classes."""
    heads = {name: head for name, head in label_heads().items() if name in ("classes", "segments")}
    model = model_of(heads, weighting=weighting)
    given = [("segments",), ("segments",), ("classes",), ("classes",)]
    big = gradients(model, sum(losses_of(model, samples(given)).values()))
    shared = {n: p for n, p in model.named_parameters() if not n.startswith("heads.")}
    mine = {"student": dict(model.heads["student"].named_parameters())}
    average = TaskAverage(shared, mine, ProcessGroups(), 1, 0)
    average.begin({"student": (0, 1)})
    for rank, part in enumerate((given[:2], given[2:])):
        if rank:
            average.next_virtual_rank()
        losses = losses_of(model, samples(part, first=2 * rank), rank)
        assert float(losses["absent"].detach()) == 0
        average.backward(sum(losses.values()), last=True)
    counts = average.finish().counts
    assert {n: c for n, c in counts.items() if n.startswith("heads.")} == {
        f"heads.student.{name}": 2 for name in mine["student"]
    }
    wanted = {name: gradient for name, gradient in big.items() if gradient is not None}
    assert_close({name: p.grad for name, p in model.named_parameters()}, wanted)


def test_learned_weights_follow_kendall(model):
    learned = model_of(weights=WEIGHTS, weighting="uncertainty")
    assert {
        n: p.item() for n, p in learned.heads["student"].log_variances.items()
    } == dict.fromkeys(WANTED_WEIGHTS, 0)
    learned.load_state_dict(model.state_dict(), strict=False)
    variances = {"classes": 0.3, "boxes": -1.0, "segments": 2.0, "depth": 0.0}
    parameters = learned.heads["student"].log_variances
    for name, value in variances.items():
        parameters[name].data.fill_(value)
    fixed, losses = losses_of(model, samples()), losses_of(learned, samples())
    found = gradients(learned, sum(losses.values()))
    total = torch.zeros(())
    for name, s in variances.items():
        weighted = sum(v for k, v in fixed.items() if k.startswith(f"{name}.")).detach()
        share, factor = SHARES[name], torch.tensor(-s).exp()
        total = total + factor * weighted + share * s
        gradient = found[f"heads.student.log_variances.{name}"]
        torch.testing.assert_close(gradient, share - factor * weighted)
    torch.testing.assert_close(sum(losses.values()).detach(), total)


def test_learned_weights_are_told_and_do_not_decay(model):
    learned = model_of({"classes": label_heads()["classes"]}, weights={"classes": 3.0},
                       weighting="uncertainty")  # fmt: skip
    learned.heads["student"].log_variances["classes"].data.fill_(0.5)
    wanted = pytest.approx(3 * torch.tensor(-0.5).exp().item())
    assert _learned_weights(learned) == {"weight/student/classes": wanted}
    assert _learned_weights(model) == {}, "these are fixed"
    groups = parameter_groups(learned, weight_decay=0.1, weight_decay_norm=0.1)
    decay = {name: g["weight_decay"] for g in groups for name in g["param_names"]}
    assert decay["heads.student.log_variances.classes"] == 0.0
    assert decay["heads.student.heads.classes.linear.weight"] == 0.1


def test_images_of_several_sizes_get_the_corner_of_the_features_that_they_cover(model, monkeypatch):
    batch = samples(sizes=[(32, 64), (64, 70), (32, 50)])
    head = model.heads["student"]
    kept = {}
    hooks = [head.trunk.register_forward_hook(lambda m, x, y: kept.update(whole=y))]
    for name in ("boxes", "segments"):
        view = head.heads[name].backbone
        hooks.append(view.register_forward_hook(lambda m, x, y, n=name: kept.update({n: y})))
    losses = losses_of(model, batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert kept["whole"]["p3"].shape == (3, CHANNELS, 8, 12)
    for name in ("boxes", "segments"):  # of the first and the last image: 32 x 64
        for level, feature in kept[name].items():
            stride = 2 ** int(level[1])
            rows, columns = max(32 // stride, 1), max(64 // stride, 1)
            assert torch.equal(feature, kept["whole"][level][[0, 2], :, :rows, :columns])
    # a label head that pads more than the others
    monkeypatch.setattr(head.heads["depth"], "size_divisibility", 128)
    losses_of(model, batch)
    assert kept["whole"]["p3"].shape == (3, CHANNELS, 16, 16)
    assert kept["boxes"]["p3"].shape == (2, CHANNELS, 4, 8)
    for hook in hooks:
        hook.remove()


def test_evaluation_gives_all_labels_at_the_size_of_the_file(model):
    outputs = model.inference("student", samples())
    for output in outputs:
        assert set(output) == {"classes", "instances", "sem_seg", "depth"}
        assert output["classes"].sum() == pytest.approx(1)
        assert output["instances"].image_size == (128, 192)
        assert output["sem_seg"].shape == (CLASSES, 128, 192)
        assert output["depth"].shape == (128, 192)
    # one label alone says the same, of samples of ordinary mappers too
    plain = [{k: v for k, v in sample.items() if k != "labels"} for sample in samples()]
    for sample in plain:
        sample["label"] = 1
    for output, one in zip(outputs, model.inference("student", plain, label="depth")):
        assert set(one) == {"depth"} and torch.equal(one["depth"], output["depth"])


def test_an_evaluation_runs_the_label_head_that_it_names(model):
    class Keep:
        def process(self, inputs: list[dict], outputs: list[dict]) -> None:
            self.keys = [set(output) for output in outputs]

    keep = Keep()
    entry = Evaluation(dataset="a", evaluator={}, mapper={}, label="segments")
    _infer(model, "student", entry, [samples()], keep)
    assert keep.keys == [{"sem_seg"}] * 3
    metrics = {"sem_seg/mIoU": 1.0}
    named = _named(metrics, entry, several=True, known={})
    assert named == {"a/sem_seg/mIoU": 1.0} and _named(metrics, entry, False, {}) == metrics
    assert _named(metrics, entry, True, known=named) == {"a/segments/sem_seg/mIoU": 1.0}
    with pytest.raises(KeyError, match="no label 'segment'; its labels are classes, boxes"):
        model.inference("student", samples(), label="segment")
    with pytest.raises(ValueError, match="label is 3"):
        Evaluation(dataset="a", evaluator={}, mapper={}, label=3)


def test_the_second_head_of_a_kind_keeps_its_output_under_its_label():
    heads = label_heads()
    model = model_of({"segments": heads["segments"], "parts": heads["segments"]})
    (output,) = model.inference("student", samples([()]))
    assert set(output) == {"sem_seg", "parts.sem_seg"}
    (alone,) = model.inference("student", samples([()]), label="parts")
    assert torch.equal(alone["sem_seg"], output["parts.sem_seg"])
    assert not torch.equal(output["sem_seg"], output["parts.sem_seg"])


def test_labels_that_are_all_ignored_give_a_zero_with_a_graph(model):
    batch = samples()
    for sample in batch:
        if "segments" in sample["labels"]:
            sample["labels"]["segments"]["sem_seg"].fill_(255)
    losses = losses_of(model, batch)
    assert float(losses["segments.loss_sem_seg"].detach()) == 0
    found = gradients(model, sum(losses.values()))
    predictor = "heads.student.heads.segments.sem_seg_head.predictor.weight"
    assert found[predictor] is not None and not found[predictor].any()
    assert all(g is None or torch.isfinite(g).all() for g in found.values())


def test_bfloat16_trains_every_head(model):
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(model, samples())
    found = gradients(model, sum(loss.float() for loss in losses.values()))
    for name, gradient in found.items():
        if name.startswith("heads."):
            assert gradient is not None and torch.isfinite(gradient).all(), name


def test_a_head_of_one_label_takes_ordinary_samples():
    """Also mixed ones, whose "labels" are several classes of an image."""
    model = model_of({"classes": label_heads()["classes"]})
    nested = samples([("classes",), ("classes",)])
    plain = [{**{k: v for k, v in s.items() if k != "labels"}, **s["labels"]["classes"]}
             for s in nested]  # fmt: skip
    wanted = losses_of(model, nested)
    assert set(wanted) == {"classes.loss_cls", "anchor"}
    torch.testing.assert_close(losses_of(model, plain), wanted)
    mixed = [{**s, "labels": (s.pop("label"), 0), "label_weights": (1.0, 0.0)} for s in plain]
    torch.testing.assert_close(losses_of(model, mixed), wanted)


def test_state_keys_are_the_trunk_and_the_labels(model):
    keys = set(model.heads["student"].state_dict())
    trunk = {key for key in keys if key.startswith("trunk.")}
    pyramid = FPN(tiny(18, 1), ["res3", "res4", "res5"], CHANNELS, "",
                  LastLevelP6P7(CHANNELS, CHANNELS, "p5"))  # fmt: skip
    own = {key for key in pyramid.state_dict() if not key.startswith("bottom_up.")}
    assert trunk == {f"trunk.{key}" for key in own}
    assert all(key.split(".")[1] in WANTED_WEIGHTS for key in keys - trunk)
    teacher = model_of({"depth": label_heads()["depth"]})
    assert set(teacher.heads["student"].state_dict()) == trunk | {
        key for key in keys if key.startswith("heads.depth.")
    }
    predicting = set(prediction_layers(model.heads["student"]))
    assert predicting >= {
        "heads.classes.linear", "heads.boxes.roi_heads.box_predictor",
        "heads.segments.sem_seg_head.predictor",
    }  # fmt: skip


def test_a_downstream_head_takes_the_trunk_and_the_labels_of_equal_names(model, tmp_path):
    path = tmp_path / "model_final.pth"
    torch.save({"format": FORMAT_OF_CHECKPOINTS, "model": model.state_dict()}, path)
    heads = {name: label_heads()[name] for name in ("classes", "boxes")}
    heads["classes"].num_classes = CLASSES + 3
    heads["normals"] = must().normals(channels=CHANNELS, norm="")
    downstream = model_of(heads, seed=1, weighting="uncertainty")
    report = load_pretrained_run(downstream, str(path), "student", head="student")
    loaded = {name for name in report.loaded if name.startswith("heads.")}
    ours, theirs = downstream.state_dict(), model.state_dict()
    wanted = ("heads.student.trunk.", "heads.student.heads.boxes.")
    assert loaded == {n for n in ours if n.startswith(wanted) and ".box_predictor." not in n}
    assert all(torch.equal(ours[name], theirs[name]) for name in loaded)
    assert "heads.student.heads.classes.linear.weight" in report.ignored


def test_rules_of_heads_reach_label_heads(model):
    with pytest.raises(ValueError, match="pixel_std"):
        check_input_format("student", model.heads["student"], MEAN, [1.0, 1.0, 1.0])
    assert model.heads["student"].input_format == "RGB"
    synchronised = model_of({"depth": label_heads()["depth"]}, norm="naiveSyncBN")
    kinds = {type(part) for part in synchronised.heads["student"].modules()}
    assert NaiveSyncBatchNorm in kinds
    assert replace_sync_norms(synchronised.heads["student"]) == 6
    assert torch.isfinite(losses_of(synchronised, samples([("depth",)]))["depth.loss_depth"])


def test_a_stage_pyramid_is_an_fpn_with_its_stages():
    torch.manual_seed(0)
    bottom_up = tiny(18, 1).float()
    arguments = (["res3", "res4"], CHANNELS, "", LastLevelP6P7(CHANNELS, CHANNELS, "p4"), "avg")
    pyramid, fpn = StagePyramid(Plain(bottom_up), *arguments), FPN(Plain(bottom_up), *arguments)
    fpn.load_state_dict(pyramid.state_dict())
    x = torch.randn(1, 3, 64, 64)
    stages, levels, both = fpn.bottom_up(x), fpn(x), pyramid(x)
    assert both.keys() == pyramid.output_shape().keys() == {*stages, *levels}
    for name, feature in {**stages, **levels}.items():
        assert torch.equal(both[name], feature)
        assert pyramid.output_shape()[name].channels == feature.shape[1]


class Plain(Backbone):
    """A lego backbone of one unit as an ordinary one."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        model = MultiTaskModel(self.core.eval(), ["a"])
        return model.features("a", [x], ["res3", "res4", "res5"], training=False)[0]

    def output_shape(self) -> dict[str, ShapeSpec]:
        shapes = self.core.output_shape()
        return {name: shapes[name] for name in ("res3", "res4", "res5")}


def test_the_scaling_rule_is_the_papers():
    # Objects365 teacher: 64 images, 0.08; student: 256 images, 0.1
    assert scaling_rule(256, 0.1, 64, 0.08) == pytest.approx(3.2)
    with pytest.raises(ValueError, match="teacher_batch is 0"):
        scaling_rule(1, 1, 0, 1)


def test_arguments_that_cannot_be_are_refused():
    model = MultiTaskModel(tiny(18, 1), ["student"])

    def refused(message: str, heads: Mapping[str, Any] | None = None, **options: Any) -> None:
        heads = {"classes": must().classes(2)} if heads is None else heads
        with pytest.raises(ValueError, match=message):
            model.add_head("student", student(heads, **options))

    refused("at least one label head", heads={})
    refused("label name 'Boxes'", heads={"Boxes": {}})
    refused("label name 'keys'", heads={"keys": {}})
    refused("weights names 'box'.*classes", weights={"box": 1.0})
    refused("weight of 'classes' is -1", weights={"classes": -1})
    refused("weight of 'classes' is nan", weights={"classes": float("nan")})
    refused("weight of 'classes' is True", weights={"classes": True})
    refused("is 0; .* > 0 where", weights={"classes": 0}, weighting="uncertainty")
    refused("'learned'; choose one of fixed, uncertainty", weighting="learned")
    own = L(ClassificationHead)(backbone=L(SharedBackbone)(out_features=["res5"]), num_classes=2,
                                **FORMAT)  # fmt: skip
    refused("'classes' must be .*TrunkView", heads={"classes": own})
    for wrong in (lambda: nn.Linear(1, 1), nn.Linear(1, 1), None, {"channels": 3}):
        refused("'a' must be .*TrunkView", heads={"a": wrong})
    missing = label_heads()["classes"]
    missing.backbone.out_features = ["p2"]
    refused("the trunk gives res2, res3, res4, res5, p3", heads={"classes": missing})
    other = {**label_heads()}
    other["more"] = copy.deepcopy(other["boxes"])
    other["more"].input_format = "BGR"
    refused("differ in input_format", heads=other)
    with pytest.raises(RuntimeError, match="needs a trunk"):
        TrunkView(["p3"])


def test_labels_of_mapper_and_head_must_be_the_same(model):
    def source(*labels: str) -> dict[str, SimpleNamespace]:
        return {"student": SimpleNamespace(mapper=SimpleNamespace(labels=dict.fromkeys(labels)))}

    check_labels(model, source(*WANTED_WEIGHTS))
    check_labels(model, {"student": SimpleNamespace(mapper=len)})  # of one label
    with pytest.raises(UserError, match="'student' has the labels classes, boxes, .*'depth' is in"):
        check_labels(model, source("classes", "boxes", "segments"))
    with pytest.raises(UserError, match="'box' is in one of them only"):
        check_labels(model, source(*WANTED_WEIGHTS, "box"))


def test_samples_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="label 'box', for which there is no head.*classes, boxes"):
        losses_of(model, [{**samples()[0], "labels": {"box": {}}}])
    with pytest.raises(ValueError, match="no 'labels', and there are heads for classes, boxes"):
        losses_of(model, [{"image": samples()[0]["image"], "label": 1}])
    view = model.heads["student"].heads["depth"].backbone
    with pytest.raises(RuntimeError, match="only while its MultiLabelHead runs"):
        view(torch.zeros(1, 3, 64, 64))
    with pytest.raises(TypeError, match="one batch, not a list"):
        view([torch.zeros(1, 3, 64, 64)])
    plain = MultiTaskModel(tiny(18, 1).float(), ["classes"])
    plain.add_head("classes", lambda: ClassificationHead(
        backbone=SharedBackbone(["res5"]), num_classes=2, **FORMAT))  # fmt: skip
    with pytest.raises(KeyError, match="a ClassificationHead, has no label 'depth'; leave"):
        plain.inference("classes", samples(), label="depth")
