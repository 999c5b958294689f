"""A task's route leaves a checkpoint and computes the same in the real libraries (I6)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_backbone, build_model
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from gppf_d2.export.backbone import export_backbone
from gppf_d2.export.route import route_of
from gppf_d2.modeling.lego.resnet import LegoResNet
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.pretrained import load_pretrained
from gppf_d2.tools.export_backbone import main
from tests.modeling.test_pretrained import features, randomise_norms

FEATURES = ("res2", "res3", "res4", "res5")
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
INPUT = {
    "pixel_format": "RGB",
    "pixel_mean": [120.0, 115.5, 105.25],
    "pixel_std": [58.0, 57.0, 56.5],
}


@dataclass
class Run:
    """A model with a decided controller, and the checkpoint that a run would have written."""

    model: MultiTaskModel
    route: list[int]
    state: dict[str, Tensor]
    checkpoint: Path
    config: dict[str, Any]

    def routed(self, x: Tensor) -> dict[str, Tensor]:
        """Features of the lego backbone itself, following the task's controller."""
        with torch.no_grad():
            return self.model.features("parsing", [x], FEATURES, training=False)[0]


def make_run(folder: Path, depth: int, num_units: int = 2, **options: Any) -> Run:
    lego = LegoResNet(depth=depth, num_units=num_units, **options)
    randomise_norms(lego, seed=depth)
    model = MultiTaskModel(lego, ["parsing", "scenes"]).eval()
    layers = len(lego.layer_names)
    route = [(3 * layer + 1) % 5 % num_units for layer in range(layers)]
    model.controllers["parsing"].data[range(layers), route] = 4.0
    state = dict(model.state_dict())
    config = {"input": INPUT, "backbone": {"depth": depth, "num_units": num_units, **options}}
    checkpoint = folder / f"model_{depth:07d}.pth"
    text = OmegaConf.to_yaml(OmegaConf.create(config))
    torch.save({"model": state, "format": 1, "iteration": 5, "config": text}, checkpoint)
    return Run(model, route, state, checkpoint, config)


@pytest.fixture(scope="module")
def run18(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run18"), 18)


@pytest.fixture(scope="module")
def run50(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run50"), 50)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class RecordingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which only logs what did not match."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        self.incompatible = incompatible


def backbone_mismatches(model: nn.Module, path: Path) -> list[str]:
    """Load as Detectron2's trainer does; the keys of the backbone that did not match."""
    checkpointer = RecordingCheckpointer(model)
    checkpointer.load(str(path))
    found = checkpointer.incompatible
    lost = [name for name in found.missing_keys if name.startswith("backbone.bottom_up.")]
    return lost + list(found.unexpected_keys) + [row[0] for row in found.incorrect_shapes]


def overrides(path: Path) -> dict[str, Any]:
    return json.loads(Path(f"{path}.json").read_text())["overrides"]


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_i6_route_equals_export_in_a_stock_mask_rcnn(
    suffix: str, run50: Run, image: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / f"backbone{suffix}"
    export_backbone(run50.checkpoint, "parsing", "detectron2", path)
    cfg = model_zoo.get_config(MASK_RCNN)
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(overrides(path)["yacs"])
    model = build_model(cfg).eval()
    assert backbone_mismatches(model, path) == []
    with torch.no_grad():
        given = model.backbone.bottom_up(image)
    wanted = run50.routed(image)
    assert list(given) == list(FEATURES)
    for name in FEATURES:
        assert torch.equal(given[name], wanted[name]), name
    assert model.input_format == cfg.INPUT.FORMAT == "RGB"
    assert model.pixel_mean.flatten().tolist() == INPUT["pixel_mean"]
    assert model.pixel_std.flatten().tolist() == INPUT["pixel_std"]


def test_without_its_overrides_the_zoo_model_loads_and_is_wrong(
    run50: Run, image: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "backbone.pkl"
    export_backbone(run50.checkpoint, "parsing", "detectron2", path)
    cfg = model_zoo.get_config(MASK_RCNN)
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "ProposalNetwork"
    model = build_model(cfg).eval()
    assert all(name.endswith("tracked") for name in backbone_mismatches(model, path))
    with torch.no_grad():
        given = model.backbone.bottom_up(image)["res5"]
    assert not torch.allclose(given, run50.routed(image)["res5"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("depth", [18, 50])
def test_i6_route_equals_export_in_a_lazy_zoo_config(
    depth: int, run18: Run, run50: Run, image: Tensor, tmp_path: Path
) -> None:
    run, path = (run18 if depth == 18 else run50), tmp_path / "backbone.pkl"
    export_backbone(run.checkpoint, "parsing", "detectron2", path)
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    recipe = overrides(path)
    for key in recipe["lazy_remove"]:
        parent, _, leaf = key.rpartition(".")
        del OmegaConf.select(cfg, parent)[leaf]
    cfg = LazyConfig.apply_overrides(cfg, recipe["lazy"])
    model = nn.ModuleDict({"backbone": instantiate(cfg.model.backbone)}).eval()
    assert backbone_mismatches(model, path) == []
    with torch.no_grad():
        given = model["backbone"].bottom_up(image)
    for name, wanted in run.routed(image).items():
        assert torch.equal(given[name], wanted), name
    assert cfg.model.input_format == "RGB"
    assert cfg.dataloader.test.mapper.image_format == "RGB"
    assert cfg.model.pixel_mean == INPUT["pixel_mean"]


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_i6_route_equals_export_in_torchvision_and_timm(
    library: str, depth: int, run18: Run, run50: Run, image: Tensor, tmp_path: Path
) -> None:
    run = run18 if depth == 18 else run50
    path = tmp_path / ("weights.pth" if library == "timm" else "weights.safetensors")
    report = export_backbone(run.checkpoint, "parsing", library, path)
    if library == "timm":
        model = timm.create_model(f"resnet{depth}", num_classes=0, checkpoint_path=str(path))
    else:
        model = getattr(torchvision.models, f"resnet{depth}")()
        found = model.load_state_dict(load_file(path), strict=False)
        assert found.missing_keys == ["fc.weight", "fc.bias"] and not found.unexpected_keys
    with torch.no_grad():
        given = features(model.eval(), image)
    for name, feature in zip(FEATURES, given):
        torch.testing.assert_close(feature, run.routed(image)[name], rtol=1e-5, atol=1e-5)
    recipe = report.metadata["overrides"]
    assert recipe["mean"] == pytest.approx([value / 255 for value in INPUT["pixel_mean"]], abs=1e-6)
    assert recipe["std"] == pytest.approx([value / 255 for value in INPUT["pixel_std"]], abs=1e-6)


@pytest.mark.parametrize("depth", [18, 50])
def test_plain_weights_come_back_unchanged(depth: int, tmp_path: Path) -> None:
    source = randomise_norms(getattr(torchvision.models, f"resnet{depth}")())
    torch.save(source.state_dict(), tmp_path / "source.pth")
    lego = LegoResNet(depth=depth, num_units=2)
    load_pretrained(lego, tmp_path / "source.pth")
    config = {"input": INPUT, "backbone": {"depth": depth}}
    path = tmp_path / "out.safetensors"

    def export(layout: str) -> None:
        state = {f"backbone.{name}": tensor for name, tensor in lego.state_dict().items()}
        state["controllers.objects"] = torch.randn(len(lego.layer_names), 2)
        torch.save({"model": state}, tmp_path / "run.pth")
        export_backbone(tmp_path / "run.pth", "objects", layout, path, config)

    export("detectron2")
    report = load_pretrained(lego, path)  # which knows the files of this package
    assert report.stride_in_1x1 is (False if depth == 50 else None)
    assert report.pixel_format == "RGB" and report.missing == report.unexpected == ()
    export("torchvision")
    back = load_file(path)
    wanted = {n: t for n, t in source.state_dict().items() if not n.startswith("fc.")}
    assert back.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(back[name], tensor) or name.endswith("num_batches_tracked"), name


def test_route_is_the_argmax_in_natural_layer_order_and_says_where_it_is_undecided(
    run18: Run,
) -> None:
    route = route_of(run18.state, "parsing")
    assert route.layers == tuple(run18.model.backbone.layer_names)
    assert list(route.units) == run18.route and route.undecided == ()
    assert min(route.probabilities) > 0.98
    assert list(route.units) == run18.model.routes()["parsing"]["route"]
    assert route_of(run18.model, "parsing") == route
    fresh = route_of(run18.state, "scenes")
    assert fresh.undecided == fresh.layers and set(fresh.probabilities) == {0.5}
    deep = {f"backbone.res4.{block}.units.0.conv1.weight": torch.ones(1) for block in range(12)}
    deep |= {
        "backbone.stem.units.0.conv1.weight": torch.ones(1),
        "controllers.a": torch.ones(13, 1),
    }
    assert route_of(deep, "a").layers == ("stem", *(f"res4.{block}" for block in range(12)))
    assert route_of(deep, "a").undecided == ()  # one unit has nothing to decide


def test_i6_route_equals_export_of_a_resnext(image: Tensor, tmp_path: Path) -> None:
    run = make_run(tmp_path, 50, num_units=1, num_groups=32, width_per_group=4)
    export_backbone(run.checkpoint, "parsing", "torchvision", tmp_path / "x.pth")
    model = torchvision.models.resnext50_32x4d().eval()
    found = model.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True), strict=False)
    assert found.missing_keys == ["fc.weight", "fc.bias"] and not found.unexpected_keys
    with torch.no_grad():
        given, wanted = features(model, image)[-1], run.routed(image)["res5"]
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)

    export_backbone(run.checkpoint, "parsing", "detectron2", tmp_path / "x.pkl")
    assert overrides(tmp_path / "x.pkl")["lazy"] is None  # make_default_stages cannot express it
    cfg = model_zoo.get_config(MASK_RCNN)
    cfg.merge_from_list(overrides(tmp_path / "x.pkl")["yacs"])
    stock = nn.ModuleDict({"backbone": build_backbone(cfg)}).eval()
    assert backbone_mismatches(stock, tmp_path / "x.pkl") == []
    with torch.no_grad():
        assert torch.equal(stock["backbone"].bottom_up(image)["res5"], wanted)


@pytest.mark.parametrize("options", [{"norm": "FrozenBN"}, {"eps": 1e-2}], ids=str)
def test_other_norm_settings_still_fit_stock_batch_norm(
    options: dict[str, Any], image: Tensor, tmp_path: Path
) -> None:
    run = make_run(tmp_path, 18, **options)
    export_backbone(run.checkpoint, "parsing", "timm", tmp_path / "x.pth")
    weights = torch.load(tmp_path / "x.pth", weights_only=True)
    model = timm.create_model("resnet18", num_classes=0).eval()
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        given = features(model, image)[-1]
    torch.testing.assert_close(given, run.routed(image)["res5"], rtol=1e-4, atol=1e-4)
    assert set(weights) == set(model.state_dict())  # the counters too


def test_averaged_parameters_and_fixed_routes_are_taken_on_request(
    run18: Run, tmp_path: Path
) -> None:
    content = torch.load(run18.checkpoint, weights_only=True)
    with pytest.raises(ValueError, match="no averaged parameters"):
        export_backbone(run18.checkpoint, "parsing", "timm", tmp_path / "x.pth", ema=True)
    parameters = dict(run18.model.named_parameters())
    average = {name: parameter.detach() + 1 for name, parameter in parameters.items()}
    torch.save({**content, "ema": {"average": average, "updates": 1}}, tmp_path / "ema.pth")
    for ema in (False, True):
        export_backbone(tmp_path / "ema.pth", "parsing", "timm", tmp_path / "x.pth", ema=ema)
        given = torch.load(tmp_path / "x.pth", weights_only=True)["conv1.weight"]
        wanted = run18.state[f"backbone.stem.units.{run18.route[0]}.conv1.weight"]
        assert torch.equal(given, wanted + ema)

    route = [1] * len(run18.route)
    fixed = MultiTaskModel(run18.model.backbone, ["parsing"], fixed_routes={"parsing": route})
    assert route_of(fixed, "parsing").units == tuple(route)
    assert route_of(fixed, "parsing").undecided == ()


def test_a_lego_with_its_stride_in_the_1x1_goes_to_detectron2_only(tmp_path: Path) -> None:
    run = make_run(tmp_path, 50, num_units=1, stride_in_1x1=True)
    for layout in ("torchvision", "timm"):
        with pytest.raises(ValueError, match=f"stride_in_1x1=True, and {layout}"):
            export_backbone(run.checkpoint, "parsing", layout, tmp_path / "out.pth")
    export_backbone(run.checkpoint, "parsing", "detectron2", tmp_path / "out.pth")
    recipe = overrides(tmp_path / "out.pth")["yacs"]
    assert recipe[recipe.index("MODEL.RESNETS.STRIDE_IN_1X1") + 1] is True
    straight = LegoResNet(depth=50, num_units=1, norm="BN")
    with pytest.raises(ValueError, match="in the 1x1 convolution"):
        load_pretrained(straight, tmp_path / "out.pth")


def test_bad_input_is_refused_with_one_sentence(run18: Run, tmp_path: Path) -> None:
    good, out = run18.checkpoint, tmp_path / "out.pth"
    half, plain, bare, normless = (tmp_path / f"{name}.pth" for name in ("half", "a", "b", "c"))
    half.write_bytes(good.read_bytes()[:100_000])
    torch.save(torchvision.models.resnet18().state_dict(), plain)
    torch.save({"model": run18.state}, bare)
    kept = {n: t for n, t in run18.state.items() if "running" not in n and "tracked" not in n}
    torch.save({"model": kept}, normless)
    odd = {**INPUT, "pixel_std": None}
    unresolved = OmegaConf.create({**run18.config, "input": {**INPUT, "pixel_std": "${nowhere}"}})
    deeper = {**run18.config, "backbone": {"depth": 34}}
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((good, "cooking", "timm", out), "Unknown task 'cooking'; .* parsing, scenes"),
        ((good, "parsing", "keras", out), "'keras'; choose one of detectron2, torchvision, timm"),
        ((good, "parsing", "timm", tmp_path / "out.pkl"), "'.pkl'; the format timm .*.safetensors"),
        ((tmp_path / "no.pth", "parsing", "timm", out), "There is no checkpoint"),
        ((half, "parsing", "timm", out), "truncated"),
        ((plain, "parsing", "timm", out), "not a gppf_d2 checkpoint"),
        ((bare, "parsing", "timm", out), "does not hold its config; give --config-file"),
        ((bare, "parsing", "timm", out, {"input": INPUT}), "no backbone"),
        ((bare, "parsing", "timm", out, {"input": {}, "backbone": {}}), "no pixel_format"),
        ((bare, "parsing", "timm", out, {**run18.config, "backbone": 18}), "backbone is 18"),
        ((bare, "parsing", "timm", out, unresolved), "input cannot be resolved"),
        ((bare, "parsing", "timm", out, {**run18.config, "input": odd}), "pixel_std is None"),
        ((normless, "parsing", "timm", out, run18.config), "only one with batch norm"),
        ((bare, "parsing", "timm", out, deeper), "a ResNet-34 and the checkpoint's a ResNet-18"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            export_backbone(*arguments)
        assert "\n" not in str(caught.value)
    assert not out.exists() and not Path(f"{out}.json").exists()


def test_a_failed_write_leaves_the_old_files_as_they_were(
    run18: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "out.pth"
    export_backbone(run18.checkpoint, "parsing", "timm", out)
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    assert {path.name for path in before} == {"out.pth", "out.pth.json", "out.pth.md"}

    def half_written(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("gppf_d2.export.backbone.torch.save", half_written)
    with pytest.raises(OSError, match="No space"):
        export_backbone(run18.checkpoint, "scenes", "timm", out)
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


def test_command_line_reads_the_config_from_file_or_checkpoint(
    run18: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    common = ["--checkpoint", str(run18.checkpoint), "--format", "timm", "--output", str(out)]
    assert main([*common, "--task", "parsing"]) == 0
    printed = capsys.readouterr().out
    assert "11.2 M parameters" in printed and "UNDECIDED" not in printed
    assert main([*common, "--task", "scenes"]) == 0
    assert "UNDECIDED in 9 of 9 layers" in capsys.readouterr().out

    config = tmp_path / "config.py"
    config.write_text(
        f"input = {INPUT!r}\nbackbone = dict(depth=18)\ninput['pixel_format'] = 'BGR'"
    )
    assert main([*common, "--task", "parsing", "--config-file", str(config)]) == 0
    assert json.loads(Path(f"{out}.json").read_text())["pixel_format"] == "BGR"
    config.write_text("this is not Python")
    for path in (config, tmp_path / "absent.py"):
        assert main([*common, "--task", "parsing", "--config-file", str(path)]) == 1
        error = capsys.readouterr().err
        assert path.name in error and error.count("\n") == 1


def test_command_line_ends_without_a_traceback(run18: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gppf_d2.tools.export_backbone", "--task", "cooking"]
    command += ["--checkpoint", str(run18.checkpoint), "--format", "detectron2"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "x.pkl")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith("export_backbone: Unknown task 'cooking'")
    )
