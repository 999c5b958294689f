"""MuST in miniature: teachers label the miniatures of the official datasets, students learn them.

What differs from the full configs is in ``configs/common/must_toy.py``: widths, image sizes,
batches. The teachers are random networks: what they say means nothing, but it is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from gppf_d2.data import catalog
from gppf_d2.data.pseudo_labels import read_manifest
from gppf_d2.engine.config import config_text, load_config
from gppf_d2.tools import pseudo_label
from tests.engine.pretrained import pretrained
from tests.engine.runs import PROJECT, QUICK, train_config

MUST = QUICK / "must"
TEACHERS = ("imagenet", "objects365", "coco_segments")
STUDENTS = sorted(path.stem for path in (MUST / "students").glob("*.py"))
SETS = ("imagenet_1k_train", "objects365_v2_train", "coco_stuff_164k_sem_seg_train")


@pytest.fixture(scope="module")
def teachers(official_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders of the teachers' twins, without training."""
    runs = tmp_path_factory.mktemp("teachers")
    for name in TEACHERS:
        config = MUST / f"teachers/{name}.py"
        pretrained(config, runs / name / "model_final.pth")
        cfg = load_config(str(config), ["train.device=cpu"])
        (runs / name / "config.yaml").write_text(config_text(cfg))
    return runs


@pytest.fixture(scope="module")
def label(official_root: Path, teachers: Path) -> Callable[[str, str], dict]:
    """Labels a dataset, or a folder, once; returns the labels of the manifest."""

    def run(output: str, what: str) -> dict:
        folder = official_root / "pseudo" / output
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(PROJECT)
            patch.setenv("DETECTRON2_DATASETS", str(official_root))
            status = pseudo_label.main(
                [
                    "--config-file", str(MUST / "labels.py"), "--data-root", str(official_root),
                    *what.split(), f"output={folder}", f"runs.folder={teachers}", "device=cpu",
                ]
            )  # fmt: skip
        assert status == 0
        catalog.pseudo.register(str(official_root))
        return read_manifest(folder)

    return run


def train_student(name: str, root: Path, output: Path, processes: int = 1) -> dict[str, float]:
    """Two steps and the evaluations; the last record of the metrics."""
    train_config(
        MUST / f"students/{name}.py", output, "--data-root", str(root), "train.max_iter=2",
        "train.log_period=1", processes=processes,
    )  # fmt: skip
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    found = {k: v for record in records for k, v in record.items() if k.startswith("loss/")}
    assert found and all(math.isfinite(value) for value in found.values())
    return found


@pytest.mark.timeout(280)
def test_teachers_label_a_dataset_and_a_student_learns_all_labels(
    official_root: Path, label: Callable, tmp_path: Path
) -> None:
    manifest = label("imagenet_1k_train", "dataset=imagenet_1k_train")
    assert set(manifest.labels) == {"classes", "boxes", "segments", "depth"}
    losses = train_student("imagenet", official_root, tmp_path / "run")
    labels = {name.split("/")[2].partition(".")[0] for name in losses} - {"total"}
    assert labels == {"classes", "boxes", "segments", "depth"}
    (results,) = json.loads((tmp_path / "run/results.json").read_text()).values()
    for part in ("imagenet_1k_val/", "objects365_v2_val/", "coco_stuff_164k_sem_seg_val/"):
        assert any(key.startswith(part) for key in results), (part, sorted(results)[:20])


@pytest.fixture(scope="module")
def everything(official_root: Path, label: Callable) -> Path:
    """The official miniatures with all labels that the students' configs want."""
    for name in SETS:
        label(name, f"dataset={name}")
    pictures = official_root / "coco" / "train2017"
    label("pictures", f"dataset= images={pictures}")
    return official_root


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", [name for name in STUDENTS if name != "imagenet"])
def test_every_student_is_trained_and_evaluated(
    everything: Path, tmp_path: Path, name: str
) -> None:
    train_student(name, everything, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_student_learns_beside_labelled_tasks_on_two_ranks(
    everything: Path, tmp_path: Path
) -> None:
    losses = train_student("joint", everything, tmp_path / "run", processes=2)
    assert {name.split("/")[1] for name in losses} <= {"student", "coco", "ade20k"}
    assert json.loads((tmp_path / "run/routes.json").read_text())["num_units"] == 2


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", [*TEACHERS, "nyu_depth"])
def test_every_teacher_is_trained_and_evaluated(
    official_root: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "run"
    train_config(
        MUST / f"teachers/{name}.py", output, "--data-root", str(official_root),
        "train.max_iter=2", processes=2,
    )  # fmt: skip
    assert json.loads((output / "results.json").read_text())
