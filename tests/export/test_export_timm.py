"""A task's route leaves a LegoTimm for timm and for Detectron2's wrapper (I6)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from detectron2 import model_zoo
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from gppf_d2.export.backbone import export_backbone
from gppf_d2.modeling.lego import LegoTimm, TimmBackbone
from gppf_d2.modeling.pretrained import load_pretrained
from gppf_d2.tools.export_backbone import main
from tests.export.test_export_backbone import INPUT, backbone_mismatches, overrides
from tests.export.test_export_swin import save_run
from tests.export.test_stock_training import code_of_card
from tests.modeling.test_lego_timm import FEATURES, randomise, routed

ARGUMENTS = {"test_efficientnet": {}, "test_convnext": {"dims": [24, 32, 48, 72]}}


class Run:
    """A lego, a route of it, and the checkpoint that a run would have written."""

    def __init__(self, folder: Path, model: str) -> None:
        torch.manual_seed(0)
        config = {"model": model, "num_units": 2, "model_args": ARGUMENTS[model]}
        self.model, self.lego = model, randomise(LegoTimm(**config)).eval()
        self.route = [(3 * i + 1) % 5 % 2 for i in range(len(self.lego.layer_names))]
        self.checkpoint = save_run(folder, self.lego, self.route, config)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        return routed(self.lego, self.route, x)


@pytest.fixture(scope="module", params=list(ARGUMENTS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("timm"), request.param)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_i6_route_equals_export_in_timm_by_the_cards_own_code(
    suffix: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = export_backbone(run.checkpoint, "parsing", "timm", tmp_path / f"x{suffix}")
    assert report.metadata["architecture"] == run.model and report.metadata["left_out"] == []
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    card = Path(f"x{suffix}.md").read_text()
    (code,) = code_of_card(tmp_path / f"x{suffix}")
    exec(code, scope)  # that all tensors have their place is asserted in it
    model = scope["model"].eval()
    assert type(model) is type(timm.create_model(run.model))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        given = model.forward_intermediates(x, intermediates_only=True)[-len(FEATURES) :]
    for name, value in zip(FEATURES, given):
        assert torch.equal(value, run.features(x)[name]), name
    assert "nothing of gppf_d2" in card and "TimmBackbone" not in card
    assert scope["normalize"].mean == pytest.approx(
        [v / 255 for v in INPUT["pixel_mean"]], abs=1e-6
    )


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_i6_route_equals_export_in_a_lazy_zoo_config(suffix: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    report = export_backbone(run.checkpoint, "parsing", "detectron2", path)
    assert report.metadata["wrapper"] == "gppf_d2.modeling.lego.TimmBackbone"
    recipe = overrides(path)
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    for key in recipe["lazy_remove"]:
        parent, _, leaf = key.rpartition(".")
        OmegaConf.select(cfg, parent).pop(leaf, None)
    cfg = LazyConfig.apply_overrides(cfg, recipe["lazy"])
    model = nn.ModuleDict({"backbone": instantiate(cfg.model.backbone)}).eval()
    assert type(model["backbone"].bottom_up) is TimmBackbone
    assert backbone_mismatches(model, path) == []
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        given = model["backbone"].bottom_up(x)
        assert list(model["backbone"](x)) == ["p2", "p3", "p4", "p5", "p6"]
    assert all(torch.equal(given[name], value) for name, value in run.features(x).items())
    assert cfg.model.pixel_mean == INPUT["pixel_mean"] and cfg.model.input_format == "RGB"
    assert "gppf_d2 for one class" in Path(f"{path}.md").read_text()


def test_an_export_fills_a_lego_again_and_says_its_pixels(run: Run, tmp_path: Path) -> None:
    for layout, suffix in (("timm", ".safetensors"), ("detectron2", ".pth")):
        path = tmp_path / f"x{suffix}"
        export_backbone(run.checkpoint, "parsing", layout, path)
        lego = LegoTimm(run.model, 1, model_args=ARGUMENTS[run.model]).eval()
        report = load_pretrained(lego, path)
        assert report.pixel_mean == tuple(INPUT["pixel_mean"]) and report.pixels_by == "the file"
        x = torch.randn(1, 3, 64, 64)
        found = routed(lego, [0] * len(run.route), x)
        assert all(torch.equal(found[name], value) for name, value in run.features(x).items())


def test_what_does_not_fit_is_refused_with_one_sentence(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = os.fspath(tmp_path / "x.pth")
    line = ["--checkpoint", str(run.checkpoint), "--task", "parsing", "--output", out, "--format"]
    assert main([*line, "torchvision"]) == 1
    error = capsys.readouterr().err
    assert f"timm's {run.model}, which torchvision does not have; export with" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
    other = {"input": INPUT, "backbone": {"model": "test_resnet"}}
    with pytest.raises(ValueError, match="backbone is timm's test_resnet and the checkpoint's an"):
        export_backbone(run.checkpoint, "parsing", "timm", out, other)
    with pytest.raises(ValueError, match="a LegoTimm and the config's backbone has no model"):
        export_backbone(run.checkpoint, "parsing", "timm", out, {**other, "backbone": {}})
