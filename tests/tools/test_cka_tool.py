"""The cka tool: runs, weights and functions beside one another; wrong calls; several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torchvision.models.resnet import Bottleneck

from gppf_d2.analysis.similarity.features import Layers
from gppf_d2.analysis.similarity.similarity import Network, Similarity
from gppf_d2.engine.config import config_text, load_config
from gppf_d2.engine.setup import build_model, build_tasks
from gppf_d2.export.backbone import export_backbone
from gppf_d2.modeling.lego import LegoSwin
from gppf_d2.tools import cka
from gppf_d2.tools.cka_models import load_networks

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs" / "quick" / "mini_r18.py"
SMALL = ["backbone.stem_out_channels=4", "backbone.res2_out_channels=8", "input.pixel_format=BGR"]
TASKS = ["objects", "scenes", "boxes", "parsing", "depth"]
FUNCTIONS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from gppf_d2.modeling.lego import LegoResNet

@dataclass
class Size:
    stem: int = 4

def fresh():
    torch.manual_seed(5)
    return LegoResNet(18, 1, "BN", stem_out_channels=Size().stem, res2_out_channels=8)

def nothing():
    return 3

def broken():
    raise RuntimeError("no such weights")
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run/ with a checkpoint of all tasks, images/, route.pth, and functions.py."""
    root = tmp_path_factory.mktemp("cka")
    run = root / "run"
    run.mkdir()
    cfg = load_config(str(CONFIG), SMALL)
    (run / "config.yaml").write_text(config_text(cfg))
    model = build_model(cfg, build_tasks(cfg), held=[])
    layers, units = model.controllers["objects"].shape
    generator = torch.Generator().manual_seed(0)
    for task in TASKS:
        model.controllers[task].data = torch.randn(layers, units, generator=generator)
    state = {"model": dict(model.state_dict()), "format": 1, "iteration": 5}
    torch.save({**state, "config": config_text(cfg)}, run / "model_final.pth")
    export_backbone(run / "model_final.pth", "scenes", "detectron2", root / "route.pth")
    (root / "functions.py").write_text(FUNCTIONS)
    random = np.random.default_rng(0)
    (root / "images" / "more").mkdir(parents=True)
    for index in range(10):
        pixels = random.integers(0, 255, (20 + index, 24, 3), dtype=np.uint8)
        folder = root / "images" / ("more" if index % 2 else "")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def call(world: Path, *models: object, options: str = "") -> int:
    """Call the tool on small images; what stands in ``options`` comes last."""
    fixed = f"--images {world / 'images'} --size 32 --batch-size 5 --workers 0 --device cpu"
    return cka.main([*map(str, models), *fixed.split(), *options.split()])


def test_a_route_a_file_with_it_and_a_fresh_network_are_compared(
    world: Path, capsys: pytest.CaptureFixture
) -> None:
    models = f"{world}/run:scenes", f"{world}/route.pth", f"new={world}/functions.py:fresh"
    assert call(world, *models) == 0
    folder = world / "run" / "cka"
    found = Similarity.read(folder / "scenes+route+new.images.32.linear.json")
    assert found.names == ("scenes", "route", "new") and found.dataset == "images"
    assert (found.images, found.batch_size, found.passes, found.size) == (10, 5, 1, 32)
    assert [one.iteration for one in found.networks] == [5, None, None]
    assert found.same_layers("scenes", "route") == pytest.approx(1, abs=1e-6)
    assert found.same_layers("scenes", "new") < 0.999
    names = {path.name for path in (folder / "scenes+route+new.images.32.linear").glob("*.png")}
    pairs = {"scenes-route.png", "scenes-new.png", "route-new.png"}
    assert names == {"scenes.png", "route.png", "new.png"} | pairs
    with Image.open(folder / "scenes+route+new.images.32.linear.png") as picture:
        picture.load()
    printed = capsys.readouterr().out
    score = f"{found.blocks['new'].score:.3f}"
    assert f"{found.same_layers('scenes', 'new'):.3f}" in printed and score in printed


def test_a_run_alone_is_all_its_tasks(world: Path, tmp_path: Path) -> None:
    options = f"--output {tmp_path} --kernel rbf --bandwidth 2 --passes 2 --layers stem,res5.*"
    assert call(world, f"{world}/run/model_final.pth", options=options) == 0
    (path,) = (tmp_path / "cka").glob("*.json")
    content = json.loads(path.read_text())
    assert [one["name"] for one in content["models"]] == TASKS
    assert content["models"][0]["layers"] == ["stem", "res5.0", "res5.1"]
    assert (content["images"], content["passes"], content["bandwidth"]) == (10, 2, 2.0)


def test_networks_of_one_name_are_told_apart(world: Path) -> None:
    twin = world / "twin"
    twin.mkdir(exist_ok=True)
    for name in ("config.yaml", "model_final.pth"):
        (twin / name).unlink(missing_ok=True)
        (twin / name).symlink_to(world / "run" / name)
    loaded = load_networks([f"{world}/run:boxes", f"{twin}:boxes", f"mine={twin}:depth"])
    assert [one.name for one in loaded.networks] == ["run:boxes", "twin:boxes", "mine"]
    assert loaded.run == world / "run"
    assert loaded.networks[0].pixels.pixel_format == "BGR"
    named = load_networks([f"all={world}/run"], pattern="stem").networks
    assert [one.name for one in named] == [f"all:{task}" for task in TASKS]
    assert named[0].root is named[1].root, "the model is loaded once"


def test_a_run_may_have_an_equals_sign_in_its_name(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "lr=0.1").symlink_to(world / "run")
    monkeypatch.chdir(world)
    names = [load_networks([text], "stem").networks[0].name for text in ("lr=0.1:boxes", "lr=0.1")]
    assert names == ["boxes", "objects"]
    assert load_networks(["mine=lr=0.1:boxes"], "stem").networks[0].name == "mine"


def test_a_network_without_a_block_is_told_so() -> None:
    alike = Similarity(
        networks=(Network("flat", ("a", "b", "c")),), matrix=np.ones((3, 3)), kernel="linear",
        bandwidth=None, images=4, batch_size=4, passes=1, size=8, dataset="made",
    )  # fmt: skip
    assert cka.tell(alike).splitlines()[-1].split() == ["flat", "0.000", "none"]


def last_layer(network: Layers, x: torch.Tensor) -> torch.Tensor:
    """What the last layer gives of normalised images."""
    found: list[torch.Tensor] = []

    def keep(*call) -> None:
        found.append(call[-1][0][0])

    with torch.no_grad(), network.modules[network.names[-1]].register_forward_hook(keep):
        network.root.eval()
        network.run(x)
    return found[0]


@torch.no_grad()
def test_weights_show_their_structure(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 64, 64)
    blocks = {"groups": 2, "width_per_group": 4}
    resnext = torchvision.models.resnet.ResNet(Bottleneck, [3, 4, 6, 3], **blocks).eval()
    torch.save(resnext.state_dict(), tmp_path / "resnext.pth")
    (network,) = load_networks([f"{tmp_path}/resnext.pth"]).networks
    stem = resnext.maxpool(resnext.relu(resnext.bn1(resnext.conv1(x))))
    wanted = resnext.layer4(resnext.layer3(resnext.layer2(resnext.layer1(stem))))
    assert torch.allclose(last_layer(network, x), wanted, atol=1e-4)

    sizes = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
    swin = LegoSwin("T", 1, drop_path_rate=0.0, **sizes).build_route([0] * 6, None).eval()
    torch.save(swin.state_dict(), tmp_path / "swin.pth")
    (network,) = load_networks([f"{tmp_path}/swin.pth"]).networks
    assert network.names == ("stem", "p0.0", "p1.0", "p2.0", "p2.1", "p3.0")
    normed = swin.norm3(last_layer(network, x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(normed, swin(x)["p3"], atol=1e-5)

    convnext = timm.create_model("convnext_atto", pretrained=False).eval()
    torch.save(convnext.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="another model of timm is named with --timm-model"):
        load_networks([f"{tmp_path}/other.pth"])
    (network,) = load_networks([f"{tmp_path}/other.pth"], timm_model="convnext_atto").networks
    assert torch.allclose(last_layer(network, x), convnext.stages(convnext.stem(x)), atol=1e-4)


def test_a_wrong_call_ends_with_one_sentence(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, functions = world / "run", world / "functions.py"
    (tmp_path / "empty").mkdir()
    for models, options, said in (
        (["nowhere"], "", "'nowhere' is neither a run folder, nor a weights file"),
        ([tmp_path], "", "There is no run in"),
        ([f"{run}:nix"], "", "has no task 'nix'; it has objects"),
        ([f"{functions}:nix"], "", "has no function 'nix'; write FILE.py:function"),
        ([f"{functions}:nothing"], "", "gave a int; it must be a function"),
        ([f"{functions}:broken"], "", "RuntimeError: no such weights"),
        ([f"{functions}:fresh", f"{functions}:fresh"], "", "put NAME= before all but one"),
        ([f"{functions}:fresh"], "--layers foo", "--layers 'foo' fits no layer of 'fresh'"),
        ([f"{functions}:fresh"], "--batch-size 3", "--batch-size is 3; give a number of 4 or"),
        ([f"{functions}:fresh"], "--size 0", "--size is 0"),
        ([f"{functions}:fresh"], "--bandwidth -1", "--bandwidth is -1"),
        ([f"{functions}:fresh"], "--bandwidth 2", "--bandwidth is of the rbf kernel"),
        ([f"{functions}:fresh"], "--workers -1", "--workers is -1"),
        ([f"{functions}:fresh"], "--device abacus", "device is 'abacus'; allowed are"),
        ([f"{functions}:fresh"], "--data-root nix", "--data-root 'nix' is not a folder"),
        ([f"{functions}:fresh"], "--timm-model resnet18", "no file has weights of it"),
        ([f"{functions}:fresh"], "--images nix", "--images 'nix' is not a folder"),
        ([f"{functions}:fresh"], f"--images {tmp_path}/empty", "holds no image"),
        ([world / "nix.pth"], "", "There is no weights file"),
    ):
        status = call(world, *models, options=f"{options} --output {tmp_path}")
        heard = capsys.readouterr().err
        assert status == 2 and said in heard and heard.count("\n") == 1, heard


def test_an_image_that_cannot_be_read_is_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes((world / "images" / "0.png").read_bytes())
    (tmp_path / "2.png").write_bytes(b"torn")
    options = f"--images {tmp_path} --output {tmp_path / 'out'}"
    assert call(world, f"{world}/functions.py:fresh", options=options) == 1
    heard = capsys.readouterr().err
    assert "2.png" in heard and heard.count("\n") == 1
    assert not list((tmp_path / "out" / "cka").iterdir())


@pytest.mark.slow
def test_two_processes_find_what_one_finds(world: Path, tmp_path: Path) -> None:
    """Also with fewer batches than processes: who has none joins."""
    command = ["-m", "gppf_d2.tools.cka", f"{world}/run:scenes", f"{world}/functions.py:fresh"]
    command += ["--images", str(world / "images"), "--size", "32", "--kernel", "rbf"]
    command += ["--workers", "1", "--device", "cpu", "--batch-size"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    for size in ("5", "10"):
        for name, how in (("one", []), ("two", torchrun)):
            done = subprocess.run(
                [sys.executable, *how, *command, size, "--output", str(tmp_path / name)],
                env=environment, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        one, two = (next((tmp_path / name / "cka").glob("*.json")) for name in ("one", "two"))
        assert one.read_text() == two.read_text()
