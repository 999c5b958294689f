"""Depth finetuning against the paper's appendix D.2 and Table 4, and BTS' settings for KITTI."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch.optim import SGD

from gppf_d2.data.catalog import register_all
from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config
from gppf_d2.evaluation import DepthEvaluator
from gppf_d2.evaluation.depth import METRICS
from gppf_d2.modeling.heads import BTSHead
from gppf_d2.modeling.lego import LegoResNet

CONFIG = Path(__file__).resolve().parent.parent / "configs/finetune/kitti_depth.py"


@pytest.fixture(scope="module")
def cfg() -> DictConfig:
    return load_config(str(CONFIG))


def test_d2_optimisation(cfg: DictConfig) -> None:
    assert cfg.train.total_batch_size == 32
    assert cfg.train.max_iter == 30_000
    assert cfg.tasks.kitti.loss_weight == 0.1
    assert cfg.optimizer._target_ is SGD
    settings = cfg.optimizer.lr, cfg.optimizer.weight_decay, cfg.optimizer.momentum
    assert settings == (0.01, 1e-8, 0.9)
    multiplier = instantiate(cfg.lr_multiplier)
    found = [multiplier(step / 30_000) for step in (500, 1000, 15_000, 30_000)]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 30_000)) for step in (1000, 15_000, 30_000)]
    assert found[0] == pytest.approx(0.5, abs=0.01)  # half of the 1,000 iterations of warm-up
    assert found[1:] == pytest.approx(cosine, abs=1e-6)
    temperature = instantiate(cfg.gates.temperature)
    values = [temperature.at(it, 30_000) for it in (0, 15_000, 30_000)]
    assert values == pytest.approx([5.0, 0.01, 0.01])


def test_d2_stochastic_depth(cfg: DictConfig) -> None:
    backbone = instantiate({**cfg.backbone, "num_units": 1})
    assert isinstance(backbone, LegoResNet) and backbone.depth == 50
    assert backbone.drop_path_rates == pytest.approx([0.4 * i / 15 for i in range(16)])


def test_the_head_and_the_data_are_those_of_bts(cfg: DictConfig) -> None:
    (task,) = setup.build_tasks(cfg).values()
    head = cfg.tasks.kitti.head
    assert head._target_ is BTSHead and head.channels == 512
    assert (head.min_depth, head.max_depth, head.focal_reference) == (1.0, 80.0, 715.0873)
    window, turn, crop, flip, colors = instantiate(cfg.tasks.kitti.mapper).augmentations.augs
    assert window.size == (352, 1216)
    assert list(turn.angle) == [-1.0, 1.0] and turn.expand is False
    assert (crop.crop_type, tuple(crop.crop_size)) == ("absolute", (352, 704))
    assert flip.prob == 0.5
    assert (colors.probability, colors.gamma) == (0.5, (0.9, 1.1))
    assert colors.brightness == colors.color == (0.9, 1.1)
    assert task.loss_weight == 0.1


def test_evaluation_is_gargs_crop_up_to_80_metres(cfg: DictConfig) -> None:
    register_all()
    (evaluation,) = cfg.tasks.kitti.evaluators
    assert evaluation["dataset"] == "kitti_eigen_test"
    settings = evaluation["evaluator"]
    assert settings._target_ is DepthEvaluator
    assert (settings.crop, settings.min_depth, settings.max_depth) == ("garg", 1e-3, 80.0)
    instantiate(settings)
    (window,) = instantiate(evaluation["mapper"]).augmentations.augs
    assert window.size == (352, 1216)


def test_the_rows_of_table_4(cfg: DictConfig) -> None:
    """The seven metrics are in the header; one stands for the table."""
    rows = dict(cfg.paper.rows)
    assert cfg.paper.table == "Table 4" and cfg.paper.metric == f"depth/{METRICS[0]}"
    text = CONFIG.read_text().split('"""')[1]
    told = {}
    for line in text.splitlines():
        numbers = line.split()[-7:]
        if len(numbers) == 7 and all(part.replace(".", "").isdigit() for part in numbers):
            told[" ".join(line.split()[:-7])] = [float(part) for part in numbers]
    assert {name: numbers[0] for name, numbers in told.items()} == rows
    assert told["GPPF-R50(COCO)"] == [0.965, 0.996, 0.999, 0.057, 0.180, 2.252, 0.088]
    assert told["GPPF-R50(Dyfinetune)"] == [0.966, 0.995, 0.999, 0.065, 0.224, 2.382, 0.094]
    assert rows["GPPF-R50(COCO)"] > rows["ImageNet"] > rows["Scratch"] and len(rows) == 13
    assert cfg.train.init_route == "coco"
