"""Every number of the paper's appendix D.1, Table 1 and section 4.1, against the full configs."""

from __future__ import annotations

import ast
import functools
import math
from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import SGD, AdamW

from gppf_d2.analysis.results.paper import read_paper
from gppf_d2.data.batch_transforms import CopyPaste, MixUpCutMix
from gppf_d2.data.mappers import LargeScaleJitterMapper
from gppf_d2.engine import setup
from gppf_d2.engine.config import config_text, load_config
from gppf_d2.modeling.lego import LegoResNet, LegoSwin

PRETRAIN = Path(__file__).resolve().parent.parent / "configs/pretrain"
JOINT = sorted(path.stem for path in PRETRAIN.glob("*.py"))
SINGLE = sorted(path.stem for path in PRETRAIN.glob("single/*.py"))
# D.1, in its order: sampling weight, batch size on each GPU
TASKS = {
    "in21k": (4.0, 96), "coco": (2.5, 8), "lvis": (2.5, 8), "objects365": (4.0, 12),
    "open_images": (4.0, 12), "ade20k": (1.0, 8), "coco_stuff": (2.0, 8), "voc": (1.0, 8),
}  # fmt: skip
CLASSES = {
    "in21k": 10_450, "coco": 80, "lvis": 1203, "objects365": 365, "open_images": 500,
    "ade20k": 150, "coco_stuff": 171, "voc": 21,
}  # fmt: skip
DETECTION = ("coco", "lvis", "objects365", "open_images")
MASKS = ("coco", "lvis")
SEGMENTATION = ("ade20k", "coco_stuff", "voc")
# Table 1, rows of GPPF: config -> SIMT, SyncBN, N
ROWS = {
    "gppf_r50_per_batch": (False, False, 1),
    "gppf_r50_no_syncbn": (True, False, 1),
    "gppf_r50_static": (True, True, 1),
    "gppf_r50": (True, True, 2),
    "gppf_r50_n3": (True, True, 3),
    "gppf_swin_t": (True, True, 2),
}


@functools.cache
def load(name: str) -> DictConfig:
    return load_config(str(PRETRAIN / f"{name}.py"))


def test_table_1_has_a_config_for_every_row() -> None:
    assert set(JOINT) == set(ROWS)
    wanted = {f"{backbone}_{task}" for backbone in ("r50", "swin_t") for task in TASKS}
    assert set(SINGLE) == wanted


@pytest.mark.parametrize("name", JOINT)
def test_the_rows_of_table_1(name: str) -> None:
    cfg = load(name)
    simt, sync, units = ROWS[name]
    assert cfg.schedule.policy == ("sampled" if simt else "per_batch")
    assert cfg.backbone.num_units == units
    assert cfg.gates.mode == "soft"
    if cfg.backbone._target_ is LegoResNet:
        assert cfg.backbone.depth == 50
        assert cfg.backbone.norm == ("CrossTaskSyncBN" if sync else "BN")
    else:
        assert cfg.backbone._target_ is LegoSwin and cfg.backbone.size == "T"
        assert not any(isinstance(m, nn.BatchNorm2d) for m in instantiate(cfg.backbone).modules())


@pytest.mark.parametrize("name", JOINT)
def test_d1_tasks(name: str) -> None:
    cfg = load(name)
    tasks = setup.build_tasks(cfg)
    assert {name: (task.weight, task.batch_size) for name, task in tasks.items()} == TASKS
    assert all(task.loss_weight == 1.0 for task in tasks.values())  # section 3.2


@pytest.mark.parametrize("name", JOINT)
def test_d1_schedule(name: str) -> None:
    cfg = load(name)
    assert cfg.train.max_iter == 500_000
    assert cfg.train.reference_world_size == 7 * 8
    multiplier = instantiate(cfg.lr_multiplier)
    values = [multiplier(where) for where in (0.05, 0.1, 0.5, 1.0)]
    assert values[0] == pytest.approx(0.5, abs=0.02)  # 25k of 50k iterations of warm-up
    cosine = [0.5 * (1 + math.cos(math.pi * where)) for where in (0.1, 0.5, 1.0)]
    assert values[1:] == pytest.approx(cosine, abs=1e-6)
    temperature = instantiate(cfg.gates.temperature)
    found = [temperature.at(it, 500_000) for it in (0, 225_000, 450_000, 500_000)]
    assert found == pytest.approx([5.0, 2.505, 0.01, 0.01])
    assert cfg.backbone.checkpoint is True
    if cfg.optimizer._target_ is SGD:
        settings = cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.momentum
        assert settings == (0.16, 5e-4, 0.9)
    else:
        assert cfg.optimizer._target_ is AdamW
        assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 0.05)
    assert cfg.train.init_checkpoint == ""  # the joint run starts from scratch


def test_d1_classification() -> None:
    cfg = load("gppf_r50")
    task, mapper = cfg.tasks.in21k, instantiate(cfg.tasks.in21k.mapper)
    assert task.head.num_classes == CLASSES["in21k"] and task.head.label_smoothing == 0.1
    mixing = instantiate(task.batch_transform)
    assert isinstance(mixing, MixUpCutMix)
    assert (mixing.mixup_alpha, mixing.cutmix_alpha) == (0.8, 1.0)
    names = {type(t).__name__: t for t in mapper.transform.transforms}
    assert "RandAugment" in str(mapper.transform)
    assert names["NoiseErasing"].p == 0.25
    assert tuple(names["RandomResizedCrop"].size) == (224, 224)


@pytest.mark.parametrize("name", ["gppf_r50", "gppf_swin_t"])
@pytest.mark.parametrize("task", DETECTION)
def test_d1_detection(name: str, task: str) -> None:
    cfg = load(name).tasks[task]
    mapper = instantiate(cfg.mapper)
    assert isinstance(mapper, LargeScaleJitterMapper)
    assert (mapper.size, mapper.scale, mapper.flip) == (1024, (0.1, 2.0), 0.5)
    assert mapper.use_instance_mask == (task in MASKS)
    transform = instantiate(cfg.get("batch_transform"))
    assert isinstance(transform, CopyPaste) if task in MASKS else transform is None
    roi = cfg.head.roi_heads
    assert roi._target_ is (CascadeROIHeads if "swin" in name else StandardROIHeads)
    assert roi.num_classes == CLASSES[task]
    heads = roi.box_heads if "swin" in name else [roi.box_head]
    for head in heads:
        assert list(head.conv_dims) == [256] * 4 and list(head.fc_dims) == [1024]
    assert ("mask_head" in roi) == (task in MASKS)
    if task in MASKS:
        assert list(roi.mask_head.conv_dims) == [256] * 5  # four before the deconvolution
    norms = [cfg.head.backbone.norm, *(head.conv_norm for head in heads)]
    assert norms == ["BN"] * len(norms)  # local: no synchronised norm in any head


@pytest.mark.parametrize("name", ["gppf_r50", "gppf_swin_t"])
def test_open_images_detections_count_for_all_ancestors(name: str) -> None:
    """The boxes for training name the most specific class; the challenge wants the others too."""
    (evaluation,) = load(name).tasks.open_images.evaluators
    assert evaluation["evaluator"].expand_predictions is True


@pytest.mark.parametrize("name", ["gppf_r50", "gppf_swin_t"])
@pytest.mark.parametrize("task", SEGMENTATION)
def test_d1_segmentation(name: str, task: str) -> None:
    cfg = load(name)
    head = cfg.tasks[task].head.sem_seg_head
    assert head.num_classes == CLASSES[task]
    assert head.auxiliary_feature == ("p2" if "swin" in name else "res4")
    assert head.auxiliary_weight == 0.4
    backbone = instantiate({**cfg.backbone, "num_units": 1})
    shapes = {name: backbone.output_shape()[name] for name in head.input_shape}
    assert {k: (v.channels, v.stride) for k, v in shapes.items()} == {
        k: (v.channels, v.stride) for k, v in head.input_shape.items()
    }
    resize, crop, _, distortion, pad = cfg.tasks[task].mapper.augmentations
    assert tuple(resize.ratio_range) == (0.5, 2.0) and tuple(resize.base_size) == (2048, 512)
    assert tuple(crop.crop_size) == tuple(pad.size) == (512, 512)
    assert distortion._target_.__name__ == "PhotometricDistortion"


@pytest.mark.parametrize("name", SINGLE)
def test_single_task_baselines(name: str) -> None:
    cfg = load(f"single/{name}")
    (task,) = cfg.tasks
    weight, batch_size = TASKS[task]
    total = sum(weight for weight, _ in TASKS.values())
    assert name.endswith(f"_{task}")
    assert cfg.tasks[task].batch_size == batch_size
    assert cfg.train.max_iter == round(500_000 * weight / total)
    assert cfg.backbone.num_units == 1
    assert bool(cfg.train.init_checkpoint) == (task in SEGMENTATION)


def test_the_budgets_of_the_single_runs_add_up_to_the_joint_one() -> None:
    budgets = [load(f"single/r50_{task}").train.max_iter for task in TASKS]
    assert sum(budgets) == pytest.approx(500_000, abs=len(TASKS))


@pytest.mark.parametrize("name", [*JOINT, *(f"single/{n}" for n in SINGLE if "r50" in n)])
def test_the_paper_s_values_are_those_of_the_protocol(name: str) -> None:
    cfg = load(name)
    protocol = ast.get_docstring(ast.parse((PRETRAIN / f"{name}.py").read_text()))
    entries = read_paper(name, OmegaConf.to_container(cfg.paper))
    found = {(entry.task, entry.metric): entry.tables["Table 1"] for entry in entries}
    metrics = {
        "bbox/AP": ("coco", "lvis", "objects365"),
        "segm/AP": MASKS,
        "open_images_challenge/AP50": ("open_images",),
        "sem_seg/mIoU": SEGMENTATION,
        "classification/top1": ("in21k",),
    }
    wanted = {(task, metric) for metric, tasks in metrics.items() for task in tasks}
    assert set(found) == {(task, metric) for task, metric in wanted if task in cfg.tasks}
    for rows in found.values():
        row, *single = rows
        if "not converge" in row:
            assert rows[row] is None and "not converge" in protocol
        else:
            assert f" {rows[row]}" in protocol
        assert single == ([] if "single" in name else ["Single, ResNet-50"])


def test_the_paper_s_values_are_kept_in_config_yaml() -> None:
    cfg = load("single/r50_coco")
    kept = OmegaConf.create(config_text(cfg))
    assert kept.paper == cfg.paper and kept.paper.tasks.coco["segm/AP"]["Single, ResNet-50"] == 42.0


@pytest.mark.parametrize(
    "name", ["pretrain/gppf_r50", "finetune/uodb/kitti", "must/transfer/cifar100"]
)
def test_a_miniature_is_not_put_beside_the_paper(name: str) -> None:
    quick = load_config(str(PRETRAIN.parent / f"quick/{name}.py"))
    found = read_paper(name, OmegaConf.to_container(quick).get("paper"))
    assert not any(entry.tables for entry in found)
    assert load_config(str(PRETRAIN.parent / f"{name}.py")).paper
