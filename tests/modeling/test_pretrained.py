"""Plain checkpoints of every common origin go into all units of a lego ResNet, or are refused."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from safetensors.torch import save_file
from torch import Tensor, nn

from gppf_d2.modeling.layouts import to_layout
from gppf_d2.modeling.lego import Gate, LegoResNet
from gppf_d2.modeling.pretrained import load_pretrained, stride_in_1x1

FEATURES = ("res2", "res3", "res4", "res5")


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm statistics and an affine of its own, so that a swapped tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1 and not name.startswith("fc."):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75)
            if name.endswith(("running_mean", "bias")):
                tensor.sub_(1.0)
    return model.eval()


def detectron2_resnet(depth: int, stride_in_1x1: bool = False, norm: str = "BN") -> ResNet:
    extra = {"stride_in_1x1": stride_in_1x1} if depth >= 50 else {}
    stages = ResNet.make_default_stages(depth=depth, norm=norm, **extra)
    return ResNet(BasicStem(norm=norm), stages, out_features=list(FEATURES)).eval()


def features(model: nn.Module, x: Tensor) -> list[Tensor]:
    """res2 to res5 of a torchvision or timm ResNet."""
    x = model.maxpool(torch.relu(model.bn1(model.conv1(x))))
    found = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        found.append(x)
    return found


def caffe2_name(name: str) -> str:
    """The name that Caffe2's ImageNet files give to a tensor of a Detectron2 ResNet."""
    name = re.sub(r"^stem\.conv1\.norm\.", "res.conv1.norm.", name)
    name = re.sub(r"^stem\.", "", name).replace(".shortcut.", ".branch1.")
    for index, letter in (("1", "a"), ("2", "b"), ("3", "c")):
        name = re.sub(rf"^(res\d\.\d+)\.conv{index}\.", rf"\1.branch2{letter}.", name)
    name = name.replace("norm.running_mean", "bn.rm").replace("norm.running_var", "bn.riv")
    name = name.replace("norm.weight", "bn.s").replace("norm.bias", "bn.b")
    return name.replace(".weight", ".w").replace(".", "_")


def write_caffe2(path: Path, state: dict[str, Tensor], statistics: bool = True) -> Path:
    arrays = {
        caffe2_name(name): tensor.numpy()
        for name, tensor in state.items()
        if "num_batches" not in name and (statistics or "running" not in name)
    }
    extra = {"fc1000_w": torch.ones(2, 2).numpy(), "conv1_w_momentum": torch.ones(1).numpy()}
    path.write_bytes(pickle.dumps({**arrays, **extra, "conv1_b": torch.zeros(64).numpy()}))
    return path


@pytest.fixture(scope="module")
def lego18() -> LegoResNet:
    return LegoResNet(depth=18, num_units=3, norm="BN")


@pytest.fixture(scope="module")
def lego50() -> LegoResNet:
    return LegoResNet(depth=50, num_units=2)


@pytest.fixture(scope="module")
def source18() -> nn.Module:
    return randomise_norms(torchvision.models.resnet18())


def every_unit_holds(lego: nn.Module, state: dict[str, Tensor]) -> None:
    """Each unit of ``lego`` has exactly the tensors of ``state`` (Detectron2's names)."""
    seen = set()
    for key, tensor in lego.state_dict().items():
        name = re.sub(r"\.units\.\d+", "", key)
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name]), key
            seen.add(name)
    assert seen == {name for name in state if not name.endswith("num_batches_tracked")}


WAYS_TO_SAVE: dict[str, Callable[[dict[str, Tensor], Path], Path]] = {}


def way(function: Callable[[dict[str, Tensor], Path], Path]) -> Callable:
    WAYS_TO_SAVE[function.__name__] = function
    return function


def renamed(state: dict[str, Tensor], layout: str, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + to_layout(name, layout): tensor for name, tensor in state.items()}


@way
def torchvision_flat_pth(state: dict[str, Tensor], folder: Path) -> Path:
    torch.save({**renamed(state, "torchvision"), "fc.weight": torch.ones(2)}, folder / "w.pth")
    return folder / "w.pth"


@way
def timm_safetensors(state: dict[str, Tensor], folder: Path) -> Path:
    save_file({**renamed(state, "timm"), "fc.weight": torch.ones(2)}, folder / "w.safetensors")
    return folder / "w.safetensors"


@way
def data_parallel_under_state_dict(state: dict[str, Tensor], folder: Path) -> Path:
    named = {**renamed(state, "timm", "module."), "module.fc.weight": torch.ones(2)}
    torch.save({"epoch": 3, "state_dict": named}, folder / "w.pth")
    return folder / "w.pth"


@way
def detectron2_detector_pth(state: dict[str, Tensor], folder: Path) -> Path:
    named = renamed(state, "detectron2", "backbone.bottom_up.")
    named["backbone.fpn_lateral2.weight"] = torch.ones(2)
    torch.save({"model": named, "iteration": 7}, folder / "w.pth")
    return folder / "w.pth"


@way
def detectron2_zoo_pkl(state: dict[str, Tensor], folder: Path) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    arrays["fc.weight"] = torch.ones(2).numpy()
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (folder / "w.pkl").write_bytes(pickle.dumps(content))
    return folder / "w.pkl"


@pytest.mark.parametrize("save", WAYS_TO_SAVE.values(), ids=WAYS_TO_SAVE)
def test_every_layout_fills_all_units(save: Callable, lego18: LegoResNet, tmp_path: Path) -> None:
    state = randomise_norms(detectron2_resnet(18), seed=len(save.__name__)).state_dict()
    report = load_pretrained(lego18, save(state, tmp_path))
    every_unit_holds(lego18, state)
    assert report.missing == report.unexpected == report.identity == ()
    assert len(report.ignored) == 1 and report.ignored[0].endswith(".weight")
    assert len(report.matched) == len(state)
    assert (report.num_units, report.architecture) == (3, "ResNet-18")
    assert report.stride_in_1x1 is None
    assert "ignored: " in str(report) and "missing: " not in str(report)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_real_models_give_the_same_features_through_any_route(
    library: str, depth: int, lego18: LegoResNet, lego50: LegoResNet, tmp_path: Path
) -> None:
    lego = lego18 if depth == 18 else lego50
    if library == "timm":
        source = timm.create_model(f"resnet{depth}", pretrained=False)
    else:
        source = getattr(torchvision.models, f"resnet{depth}")()
    source = randomise_norms(source, seed=depth)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = load_pretrained(lego, tmp_path / "w.pth")
    assert report.missing == report.unexpected == ()
    assert sorted(report.ignored) == ["fc.bias", "fc.weight"]

    lego.eval()
    gates = [Gate.single(layer % 2) for layer in range(len(lego.layer_names))]
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, given = features(source, x), lego([x], gates, FEATURES)[0][0]
    for name, feature in zip(FEATURES, wanted):
        torch.testing.assert_close(given[name], feature, rtol=1e-5, atol=1e-5)


def test_caffe2_weights_equal_detectron2s_own_loading(tmp_path: Path) -> None:
    source = randomise_norms(detectron2_resnet(50, True, "FrozenBN"))
    stock = detectron2_resnet(50, True, "FrozenBN")
    lego = LegoResNet(depth=50, num_units=1, norm="FrozenBN", stride_in_1x1=True)
    for statistics in (True, False):
        path = write_caffe2(tmp_path / "w.pkl", source.state_dict(), statistics)
        DetectionCheckpointer(stock).load(str(path))
        report = load_pretrained(lego, path)
        every_unit_holds(lego, stock.state_dict())
        assert report.layout == "caffe2" and report.pixel_format == "BGR"
        assert report.unexpected == ("stem.conv1.bias",) and report.missing == ()
        assert report.ignored == ("fc1000.weight",)
        assert len(report.identity) == (0 if statistics else 2 * 53)
        fresh = detectron2_resnet(50, True, "FrozenBN")
        stock.load_state_dict(fresh.state_dict())


def test_noise_separates_the_units_and_depends_on_its_keys_alone(
    lego18: LegoResNet, source18: nn.Module, tmp_path: Path
) -> None:
    torch.save(source18.state_dict(), tmp_path / "w.pth")

    def load(**options: float) -> dict[str, Tensor]:
        torch.rand(7)  # the global generator plays no part
        load_pretrained(lego18, tmp_path / "w.pth", **options)
        return {name: tensor.clone() for name, tensor in lego18.state_dict().items()}

    first, again, other = load(noise=0.1, seed=3), load(noise=0.1, seed=3), load(noise=0.1, seed=4)
    plain = load()
    for name, tensor in first.items():
        noisy = tensor.dim() == 4 and ".units.0." not in name
        assert torch.equal(tensor, again[name]), name
        assert torch.equal(tensor, plain[name]) != noisy, name
        assert torch.equal(tensor, other[name]) != noisy, name
        if noisy:
            relative = (tensor - plain[name]).std() / plain[name].std()
            assert 0.09 < relative < 0.11, name
    one, two = first["res3.0.units.1.conv1.weight"], first["res3.0.units.2.conv1.weight"]
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match="noise is -0.1"):
        load(noise=-0.1)


def test_a_stride_in_the_other_convolution_is_refused(lego50: LegoResNet, tmp_path: Path) -> None:
    source = detectron2_resnet(50)
    caffe2 = write_caffe2(tmp_path / "msra.pkl", source.state_dict())
    vision = torchvision_flat_pth(source.state_dict(), tmp_path)
    zoo = tmp_path / "zoo.pkl"
    arrays = {f"backbone.bottom_up.{n}": t.numpy() for n, t in source.state_dict().items()}
    zoo.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    in_1x1 = LegoResNet(depth=50, num_units=1, norm="BN", stride_in_1x1=True)
    assert stride_in_1x1(in_1x1) and not stride_in_1x1(lego50)

    before = {name: tensor.clone() for name, tensor in lego50.state_dict().items()}
    for path in (caffe2, zoo):
        with pytest.raises(ValueError, match="BGR.*in the 1x1 convolution.*stride_in_1x1=True"):
            load_pretrained(lego50, path)
        assert load_pretrained(in_1x1, path).stride_in_1x1 is True
    with pytest.raises(ValueError, match="RGB.*in the 3x3 convolution.*stride_in_1x1=False"):
        load_pretrained(in_1x1, vision)
    assert all(torch.equal(t, before[name]) for name, t in lego50.state_dict().items())
    load_pretrained(lego50, caffe2, allow_stride_mismatch=True)
    every_unit_holds(lego50, source.state_dict())


def test_bad_files_are_refused_with_one_sentence_and_nothing_written(
    lego18: LegoResNet, source18: nn.Module, tmp_path: Path
) -> None:
    state = source18.state_dict()
    good = tmp_path / "good.pth"
    torch.save(state, good)
    content = good.read_bytes()
    wrong_shape = {**state, "layer2.0.conv2.weight": torch.ones(1, 1, 3, 3)}
    lego_state = {f"backbone.{name}": t for name, t in lego18.state_dict().items()}
    unsafe = {"state_dict": state, "args": Path("x")}
    for name, data in {
        "shape.pth": wrong_shape, "lego.pth": {"model": lego_state}, "unsafe.pth": unsafe,
        "list.pth": [1, 2], "cnn.pth": {"features.0.weight": torch.ones(1)},
        "deeper.pth": torchvision.models.resnet34().state_dict(),
    }.items():  # fmt: skip
        torch.save(data, tmp_path / name)
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "half.pkl").write_bytes(pickle.dumps({"model": {}, "__author__": "x"})[:9])
    (tmp_path / "half.safetensors").write_bytes(b"\x10")
    (tmp_path / "w.onnx").write_bytes(b"")
    cases = {
        "shape.pth": r"'res3.0.conv2.weight' has the shape \(1, 1, 3, 3\).*\(128, 128, 3, 3\)",
        "lego.pth": "lego checkpoint.*export_backbone",
        "unsafe.pth": "cannot be read as plain weights",
        "list.pth": "a list instead of a state dict",
        "cnn.pth": "no plain ResNet",
        "deeper.pth": "ResNet-34 and the lego is a ResNet-18; set backbone.depth=34",
        "half.pth": "truncated",
        "half.pkl": "truncated",
        "half.safetensors": "truncated",
        "w.onnx": r"suffix '.onnx'; weights are read from .pth",
        "absent.pth": "no weights file",
    }
    before = {name: tensor.clone() for name, tensor in lego18.state_dict().items()}
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_pretrained(lego18, tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in lego18.state_dict().items())
    with pytest.raises(ValueError, match="Linear has no lego layers"):
        load_pretrained(nn.Linear(1, 1), good)


def test_what_is_missing_or_unknown_is_reported(
    lego18: LegoResNet, source18: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = dict(source18.state_dict())
    del state["layer4.1.bn2.running_var"], state["bn1.num_batches_tracked"]
    state["layer1.0.se.fc.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "w.pth")
    kept = lego18.state_dict()["res5.1.units.1.conv2.norm.running_var"].clone()
    report = load_pretrained(lego18, tmp_path / "w.pth")
    assert report.missing == ("res5.1.conv2.norm.running_var",)
    assert report.unexpected == ("layer1.0.se.fc.weight",)
    assert torch.equal(lego18.state_dict()["res5.1.units.1.conv2.norm.running_var"], kept)
    assert any(r.levelname == "WARNING" and "missing: res5.1" in r.message for r in caplog.records)
