"""An exported backbone trains in Detectron2, torchvision and timm with the code of its card."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gppf_d2.export.backbone import export_backbone
from tests.engine.runs import environment
from tests.export.stock_training import probe_image
from tests.export.test_export_backbone import INPUT, Run, make_run
from tests.export.test_export_swin import ROUTE, TINY, routed, save_run
from tests.modeling.lego_models import tiny_swin
from tests.modeling.test_pretrained import features

SCRIPT = Path(__file__).parent / "stock_training.py"
DATA = """
from detectron2.data.datasets import register_coco_instances

for split in ("train", "val"):
    register_coco_instances(
        f"toys_{{split}}", {{}},
        f"{root}/mini/coco/annotations/instances_{{split}}2017.json",
        f"{root}/mini/coco/{{split}}2017",
    )
"""
LAZY = """
dataloader.train.dataset.names, dataloader.test.dataset.names = "toys_train", "toys_val"
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.mapper.augmentations = dataloader.test.mapper.augmentations = []
dataloader.evaluator.output_dir = train.output_dir = "run"
model.roi_heads.num_classes = 8
model.backbone.bottom_up.freeze_at = 0
model.proposal_generator.post_nms_topk = (50, 50)
model.roi_heads.box_predictor.test_topk_per_image = 5
model.roi_heads.box_predictor.test_score_thresh = 0.0
train.device, train.max_iter, train.eval_period, train.log_period = "cpu", {iterations}, 1000, 1
"""
YACS = """
cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("toys_train",), ("toys_val",)
cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 0, 2, {iterations}
cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.BACKBONE.FREEZE_AT = "cpu", 8, 0
cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.0, 5
cfg.OUTPUT_DIR = "run"
"""


def code_of_card(path: Path) -> list[str]:
    """The pieces of Python in the card of an export."""
    return re.findall(r"```python\n(.*?)```", Path(f"{path}.md").read_text(), re.DOTALL)


def train_in_stock_detectron2(
    way: str, run: Run, folder: Path, root: Path, suffix: str, iterations: int
) -> None:
    """Export, write the card's code and the data's into a config, train, and check the outcome."""
    path = folder / f"backbone{suffix}"
    export_backbone(run.checkpoint, "parsing", "detectron2", path)
    code = code_of_card(path)[0 if way == "lazy" else 1]
    data = (LAZY if way == "lazy" else YACS).format(iterations=iterations)
    (folder / "config.py").write_text(code + DATA.format(root=root) + data)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), way, "config.py"], cwd=folder, env=environment(),
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    check_loading_log((folder / "run" / "log.txt").read_text(), path)
    given = torch.load(folder / "run" / "first_features.pth", weights_only=True)
    for name, wanted in run.routed(probe_image()).items():
        assert torch.equal(given[name], wanted), name
    metrics = [json.loads(line) for line in (folder / "run/metrics.json").open()]
    losses = [line["total_loss"] for line in metrics if "total_loss" in line]
    assert losses and all(loss == loss for loss in losses)
    results = json.loads((folder / "results.json").read_text())
    assert "AP50" in results["bbox"]  # of masks too, where anything was detected
    trained = torch.load(folder / "run" / "model_final.pth", weights_only=False)["model"]
    before = dict(torch.load(path, weights_only=True)["model"]) if suffix == ".pth" else {}
    for name, tensor in before.items():  # all of it is trained, and none of it was lost on the way
        assert trained[f"backbone.bottom_up.{name}"].shape == tensor.shape
        if name.endswith("conv1.weight"):
            assert not torch.equal(trained[f"backbone.bottom_up.{name}"], tensor), name


def check_loading_log(log: str, path: Path) -> None:
    """What the checkpointer says about the backbone: all of it found, nothing left over."""
    assert f"Loading from {path.name}" in log
    assert "Following weights matched with submodule backbone.bottom_up" in log
    missing = re.search(r"not found in the checkpoint:\n((?:\S.*\n)*?)(?=\[|\Z)", log)
    assert missing and "proposal_generator" in missing.group(1), "heads start fresh, and it says so"
    assert "bottom_up" not in missing.group(1)
    assert "not used by the model" not in log and "will not be loaded" not in log


@pytest.fixture(scope="module")
def run18(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run18"), 18)


def test_a_lazy_config_of_the_card_trains_in_stock_detectron2(
    run18: Run, tmp_path: Path, mini_root: Path
) -> None:
    train_in_stock_detectron2("lazy", run18, tmp_path, mini_root, ".pth", iterations=1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("way", ["lazy", "yacs"])
def test_a_resnet_50_trains_in_stock_detectron2(
    way: str, suffix: str, tmp_path: Path, mini_root: Path
) -> None:
    run = make_run(tmp_path, 50)
    train_in_stock_detectron2(way, run, tmp_path, mini_root, suffix, iterations=4)


@pytest.mark.parametrize(
    ("library", "name"), [("torchvision", "weights.safetensors"), ("timm", "weights.pth")]
)
def test_the_code_of_the_card_finetunes_in_torchvision_and_timm(
    library: str, name: str, run18: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_backbone(run18.checkpoint, "parsing", library, tmp_path / name)
    (code,) = code_of_card(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code, scope)  # strict loading is in it
    model: nn.Module = scope["model"]
    with torch.no_grad():
        given = features(model.eval(), probe_image())[-1]
    wanted = run18.routed(probe_image())["res5"]
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)
    mean = torch.tensor(INPUT["pixel_mean"]).view(3, 1, 1) / 255
    assert scope["normalize"](mean.expand(3, 2, 2)).abs().max() < 1e-5

    classifier = nn.Sequential(model, nn.Linear(512, 2)).train()
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(classifier(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_code_of_the_card_builds_a_swin(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lego = tiny_swin(2).float().eval()
    export_backbone(
        save_run(tmp_path, lego, ROUTE, {"size": "T", **TINY}), "parsing", library,
        tmp_path / "weights.pth",
    )  # fmt: skip
    (code,) = code_of_card(tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code, scope)
    model, x = scope["model"].eval(), torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        given = model.norm(model.features(x)) if library == "torchvision" else None
        given = model.forward_features(x) if given is None else given
    wanted = routed(lego, x)["p3"]
    torch.testing.assert_close(given.permute(0, 3, 1, 2), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "timm", "detectron2"])
def test_the_code_of_the_card_builds_a_resnext_and_reads_safetensors(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"num_groups": 32, "width_per_group": 4} if library != "detectron2" else {}
    run, path = make_run(tmp_path, 50, **wide), tmp_path / "weights.safetensors"
    export_backbone(run.checkpoint, "parsing", library, path)
    (code,) = code_of_card(path)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code, scope)
    model = scope["model"].eval()
    with torch.no_grad():
        if library == "detectron2":
            given = model.backbone.bottom_up(probe_image())["res5"]
        else:
            given = features(model, probe_image())[-1]
    torch.testing.assert_close(given, run.routed(probe_image())["res5"], rtol=1e-5, atol=1e-5)
