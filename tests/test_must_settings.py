"""The transfer suite of MuST against the paper's Tables 1, 2, 3, 5 and 6, and its sweeps."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from torch.optim import SGD

from gppf_d2.analysis.results.suite_table import Column, build_table
from gppf_d2.data.catalog import register_all
from gppf_d2.engine import setup
from gppf_d2.engine.config import load_config
from gppf_d2.tools.sweep_plan import Plan, check_overrides, plan_of

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# label, metric, training set; in the paper's order of columns
SETS = {
    "cifar100": ("classes", "classification/top1", "cifar100_trainval"),
    "pascal_detection": ("boxes", "voc/AP50", "uodb_pascal_voc_train"),
    "pascal_segmentation": ("segments", "sem_seg/mIoU", "voc_2012_sem_seg_train"),
    "nyu_depth": ("depth", "depth/delta1", "nyu_depth_train"),
    "ade20k": ("segments", "sem_seg/mIoU", "ade20k_sem_seg_train"),
    "diode_normals": ("normals", "normals/within_11.25", "diode_normals_train"),
}
# Table 1: images, where the catalog knows how many there are
TABLE_1 = {"cifar100": 50_000, "pascal_detection": 16_500, "nyu_depth": 47_000}
PAPER = """
Table 2 | Self-supervised (SimCLR [5]), 800 epochs               | 87.1 83.3 72.2 83.7 41.0 52.8
Table 2 | ImageNet Supervised, 90 epochs                         | 85.4 79.3 70.6 81.0 39.8 48.9
Table 2 | + Multi-task Pseudo Labels, 90 epochs                  | 86.3 85.1 80.6 87.8 43.5 52.7
Table 3 | ImageNet Supervised                                    | 85.4 79.3 70.6 81.0 39.8 48.9
Table 3 | + Depth Pseudo Labels                                  | 84.4 79.3 71.0 86.0 39.5 51.3
Table 3 | + Depth / Segm. Pseudo Labels                          | 85.3 81.6 78.6 87.2 41.5 52.4
Table 3 | + Depth / Segm. / Detection Pseudo Labels              | 86.3 85.1 80.6 87.8 43.5 52.7
Table 5 | Supervised Multi-Task                                  | 85.3 85.1 82.1 87.6 43.9 53.4
Table 5 | Supervised Multi-Task + Pseudo Labels                  | 86.3 86.2 82.3 88.2 45.4 54.7
Table 6 | Self-Supervised with JFT images (SimCLR [5]), 1 epoch  | 85.6 82.4 71.0 83.7 41.4 54.4
Table 6 | Self-Supervised with JFT images (SimCLR [5]), 2 epochs | 85.8 83.7 73.3 84.3 42.2 55.3
Table 6 | Self-Supervised with JFT images (SimCLR [5]), 5 epochs | 86.1 84.1 74.9 84.8 43.0 56.0
Table 6 | JFT supervised, 3 epochs                               | 87.7 84.6 78.2 86.0 43.4 50.7
Table 6 | JFT supervised, 5 epochs                               | 88.6 84.9 79.7 86.1 44.3 51.1
Table 6 | JFT supervised, 10 epochs                              | 89.6 85.2 80.4 86.5 45.7 53.1
Table 6 | Multi-Task Pseudo Labels, 2.5 epochs                   | 87.6 87.8 82.2 89.8 47.0 56.2
Table 6 | JFT supervised + Multi-Task Pseudo Labels, 2 epochs    | 88.3 87.9 82.9 89.5 47.2 56.4
"""


@functools.cache
def load(name: str, *overrides: str) -> DictConfig:
    return load_config(str(CONFIGS / f"must/transfer/{name}.py"), overrides)


def plan(name: str) -> Plan:
    return plan_of(load(name), name)


def test_there_is_a_config_and_a_twin_for_every_column() -> None:
    for folder in ("must/transfer", "quick/must/transfer"):
        assert {path.stem for path in (CONFIGS / folder).glob("*.py")} == set(SETS)


def test_the_table_has_every_row_of_the_four_tables(tmp_path: Path) -> None:
    columns = [Column.of(n, OmegaConf.to_container(load(n)).get("paper")) for n in SETS]
    assert [column.metric for column in columns] == [metric for _, metric, _ in SETS.values()]
    found = {(row["table"], row["name"]): row for row in build_table(tmp_path, columns, [])["rows"]}
    wanted = {}
    for line in PAPER.strip().splitlines():
        table, row, numbers = (part.strip() for part in line.split("|"))
        wanted[table, row] = dict(zip(SETS, map(float, numbers.split())))
        wanted[table, row]["nyu_depth"] = pytest.approx(wanted[table, row]["nyu_depth"] / 100)
    assert {key: row["values"] for key, row in found.items()} == wanted
    assert list(found) == list(wanted)
    assert {row["mean"] for row in found.values()} == {None}  # percent and shares of one


@pytest.mark.parametrize("name", SETS)
def test_the_network_is_the_students_with_one_label_head(name: str) -> None:
    cfg, label = load(name), SETS[name][0]
    ((task, entry),) = cfg.tasks.items()
    student = OmegaConf.to_container(_student().head)
    ours = OmegaConf.to_container(entry.head)
    assert task == name and list(ours["heads"]) == [label]
    assert ours["trunk"] == student["trunk"]
    mine, theirs = ours["heads"][label], student["heads"].get(label)
    if label in ("classes", "segments"):
        mine["num_classes"] = theirs["num_classes"]
    if label == "boxes":
        mine["roi_heads"]["num_classes"] = theirs["roi_heads"]["num_classes"]
    if label in ("depth", "normals"):  # in metres, and a label that no student has
        theirs = student["heads"]["segments"]
        assert all(mine[key] == theirs[key] for key in ("fusion", "convs", "channels", "norm"))
    else:
        assert mine == theirs
    assert (cfg.train.init_route, cfg.train.init_head) == ("student", "student")
    assert not cfg.train.init_predictions and not list(cfg.train.trainable)  # end to end
    assert cfg.backbone.num_units == 1 and cfg.optimizer._target_ is SGD


@functools.cache
def _student() -> DictConfig:
    return load_config(str(CONFIGS / "must/students/imagenet.py")).tasks.student


@pytest.mark.parametrize("name", SETS)
def test_table_1(name: str) -> None:
    register_all()
    (task,) = setup.build_tasks(load(name)).values()
    assert task.train == (SETS[name][2],)
    size = MetadataCatalog.get(SETS[name][2]).get("official_size")
    if name in TABLE_1:
        assert size == pytest.approx(TABLE_1[name], rel=0.03)


@pytest.mark.parametrize("name", SETS)
def test_the_sweep_is_around_the_leaf_s_own_point(name: str) -> None:
    cfg, search = load(name), plan(name)
    assert (search.metric, search.maximize) == (SETS[name][1], True)
    assert [rate / cfg.optimizer.lr for rate in search.grid["lr"]] == [0.25, 0.5, 1, 2, 4]
    assert [steps / cfg.train.max_iter for steps in search.grid["steps"]] == [0.5, 1, 2]
    check_overrides(search, str(CONFIGS / f"must/transfer/{name}.py"), ())
    point = search.points()[0]
    searched = load(name, *search.search, *search.overrides(point))
    assert searched.optimizer.lr == cfg.optimizer.lr / 4
    assert searched.train.max_iter == cfg.train.max_iter // 2
    assert searched.train.total_batch_size == (256 if name == "cifar100" else 16)


@pytest.mark.parametrize("name", SETS)
def test_what_the_search_sees(name: str) -> None:
    """CIFAR-100 has a validation part; elsewhere the last training has at least another seed."""
    search = plan(name)
    searched, final = load(name, *search.search), load(name, *search.final)
    (last,) = final.tasks[name].evaluators
    (seen,) = searched.tasks[name].evaluators
    assert final.tasks[name].train == SETS[name][2] and last == load(name).tasks[name].evaluators[0]
    if name == "cifar100":
        assert searched.tasks[name].train == "cifar100_train"
        assert seen.dataset == seen.evaluator.dataset_name == "cifar100_val"
        assert last.dataset == last.evaluator.dataset_name == "cifar100_test"
    else:
        assert seen == last and searched.train.seed != final.train.seed
        assert "search sees" in " ".join(_header(name).split())


def _header(name: str) -> str:
    return (CONFIGS / f"must/transfer/{name}.py").read_text().split('"""')[1]


def test_the_classes_of_a_students_labels_are_known_from_the_dataset_of_each() -> None:
    cfg = load_config(str(CONFIGS / "must/students/supervised_multi_task.py"))
    found = setup.class_names(setup.build_tasks(cfg))["student"]
    counts = {kind: len(names) for kind, names in found.items()}
    assert counts == {"classes": 1000, "thing_classes": 365, "stuff_classes": 171}


def test_depth_and_normals_are_evaluated_as_usual() -> None:
    depth = load("nyu_depth").tasks.nyu_depth
    evaluator = instantiate(depth.evaluators[0].evaluator)
    assert evaluator is not None and depth.evaluators[0].evaluator.crop == "nyu_eigen"
    assert tuple(depth.head.heads.depth.depth_range) == (1e-3, 10.0)
    assert "alignment" not in depth.evaluators[0].evaluator  # metres, as the network says
