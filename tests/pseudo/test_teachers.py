"""Teachers: what they say, where it comes from, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image

from gppf_d2.data.mappers.reading import read_image
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo import CallableTeacher, Detectron2Teacher, RunTeacher
from gppf_d2.pseudo.teacher import choose_kind, share_equal
from tests.engine.pretrained import pretrained
from tests.engine.runs import QUICK

CPU = torch.device("cpu")
CALLABLES = Path(__file__).with_name("callables.py")


NARROW = ("backbone.stem_out_channels=8", "backbone.res2_out_channels=8")
TASKS = {"segments": "parsing", "depth": "depth", "boxes": "scenes"}


def run_folder(config: Path, folder: Path, *overrides: str, **routes: str) -> Path:
    """A run folder of a narrow model whose parameters are random.

    Args:
        **routes: task -> the task whose route it gets.
    """
    path = folder / "model_final.pth"
    pretrained(config, path, *NARROW, *overrides)
    state = torch.load(path, weights_only=True)
    for task, other in routes.items():
        state["model"][f"controllers.{task}"] = state["model"][f"controllers.{other}"].clone()
    torch.save(state, path)
    (folder / "config.yaml").write_text(state["config"])
    return folder


@pytest.fixture(scope="module")
def lego(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five tasks, N = 2; parsing and depth have one route, the others their own.

    Their images are resized to 96 x 128, which no head pads.
    """
    where = "evaluators.0.mapper.augmentations.0.short_edge_length=96"
    sizes = [f"tasks.{task}.{where}" for task in TASKS.values()]
    folder = tmp_path_factory.mktemp("lego")
    return run_folder(QUICK / "mini_r18.py", folder, *sizes, depth="parsing")


@pytest.fixture(scope="module")
def teacher(lego: Path) -> RunTeacher:
    """Three of its tasks."""
    made = RunTeacher(str(lego), TASKS)
    made.prepare(CPU)
    return made


@pytest.fixture(scope="module")
def student(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one task with four labels."""
    return run_folder(QUICK / "mini_must_student.py", tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def pictures(mini_root: Path) -> list[dict[str, Any]]:
    files = sorted((mini_root / "mini/coco/val2017").iterdir())[:2]
    return [{"file_name": str(file), "image_id": n} for n, file in enumerate(files)]


def batch_of(teacher, records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    batch = [[mapper(dict(record)) for mapper in teacher.mappers] for record in records]
    for inputs in batch:
        share_equal(inputs)
    return batch


def calls_of(module: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every call of the module."""
    calls: list[int] = []
    forward = module.forward

    def counting(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", counting)
    return calls


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
        return
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert torch.equal(one.scores, other.scores) and len(one)


def test_tasks_of_one_route_share_a_pass(teacher, pictures, monkeypatch) -> None:
    calls = calls_of(teacher.model.backbone, monkeypatch)
    batch = batch_of(teacher, pictures)
    with torch.inference_mode():
        found = teacher(batch)
        assert len(calls) == 2  # parsing with depth, and scenes
        for name, task in TASKS.items():
            samples = [inputs[teacher.labels[name].mapper] for inputs in batch]
            for one, alone in zip(found, teacher.model.inference(task, samples)):
                assert_equal(one[name], alone[teacher.labels[name].kind])
    assert len(calls) == 5
    assert {name: label.kind for name, label in teacher.labels.items()} == {
        "segments": "sem_seg", "depth": "depth", "boxes": "instances",
    }  # fmt: skip
    assert teacher.labels["boxes"].classes[0] == "ball" and teacher.labels["depth"].classes == ()
    assert len(teacher.labels["segments"].classes) == 11


def test_features_are_shared_for_equal_images_and_only_inside_the_block(
    teacher, pictures, monkeypatch
) -> None:
    model = teacher.model
    calls = calls_of(model.backbone, monkeypatch)
    samples = [inputs[0] for inputs in batch_of(teacher, pictures)]
    other = [{**sample, "image": sample["image"].flip(2)} for sample in samples]
    for task in ("parsing", "depth"):
        model.inference(task, samples)
    assert len(calls) == 2
    with model.shared_features(["parsing", "depth"]):
        model.inference("parsing", samples)
        model.inference("depth", other)
        model.inference("depth", samples)
        assert len(calls) == 4
        monkeypatch.setattr(model.controllers["depth"], "data", -model.controllers["depth"].data)
        model.inference("depth", samples)
    assert len(calls) == 5
    with pytest.raises(KeyError, match="No head for task 'sky'"), model.shared_features(["sky"]):
        pass


def test_a_student_labels_with_one_trunk(student, pictures, monkeypatch) -> None:
    names = {name: f"student.{name}" for name in ("segments", "depth")}
    teacher = RunTeacher(str(student), names)
    teacher.prepare(CPU)
    head = teacher.model.heads["student"]
    trunks = calls_of(head.trunk, monkeypatch)
    classes = calls_of(head.heads["classes"], monkeypatch)
    batch = batch_of(teacher, pictures)
    with torch.inference_mode():
        found = teacher(batch)
        assert len(trunks) == 1 and not classes
        for name, label in teacher.labels.items():
            samples = [inputs[label.mapper] for inputs in batch]
            for one, alone in zip(found, teacher.model.inference("student", samples, name)):
                assert_equal(one[name], alone[label.kind])
    assert len(trunks) == 3 and teacher.divisors == [32, 32]


@pytest.mark.parametrize(
    ("run", "labels", "sentence"),
    [
        ("nowhere", {"a": "parsing"}, r"no run in 'nowhere' \(no config.yaml\)"),
        ("lego", {"a": "sky"}, "no task 'sky'; it has objects, scenes"),
        ("lego", {"a": "scenes.boxes"}, "has no label 'boxes'; it has none: name the task alone"),
        ("lego", {"a": "parsing:depth"}, "'parsing' of .* gives sem_seg, and not depth"),
        ("lego", {"a b": "parsing"}, "label 'a b'; use letters"),
        ("lego", {}, "name at least one label"),
        ("student", {"a": "student"}, r"several labels; write 'student.classes' for one of"),
        ("student", {"a": "student.sky"}, "no label 'sky'; it has classes, boxes"),
    ],
)
def test_a_run_that_cannot_teach_is_refused(run, labels, sentence, request) -> None:
    folder = run if run == "nowhere" else str(request.getfixturevalue(run))
    with pytest.raises(UserError, match=sentence):
        RunTeacher(folder, labels).prepare(CPU)


def test_a_missing_checkpoint_is_named(lego: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint '.*model_0000001.pth'"):
        RunTeacher(str(lego), {"a": "parsing"}, checkpoint="model_0000001.pth")


def test_weights_and_config_are_part_of_what_a_run_is(teacher, lego: Path, tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").write_bytes((lego / "model_final.pth").read_bytes())
    text = (lego / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text + "# other\n")
    here, there = teacher.describe(), RunTeacher(str(tmp_path), TASKS).describe()
    assert here.pop("source") != there.pop("source")
    assert here.pop("config_hash") != there.pop("config_hash") and here == there
    assert len(here["weights_hash"]) == 64


@pytest.mark.parametrize(
    ("kinds", "wanted", "sentence"),
    [
        (["normals"], "", "gives normals, which cannot be stored; kinds of labels are classes"),
        (["sem_seg", "panoptic_seg"], "panoptic_seg", "gives panoptic_seg, which cannot be stored"),
        (["instances"], "depth", "gives instances, and not depth"),
        (["instances", "sem_seg"], "", "gives instances, sem_seg; say which with ':instances'"),
        ([], "", "gives nothing, which cannot be stored"),
    ],
)
def test_a_kind_that_cannot_be_stored_is_refused(kinds, wanted, sentence) -> None:
    with pytest.raises(UserError, match=f"Label 'a': the head {sentence}"):
        choose_kind("a", kinds, wanted, "the head")


YAML = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: BN, OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [128]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], NUM_CLASSES: 3,
    SCORE_THRESH_TEST: 0.0}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 3}
INPUT: {MIN_SIZE_TEST: 80, MAX_SIZE_TEST: 96, FORMAT: BGR}
DATASETS: {TEST: [mini_scenes_val]}
VERSION: 2
"""
LAZY = """
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import SemanticSegmentor
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

def stage(count, channels):
    return ResNet.make_stage(BasicBlock, count, in_channels=channels, out_channels=channels,
                             norm="BN")

model = L(SemanticSegmentor)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=8, norm="BN"),
        stages=[L(stage)(count=1, channels=8)], out_features=["res2"],
    ),
    sem_seg_head=L(SemSegFPNHead)(
        input_shape={"res2": L(ShapeSpec)(channels=8, stride=4)}, num_classes=11, conv_dims=8,
        common_stride=4, norm="", loss_weight=1.0, ignore_value=255,
    ),
    pixel_mean=[103.5, 116.3, 123.7], pixel_std=[57.4, 57.1, 58.4],
)
dataloader = dict(test=dict(
    dataset=dict(names="mini_parsing_val"),
    mapper=L(DatasetMapper)(
        is_train=False, image_format="BGR",
        augmentations=[L(T.ResizeShortestEdge)(short_edge_length=72, max_size=96)],
    ),
))
"""


@pytest.fixture(scope="module")
def rcnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Config and random weights of a small Faster R-CNN, saved as Detectron2 does."""
    folder = tmp_path_factory.mktemp("rcnn")
    (folder / "rcnn.yaml").write_text(YAML)
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "rcnn.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    DetectionCheckpointer(build_model(cfg), str(folder)).save("weights")
    return str(folder / "rcnn.yaml"), str(folder / "weights.pth")


def test_a_stock_detectron2_detector_says_what_detectron2_says(rcnn, pictures) -> None:
    teacher = Detectron2Teacher(*rcnn, labels={"boxes": "instances"})
    teacher.prepare(CPU)
    with torch.inference_mode():
        found = teacher(batch_of(teacher, pictures[:1]))[0]["boxes"]
    cfg = get_cfg()
    cfg.merge_from_file(rcnn[0])
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", rcnn[1]])
    image = read_image(dict(pictures[0]), "BGR")
    wanted = DefaultPredictor(cfg)(np.ascontiguousarray(image))["instances"]
    assert_equal(found, wanted)
    label = teacher.labels["boxes"]
    # the dataset of the config has 8 classes, and the detector 3
    assert (label.kind, label.num_classes, label.classes) == ("instances", 3, ())
    assert teacher.divisors == [32]


def test_a_lazy_config_teaches_too(pictures, tmp_path: Path) -> None:
    (tmp_path / "segments.py").write_text(LAZY)
    model = instantiate(LazyConfig.load(str(tmp_path / "segments.py")).model).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    arguments = (str(tmp_path / "segments.py"), str(tmp_path / "weights.pth"))
    teacher = Detectron2Teacher(*arguments, labels={"segments": "sem_seg"})
    teacher.prepare(CPU)
    with torch.inference_mode():
        batch = batch_of(teacher, pictures)
        found = teacher(batch)
        wanted = model([inputs[0] for inputs in batch])
    for one, other in zip(found, wanted):
        assert torch.equal(one["segments"], other["sem_seg"])
    assert teacher.labels["segments"].classes[:2] == ("ground", "sky")
    changed = Detectron2Teacher(*arguments, labels={"segments": "sem_seg"}, short_side=-1)
    assert batch_of(changed, pictures)[0][0]["image"].shape != batch[0][0]["image"].shape
    assert changed.describe() != teacher.describe()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": "nowhere.yaml"}, "no config 'nowhere.yaml', neither here nor in"),
        ({"weights": "nowhere.pth"}, "no file of weights 'nowhere.pth'"),
        ({"weights": ""}, "no file of weights '' for the teacher"),
        ({"labels": {"a": "sem_seg"}}, "gives instances, and not sem_seg"),
        ({"labels": {"a": "proposals"}}, "gives proposals, which cannot be stored"),
        ({"overrides": ["MODEL.ROI_HEADS.NUM_CLASSES", 4]}, "do not fit the model: 4 of its"),
        ({"dataset": "nope"}, "as dataset 'nope', which is not registered"),
        ({"dataset": "mini_parsing_val"}, "'mini_parsing_val' has no names for the"),
    ],
)
def test_a_detectron2_model_that_cannot_teach_is_refused(rcnn, changes, sentence) -> None:
    given = {"config": rcnn[0], "weights": rcnn[1], "labels": {"boxes": "instances"}}
    with pytest.raises(UserError, match=sentence):
        Detectron2Teacher(**{**given, **changes}).prepare(CPU)


def test_a_function_from_a_file_labels(tmp_path: Path) -> None:
    (tmp_path / "bias.txt").write_text("0.25")
    options = {"weights": str(tmp_path / "bias.txt"), "bias": 0.1}
    labels = {"relative": {"kind": "inverse_depth"}, "boxes": {"kind": "instances"}}
    teacher = CallableTeacher(f"{CALLABLES}:rules", labels, options)
    teacher.prepare(CPU)
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    (found,) = teacher(batch_of(teacher, [{"file_name": str(tmp_path / "red.png")}]))
    assert found["relative"].shape == (10, 20)
    assert found["relative"].numpy() == pytest.approx(1 / 3 - 0.5)
    assert found["boxes"].scores.tolist() == pytest.approx([1.25, 0.65])
    before = teacher.describe()
    (tmp_path / "bias.txt").write_text("0.5")
    after = CallableTeacher(f"{CALLABLES}:rules", labels, options).describe()
    assert before.pop("weights_hash") != after.pop("weights_hash") and before == after
    assert after["options"] == {"bias": 0.1}


def test_a_function_that_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fails.py"
    path.write_text("def build():\n    return lambda images: 1 / 0\n")
    teacher = CallableTeacher(f"{path}:build", {"depth": {"kind": "depth"}})
    with pytest.raises(UserError, match="fails.py:build' failed on 1 .*ZeroDivisionError"):
        teacher.prepare(CPU)


def test_a_function_that_forgets_an_image_is_named() -> None:
    teacher = CallableTeacher(f"{CALLABLES}:short", {"depth": {"kind": "depth"}})
    with pytest.raises(UserError, match="callables.py:short' returned 0 outputs for 1 images"):
        teacher.prepare(CPU)
