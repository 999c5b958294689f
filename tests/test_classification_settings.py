"""Every number of the paper's appendix D.2 on classification, against the twelve configs."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch.optim import SGD
from torchvision.transforms import v2

from gppf_d2.data.batch_transforms import MixUpCutMix
from gppf_d2.data.catalog.classification import METRICS, classes_of
from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config
from gppf_d2.modeling.lego import LegoResNet
from gppf_d2.tools.sweep_plan import Plan

FINETUNE = Path(__file__).resolve().parent.parent / "configs/finetune"
IMAGENET = ("imagenet_1k", "imagenet_1k_scratch")
# classes, metric, row GPPF-R50(IN21K) of Table 7
SETS = {
    "food101": (101, "top1", 87.7),
    "cifar10": (10, "top1", 97.9),
    "cifar100": (100, "top1", 87.1),
    "sun397": (397, "top1", 64.3),
    "cars": (196, "top1", 91.8),
    "aircraft": (100, "mean_per_class", 89.0),
    "dtd": (47, "top1", 77.2),
    "pets": (37, "mean_per_class", 92.3),
    "caltech101": (102, "mean_per_class", 95.1),
    "flowers": (102, "mean_per_class", 98.4),
}
# Table 7, the other rows, in the order of SETS
OTHERS = {
    "Random init [15]": (86.9, 95.9, 80.2, 53.6, 91.4, 85.9, 64.8, 81.5, 72.6, 92.0),
    "ImageNet1K[15]": (88.3, 97.5, 86.4, 64.3, 92.1, 86.0, 74.6, 92.1, 93.3, 97.6),
    "SimCLR [15]": (88.2, 97.7, 85.9, 63.5, 91.3, 88.1, 73.2, 89.2, 92.1, 97.0),
    "BYOL [32]": (88.5, 97.8, 86.1, 63.7, 91.6, 88.1, 76.2, 91.7, 93.8, 97.0),
}


@functools.cache
def load(name: str, *overrides: str) -> DictConfig:
    folder = "" if name in IMAGENET else "classification/"
    return load_config(str(FINETUNE / f"{folder}{name}.py"), overrides)


def plan_of(cfg: DictConfig) -> Plan:
    return Plan.of(OmegaConf.to_container(cfg.sweep, resolve=True), "config")


def test_table_7_has_a_config_for_every_set() -> None:
    assert {path.stem for path in FINETUNE.glob("classification/*.py")} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_the_rows_of_table_7(name: str) -> None:
    paper = load(name).paper
    rows = {row: values[list(SETS).index(name)] for row, values in OTHERS.items()}
    assert paper.rows == {**rows, "GPPF-R50(IN21K)": SETS[name][2]}
    assert paper.table == "Table 7" and paper.metric == f"classification/{SETS[name][1]}"
    assert METRICS[name] == SETS[name][1]


@pytest.mark.parametrize("name", [*SETS, *IMAGENET])
def test_the_network_is_a_plain_resnet_50_around_one_linear_layer(name: str) -> None:
    cfg = load(name)
    assert cfg.backbone._target_ is LegoResNet
    assert (cfg.backbone.depth, cfg.backbone.num_units) == (50, 1)
    (task,) = setup.build_tasks(cfg)
    classes = 1000 if name in IMAGENET else SETS[name][0]
    assert task == ("imagenet_1k" if name in IMAGENET else name)
    assert cfg.tasks[task].head.num_classes == cfg.tasks[task].mapper.num_classes == classes
    assert name in IMAGENET or len(classes_of(name)) == classes
    temperature = instantiate(cfg.gates.temperature)
    found = [temperature.at(it, 1000) for it in (0, 250, 500, 1000)]
    assert found == pytest.approx([5.0, 2.505, 0.01, 0.01])


@pytest.mark.parametrize("name", SETS)
def test_d2_small_sets(name: str) -> None:
    cfg = load(name)
    assert cfg.optimizer._target_ is SGD and cfg.optimizer.momentum == 0.9
    assert (cfg.train.max_iter, cfg.train.total_batch_size) == (20_000, 256)
    assert cfg.train.init_route == "in21k" and cfg.train.init_head == ""
    multiplier = instantiate(cfg.lr_multiplier)
    wanted = [0.5 * (1 + math.cos(math.pi * where)) for where in (0.0, 0.5, 1.0)]
    assert [multiplier(where) for where in (0.0, 0.5, 1.0)] == pytest.approx(wanted)
    task = cfg.tasks[name]
    assert task.train == f"{name}_trainval" and task.evaluators[0].dataset == f"{name}_test"
    assert task.get("batch_transform") is None and task.head.label_smoothing == 0.0


@pytest.mark.parametrize("name", SETS)
def test_d2_only_crops_and_flips(name: str) -> None:
    task = load(name).tasks[name]
    crop, flip = instantiate(task.mapper).transform.transforms
    assert isinstance(crop, v2.RandomResizedCrop) and tuple(crop.size) == (224, 224)
    assert isinstance(flip, v2.RandomHorizontalFlip) and flip.p == 0.5
    resize, center = instantiate(task.evaluators[0].mapper).transform.transforms
    assert isinstance(resize, v2.Resize) and resize.size == [256]  # the shorter side
    assert isinstance(center, v2.CenterCrop) and tuple(center.size) == (224, 224)


@pytest.mark.parametrize("name", SETS)
def test_d2_grid(name: str) -> None:
    cfg = load(name)
    plan = plan_of(cfg)
    assert plan.metric == cfg.paper.metric and plan.maximize
    rates, decays = plan.grid["lr"], plan.grid["weight_decay"]
    assert len(rates) == 7 and len(decays) == 8 and decays[0] == 0.0
    assert (rates[0], rates[-1]) == pytest.approx((1e-6, 0.1))
    assert (decays[1], decays[-1]) == pytest.approx((1e-6, 1e-3))
    for values in (rates, decays[1:]):
        steps = [math.log10(b / a) for a, b in zip(values, values[1:])]
        assert steps == pytest.approx([steps[0]] * 6)
    point = {"lr": rates[2], "weight_decay": decays[3]}
    searched = load(name, *plan.search, *plan.overrides(point))
    assert searched.optimizer.lr == rates[2]
    assert searched.optimizer.weight_decay == pytest.approx(decays[3] / rates[2])
    task = searched.tasks[name]
    assert task.train == f"{name}_train"
    assert task.evaluators[0].dataset == task.evaluators[0].evaluator.dataset_name == f"{name}_val"
    trained = load(name, *plan.final, *plan.overrides(point)).tasks[name]
    assert trained.train == f"{name}_trainval" and trained.evaluators[0].dataset == f"{name}_test"
    # the leaf's own point is one of the grid
    assert cfg.optimizer.lr in rates
    assert cfg.optimizer.weight_decay in [decay / cfg.optimizer.lr for decay in decays]


@pytest.mark.parametrize("name", IMAGENET)
def test_d2_imagenet_1k(name: str) -> None:
    cfg = load(name)
    scratch = name.endswith("scratch")
    assert cfg.optimizer._target_ is SGD
    settings = cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay
    assert settings == (0.1 if scratch else 0.01, 0.9, 1e-4)
    assert cfg.train.total_batch_size == 2048
    assert cfg.train.max_iter * 2048 / 1_281_167 == pytest.approx(300, abs=1e-3)
    assert bool(cfg.train.init_checkpoint) == (not scratch)
    assert cfg.train.init_route == ("" if scratch else "in21k")
    multiplier = instantiate(cfg.lr_multiplier)
    values = [multiplier(epoch / 300) for epoch in (10, 20, 160, 300)]
    assert values[0] == pytest.approx(values[1] / 2, rel=0.01)
    cosine = [0.5 * (1 + math.cos(math.pi * epoch / 300)) for epoch in (20, 160, 300)]
    assert values[1:] == pytest.approx(cosine)
    task = cfg.tasks.imagenet_1k
    mixing = instantiate(task.batch_transform)
    assert isinstance(mixing, MixUpCutMix)
    assert (mixing.mixup_alpha, mixing.cutmix_alpha) == (0.8, 1.0)
    assert task.head.label_smoothing == 0.1
    transforms = instantiate(task.mapper).transform.transforms
    assert {type(t).__name__: t for t in transforms}["NoiseErasing"].p == 0.25
    assert task.train == "imagenet_1k_train"
    assert task.evaluators[0].dataset == "imagenet_1k_val"


def test_the_rows_of_table_6() -> None:
    for name in IMAGENET:
        paper = load(name).paper
        assert (paper.table, paper.metric) == ("Table 6", "classification/top1")
        assert paper.rows == {
            "Scratch(repro)": 78.12, "R50(all) [54]": 78.8, "SupCon [46]": 78.7,
            "GPPF-R50(IN21K)": 79.18, "GPPF-R50(Dyfinetune)": 79.04,
        }  # fmt: skip
