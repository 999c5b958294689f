"""The ten finetuning configs of UODB against the paper's Table 8, appendix D.2 and Table 5."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import StandardROIHeads
from omegaconf import DictConfig, OmegaConf
from torch.optim import SGD

from gppf_d2.data.catalog.uodb import CLASSES
from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
WHOLE, HALF = [[32], [64], [128], [256], [512]], [[16], [32], [64], [128], [256]]
# Table 8: max steps, decay steps, test size, anchor size
TABLE_8 = {
    "kitti": (4000, [3000, 3500], 800, WHOLE),
    "widerface": (26000, [18000, 24000], 800, HALF),
    "pascal_voc": (18000, [12000, 16000], 800, WHOLE),
    "lisa": (18000, [12000, 16000], 800, HALF),
    "dota": (26000, [18000, 24000], 800, WHOLE),
    "watercolor": (1800, [1500, 1700], 800, WHOLE),
    "clipart": (1800, [1500, 1700], 800, WHOLE),
    "comic": (1800, [1500, 1700], 800, WHOLE),
    "kitchen": (13500, [9000, 12000], 800, WHOLE),
    "deeplesion": (50000, [30000, 40000], 512, HALF),
}
# Table 5, line by line, in the order of Table 8; the last column is the mean
TABLE_5 = """
Baseline [78]         64.3 48.8 78.5 88.3 57.5 52.6 31.2 45.8 87.7 51.2 60.6
Baseline(FPN) [9]     67.1 62.1 81.5 90.0 68.3 53.4 31.2 45.5 89.5 57.4 64.6
DA [78]               68.0 51.3 82.4 87.6 56.3 60.6 55.8 53.4 90.0 53.4 65.9
GAIA [9]              72.9 62.6 85.9 91.2 69.2 63.5 67.9 57.0 89.8 59.4 71.9
GAIA-TSAS [9]         75.6 62.7 87.4 92.1 70.8 69.7 72.2 61.1 90.1 62.1 74.4
GPPF-R50(IN21K)       71.3 65.9 87.3 96.2 72.8 56.0 68.3 55.0 95.1 62.5 73.0
GPPF-R50(Objects365)  74.2 66.5 88.4 95.9 71.7 66.4 73.6 61.1 95.8 61.4 75.5
GPPF-R50(Dyfinetune)  76.1 66.2 88.1 96.8 72.0 68.2 77.5 62.0 95.7 62.6 76.5
"""


@functools.cache
def load(name: str) -> DictConfig:
    return load_config(str(CONFIGS / f"finetune/uodb/{name}.py"))


def test_there_is_a_config_and_a_twin_for_every_row() -> None:
    for folder in ("finetune/uodb", "quick/finetune/uodb"):
        assert {path.stem for path in (CONFIGS / folder).glob("*.py")} == set(TABLE_8)


@pytest.mark.parametrize("name", TABLE_8)
def test_table_8(name: str) -> None:
    cfg, (steps, decays, size, anchors) = load(name), TABLE_8[name]
    ((key, task),) = cfg.tasks.items()
    assert (key, cfg.train.max_iter) == (name, steps)
    (evaluation,) = task.evaluators
    (resize,) = evaluation["mapper"].augmentations
    assert resize.short_edge_length == size
    generator = task.head.proposal_generator.anchor_generator
    assert OmegaConf.to_container(generator.sizes) == anchors
    assert list(generator.strides) == [4, 8, 16, 32, 64]  # p2 to p6
    multiplier = instantiate(cfg.lr_multiplier)
    first, second = decays
    found = [multiplier(step / steps) for step in (first - 1, first, second - 1, second)]
    assert found == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", TABLE_8)
def test_d2(name: str) -> None:
    cfg = load(name)
    assert cfg.train.total_batch_size == 16
    assert cfg.optimizer._target_ is SGD
    settings = (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay)
    assert settings == (0.01, 0.9, 4e-5)
    assert cfg.gates.temperature.fraction == 0.5
    assert (cfg.train.init_route, cfg.train.init_head) == ("objects365", "objects365")
    assert not cfg.train.init_predictions


@pytest.mark.parametrize("name", TABLE_8)
def test_the_detector_is_that_of_objects365(name: str) -> None:
    """All but classes and anchors, so that its head loads."""
    cfg = load(name)
    (task,) = setup.build_tasks(cfg).values()
    ours = OmegaConf.to_container(cfg.tasks[name].head)
    theirs = OmegaConf.to_container(_objects365().head)
    assert ours["roi_heads"]["_target_"] is StandardROIHeads
    assert ours["roi_heads"].pop("num_classes") == len(CLASSES[name])
    assert cfg.tasks[name].mapper.num_classes == len(CLASSES[name])
    assert theirs["roi_heads"].pop("num_classes") == 365
    for head in (ours, theirs):
        head["proposal_generator"]["anchor_generator"].pop("sizes")
    assert ours == theirs
    assert task.train == (f"uodb_{name}_train",) and task.filter_empty
    assert [evaluation.dataset for evaluation in task.evaluators] == [f"uodb_{name}_test"]


@functools.cache
def _objects365() -> DictConfig:
    return load_config(str(CONFIGS / "pretrain/gppf_r50.py")).tasks.objects365


def test_training_sizes_go_up_to_the_test_size() -> None:
    for name, longest, smallest in (("kitti", 1333, 640), ("deeplesion", 853, 416)):
        task = load(name).tasks[name]
        resize, flip = task.mapper.augmentations
        size = TABLE_8[name][2]
        assert list(resize.short_edge_length) == list(range(smallest, size + 1, 32))
        (test,) = task.evaluators[0]["mapper"].augmentations
        assert resize.max_size == test.max_size == longest
        assert flip.horizontal is True


def test_table_5() -> None:
    for line in TABLE_5.strip().splitlines():
        row, *texts = line.rsplit(maxsplit=11)
        *values, mean = map(float, texts)
        papers = {name: OmegaConf.to_container(load(name).paper) for name in TABLE_8}
        assert [paper["rows"][row] for paper in papers.values()] == values
        assert sum(values) / 10 == pytest.approx(mean, abs=0.06)
    for paper in papers.values():
        assert (paper["table"], paper["metric"]) == ("Table 5", "voc/AP50")
        assert len(paper["rows"]) == 8
