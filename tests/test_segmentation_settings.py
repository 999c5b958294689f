"""Segmentation finetunes and LVIS' second stage: MMSegmentation's numbers, Tables 2 and 3."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.data import transforms as T
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch.optim import SGD

from gppf_d2.engine.config import load_config
from gppf_d2.modeling.heads import ClassBalancedOutputLayers
from gppf_d2.modeling.tta import SemanticTTA

FINETUNE = Path(__file__).resolve().parent.parent / "configs/finetune"
ITERATIONS = {"ade20k": 160_000, "voc": 40_000}
CLASSES = {"ade20k": 150, "voc": 21}
TABLE_3 = {"ade20k": (42.1, 45.3, 45.8), "voc": (76.4, 82.2, 79.9)}
OURS = ("ResNet50, UperNet", "GPPF-R50", "GPPF-SwinT")


@pytest.mark.parametrize("name", ITERATIONS)
def test_mmsegmentations_schedule_and_table_3(name: str) -> None:
    cfg = load_config(str(FINETUNE / f"{name}.py"))
    assert cfg.train.max_iter == ITERATIONS[name] and cfg.train.total_batch_size == 16
    optimizer = cfg.optimizer
    assert optimizer._target_ is SGD
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.01, 0.9, 5e-4)
    rate = instantiate(cfg.lr_multiplier)
    assert isinstance(rate, PolynomialDecayParamScheduler)
    assert [rate(t) for t in (0.0, 0.25)] == pytest.approx([1.0, 0.75**0.9])
    (task,) = cfg.tasks.values()
    crops = [a for a in task.mapper.augmentations if "crop_size" in a]
    assert [tuple(a.crop_size) for a in crops] == [(512, 512)]
    assert any(a._target_ is T.RandomFlip for a in task.mapper.augmentations)
    assert task.evaluators[0]["tta"] is None  # as in Table 3
    assert task.head.sem_seg_head.num_classes == CLASSES[name]
    assert task.head.sem_seg_head.auxiliary_weight == 0.4
    assert (cfg.train.init_route, cfg.train.init_head) == (name, name)
    assert cfg.backbone.num_units == 1
    assert cfg.paper.metric == "sem_seg/mIoU" and cfg.paper.table == "Table 3"
    assert [cfg.paper.rows[row] for row in OURS] == list(TABLE_3[name])
    assert None not in cfg.paper.rows.values()


def test_test_time_augmentation_is_one_override() -> None:
    override = "tasks.ade20k.evaluators.0.tta={_target_: gppf_d2.modeling.tta.SemanticTTA}"
    cfg = load_config(str(FINETUNE / "ade20k.py"), [override])
    tta = instantiate(cfg.tasks.ade20k.evaluators[0]["tta"])
    assert isinstance(tta, SemanticTTA) and tta.flip and len(tta.scales) == 6


def test_lvis_second_stage_trains_the_classification_layer_alone_and_balances() -> None:
    cfg = load_config(str(FINETUNE / "lvis_classifier.py"))
    predictor = cfg.tasks.lvis.head.roi_heads.box_predictor
    assert predictor._target_ is ClassBalancedOutputLayers and predictor.beta == 0.999
    assert predictor.class_counts.datasets == cfg.tasks.lvis.train == "lvis_v1_train"
    assert list(cfg.train.trainable) == ["heads.lvis.roi_heads.box_predictor.*cls_score.*"]
    assert (cfg.train.init_route, cfg.train.init_head) == ("lvis", "lvis")
    assert cfg.train.init_predictions and not cfg.tasks.lvis.repeat_threshold
    assert cfg.train.max_iter == pytest.approx(12 * 99_388 / 64, rel=1e-3)
    rows = {"GPPF-R50": 37.4, "GPPF-SwinT": 36.8, "Copy-Paste [29], ResNet-50": 34.2}
    assert cfg.paper.metric == "bbox/AP"
    assert {row: cfg.paper.rows[row] for row in rows} == rows
