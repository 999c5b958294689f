"""Similarity of layers: what networks hand out, what is made of it, what is drawn and told."""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from gppf_d2.analysis import page
from gppf_d2.analysis.figures import DARK, LIGHT
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.analysis.similarity.features import (
    Layers,
    Pixels,
    default_layers,
    module_layers,
    route_layers,
)
from gppf_d2.analysis.similarity.figures import (
    OUTLINED,
    pair_figure,
    similarity_figure,
    stages_of,
)
from gppf_d2.analysis.similarity.images import SquareImages, plan_batches, read_batches
from gppf_d2.analysis.similarity.section import similarity_section
from gppf_d2.analysis.similarity.similarity import (
    FOLDER,
    Network,
    Similarity,
    accumulate,
    choose_kernel,
    kernels_of,
)
from gppf_d2.modeling.lego import LegoResNet
from gppf_d2.modeling.multitask import MultiTaskModel

CPU = torch.device("cpu")
NARROW = {"stem_out_channels": 4, "res2_out_channels": 8}
ROUTE = [0, 1, 1, 0, 1, 0, 0, 1, 1]


def pictures(count: int = 8, seed: int = 0) -> Tensor:
    """RGB uint8 [count, 3, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)


def outputs_of(network: Layers, images: Tensor) -> list[Tensor]:
    """What all layers give."""
    found: dict[int, Tensor] = {}
    network(images, lambda index, x: found.__setitem__(index, x.clone()))
    return [found[index] for index in range(len(network.names))]


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    made = MultiTaskModel(LegoResNet(18, 2, "BN", **NARROW), ["boxes", "depth"])
    made.controllers["boxes"].data[range(9), ROUTE] = 3.0
    for index, task in enumerate(made.controllers):
        made.controllers[task].data[:, index] += 0.1
    return made


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(1)
    block = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(4)]
    return nn.Sequential(*block)


def test_a_route_hands_out_the_outputs_of_its_units(model: MultiTaskModel) -> None:
    model.train()
    images, pixels = pictures(), Pixels("BGR", (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    network = route_layers(model, "boxes", "net", pixels)
    assert network.names == model.backbone.layer_names
    found = outputs_of(network, images)
    x = images.flip(1).float()
    x = (x - torch.tensor(pixels.pixel_mean)[:, None, None]) / torch.tensor(pixels.pixel_std)[
        :, None, None
    ]
    model.eval()
    with torch.no_grad():
        for layer, unit, features in zip(model.backbone.layers, ROUTE, found):
            x = layer.units[unit](x)
            assert torch.equal(features, x)


def test_networks_run_in_evaluation_mode_without_gradients(small: nn.Module) -> None:
    small.train()
    before = small[0][1].running_mean.clone()
    found = outputs_of(module_layers(small, "net", Pixels(), "[03].1"), pictures())
    assert torch.equal(small[0][1].running_mean, before)
    assert len(found) == 2 and not found[0].requires_grad
    assert not small[0][1]._forward_hooks, "hooks stay behind"


def test_a_network_that_does_not_run_on_the_images_is_named(small: nn.Module) -> None:
    small[3][0] = nn.Conv2d(5, 3, 3)
    with pytest.raises(
        ValueError, match=r"^'net' does not run on \d+ images of .* try another --size"
    ):
        outputs_of(module_layers(small, "net", Pixels(), "0.1"), pictures())
    assert not small[0][1]._forward_hooks


def test_features_of_earlier_layers_are_not_kept(small: nn.Module) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def take(_: int, features: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(features))
        most = max(most, sum(one() is not None for one in alive))

    module_layers(small, "net", Pixels(), "*")(pictures(), take)
    assert len(alive) == 4 and most <= 2  # the layer's own output and what it was given


@pytest.mark.parametrize(
    ("build", "first", "second", "count"),
    [
        (torchvision.models.resnet18, "maxpool", "layer1.0", 9),
        (lambda: LegoResNet(50, 1).build_plain(), "stem", "res2.0", 17),
        (torchvision.models.efficientnet_b0, "features.0", "features.1.0", 17),
        ("convnext_atto", "stem", "stages.0.blocks.0", 13),
        ("vit_tiny_patch16_224", "pos_drop", "blocks.0", 13),
    ],
)
def test_blocks_of_usual_networks_are_found(build, first: str, second: str, count: int) -> None:
    with torch.device("meta"):
        if isinstance(build, str):
            import timm

            build = timm.create_model(build, pretrained=False)
        else:
            build = build()
    names = default_layers(build)
    assert names[:2] == [first, second] and len(names) == count


def test_layers_are_chosen_by_pattern(model: MultiTaskModel) -> None:
    names = route_layers(model, "boxes", "net", Pixels(), "stem,res[35].1").names
    assert names == ("stem", "res3.1", "res5.1")
    with pytest.raises(ValueError, match=r"'res2' fits no layer of 'net'; it has stem, res2\.0"):
        route_layers(model, "boxes", "net", Pixels(), "res2")
    with pytest.raises(ValueError, match="'nix'; choose one of boxes, depth"):
        route_layers(model, "nix", "net", Pixels())


def test_layers_that_cannot_be_compared_are_named() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.idle, self.words = nn.ReLU(), nn.ReLU(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            self.words({"x": x})
            return self.act(self.act(x))

    for pattern, sentence in (
        ("act", "'act' of 'net' runs 2 times"),
        ("idle", "'idle' of 'net' runs 0 times"),
        ("words", "'words' of 'net' does not give features of the 8 images"),
    ):
        with pytest.raises(ValueError, match=sentence):
            outputs_of(module_layers(Twice(), "net", Pixels(), pattern), pictures())
    with pytest.raises(ValueError, match="Twice without blocks in a row; say with --layers"):
        module_layers(Twice(), "net")
    with pytest.raises(ValueError, match="'net' has 2 units in a layer and no route"):
        module_layers(LegoResNet(18, 2, **NARROW), "net")


def test_all_batches_together_hold_every_image_once_a_pass() -> None:
    batches = plan_batches(total=50, count=30, batch_size=8, passes=2, seed=3)
    assert [len(batch) for batch in batches] == [8, 8, 8, 6] * 2
    first, second = sum(batches[:4], []), sum(batches[4:], [])
    assert len(set(first)) == 30 and set(first) == set(second) and first != second
    assert max(first) < 50 and sorted(first) != list(range(30))
    assert batches == plan_batches(50, 30, 8, 2, seed=3) != plan_batches(50, 30, 8, 2, seed=4)
    assert [len(batch) for batch in plan_batches(11, 100, 8)] == [8], "three images are no batch"
    for wrong, word in (((3, 9, 8), "3 images"), ((9, 9, 3), "--batch-size"), ((9, 2, 8), "count")):
        with pytest.raises(ValueError, match=word):
            plan_batches(*wrong)


def test_images_become_squares_and_damaged_ones_are_named(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    records = [{"file_name": str(tmp_path / name)} for name in ("wide.png", "broken.png")]
    images = SquareImages(records, 10)
    (batch,) = read_batches(images, [[0, 0]])
    assert batch.shape == (2, 3, 10, 10) and batch.dtype == torch.uint8
    assert batch[0, 0, :, 1:-1].min() > 240 and batch[0, 1:].max() < 15
    with pytest.raises(ValueError, match=r"cannot read '.*broken\.png'"):
        list(read_batches(images, [[0, 1]]))


@pytest.fixture(scope="module")
def measured(model: MultiTaskModel) -> dict[str, Similarity]:
    """Two tasks of a model, and one of them again, by kernel."""
    networks = [
        route_layers(model, task, name, Pixels())
        for task, name in (("boxes", "boxes"), ("depth", "depth"), ("boxes", "again"))
    ]
    batches = [pictures(8, seed) for seed in range(3)]
    found = {}
    for kernel in ("linear", "rbf"):
        chosen = choose_kernel(networks, kernel, 1.0, batches[0])
        done: list[int] = []
        cka = accumulate(networks, iter(batches), chosen, CPU, done.append)
        assert done == [8, 8, 8] and cka.images == 24
        found[kernel] = Similarity(
            networks=tuple(Network(one.name, one.names) for one in networks),
            matrix=cka.matrix().numpy(), kernel=kernel,
            bandwidth=1.0 if kernel == "rbf" else None, images=24, batch_size=8, passes=1,
            size=16, dataset="made & seen",
        )  # fmt: skip
    return found


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_network_is_as_like_its_double_as_itself(measured: dict, kernel: str) -> None:
    found = measured[kernel]
    assert np.allclose(found.between("boxes", "again"), found.between("boxes", "boxes"))
    assert found.same_layers("boxes", "again") == pytest.approx(1)
    assert found.same_layers("boxes", "depth") < 0.99
    assert np.allclose(found.between("boxes", "depth"), found.between("depth", "boxes").T)
    assert not np.allclose(measured["linear"].matrix, measured["rbf"].matrix, atol=1e-3)


def test_kernels_are_those_of_every_layer_with_its_own_bandwidth(model: MultiTaskModel) -> None:
    networks = [route_layers(model, task, task, Pixels()) for task in ("boxes", "depth")]
    images = pictures()
    features = [x.flatten(1).double() for one in networks for x in outputs_of(one, images)]
    rbf = kernels_of(networks, images, choose_kernel(networks, "rbf", 2.0, images))
    assert rbf.shape == (18, 8, 8)
    for gram, x in zip(rbf, features):
        width = 2 * torch.pdist(x).median()
        wanted = torch.exp(-(torch.cdist(x, x) ** 2) / (2 * width**2))
        assert torch.allclose(gram, wanted, atol=1e-4)
    for arguments, word in ((("cubic", 1.0), "cubic"), (("rbf", 0.0), "bandwidth is 0.0")):
        with pytest.raises(ValueError, match=word):
            choose_kernel(networks, *arguments, images)


def crisp(score_of: str = "net") -> Similarity:
    """Six layers: four are alike, two on either side are constant or stand apart."""
    matrix = np.eye(6)
    matrix[1:5, 1:5] = 1
    matrix[0] = matrix[:, 0] = np.nan
    layers = ("stem", "res2.0", "res2.1", "res3.0", "res3.1", "res4.0")
    return Similarity(
        networks=(Network(score_of, layers),), matrix=matrix, kernel="linear", bandwidth=None,
        images=8, batch_size=8, passes=1, size=16, dataset="made",
    )  # fmt: skip


def test_a_file_gives_back_what_was_saved(measured: dict, tmp_path: Path) -> None:
    run = replace(crisp(), networks=(crisp().networks[0]._replace(iteration=130),))
    for name, similarity in (("rbf", measured["rbf"]), ("run", run), ("holes", crisp())):
        path = similarity.save(tmp_path / FOLDER / f"{name}.json")
        again = Similarity.read(path)
        assert np.allclose(again.matrix, similarity.matrix, atol=1e-6, equal_nan=True)
        assert again.networks == similarity.networks and again.bandwidth == similarity.bandwidth
    content = json.loads((tmp_path / FOLDER / "holes.json").read_text())
    block = content["models"][0]["block_structure"]
    assert block["score"] > 0.5 and (block["first"], block["last"]) == (1, 4)
    assert content["matrix"][0][0] is None and content["models"][0]["layers"][0] == "stem"
    assert content["models"][0].pop("iteration", "none") is None
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert Similarity.read(tmp_path / "old.json").networks == crisp().networks


def test_maps_show_every_pair_and_outline_the_block(measured: dict) -> None:
    for theme in (LIGHT, DARK):
        figure = similarity_figure(measured["linear"], theme)
        assert len(figure.axes) == 3 + 3 + 1
        outlined = [bool(axes.patches) for axes in figure.axes[:3]]
        assert outlined == [one.score >= OUTLINED for one in measured["linear"].blocks.values()]
    figure = pair_figure(measured["linear"], "boxes", "depth")
    axes = figure.axes[0]
    shown = axes.images[0]
    assert shown.origin == "lower" and shown.get_clim() == (0, 1)
    assert np.allclose(shown.get_array(), measured["linear"].between("boxes", "depth"))
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("boxes", "depth")
    (axes, _) = pair_figure(crisp(), "net", "net").axes
    corners = {patch.get_xy() for patch in axes.patches}
    assert corners == {(0.5, 0.5)} and axes.patches[0].get_width() == 4
    assert axes.images[0].get_array().mask[0].all()


def test_stages_are_read_from_the_names_of_layers() -> None:
    assert stages_of(crisp().layers_of("net")) == [
        ("stem", 0, 0), ("res2", 1, 2), ("res3", 3, 4), ("res4", 5, 5),
    ]  # fmt: skip
    assert stages_of(["stages.0.blocks.0", "stages.0.blocks.1"]) == [("stages.0", 0, 1)]


def test_the_section_tells_scores_and_means_and_survives_broken_files(
    measured: dict, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    assert similarity_section(folder) == ""
    measured["linear"].save(tmp_path / FOLDER / "a.json")
    crisp("<net>").save(tmp_path / FOLDER / "b.json")
    (tmp_path / FOLDER / "torn.json").write_text('{"models": [')
    (tmp_path / FOLDER / "other.json").write_text('{"models": [], "matrix": [[1]]}')
    html = similarity_section(folder)
    assert html.startswith('<section id="similarity">')
    found = measured["linear"]
    assert f"<td>{found.blocks['boxes'].score:.2f}</td>" in html
    assert f"<td>{found.same_layers('boxes', 'depth'):.2f}</td>" in html
    assert "<td>res2.0 to res3.1</td>" in html and "&lt;net&gt;" in html and "<net>" not in html
    assert "made &amp; seen" in html and "24 images" in html
    assert html.count("torn.json cannot be read") == html.count("other.json cannot be read") == 1
    assert "boxes and again 1.00" in html


def test_the_newest_measurement_is_open_and_the_others_are_folded(
    measured: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "chart", lambda *words, wide: "<figure></figure>")
    older = crisp("older").save(tmp_path / FOLDER / "a.json")
    measured["rbf"].save(tmp_path / FOLDER / "b.json")
    torn = tmp_path / FOLDER / "torn.json"
    torn.write_text("{")
    for path, seconds in ((older, 1), (tmp_path / FOLDER / "b.json", 2), (torn, 3)):
        os.utime(path, (seconds, seconds))
    html = similarity_section(RunFolder(tmp_path))
    assert html.count("<details>") == 1
    assert html.index("<h3>boxes, depth and again</h3>") < html.index("<details>")
    folded = html[html.index("<details>") :]
    assert (
        "older · made, 16 x 16 pixels, linear kernel</summary>" in folded and "<h3>" not in folded
    )
    os.utime(older, (4, 4))
    assert "<h3>older</h3>" in similarity_section(RunFolder(tmp_path))


def test_the_caption_says_which_checkpoints_were_measured(
    measured: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chart(build: object, alt: str, caption: str, wide: bool) -> str:
        return caption

    monkeypatch.setattr(page, "chart", chart)

    def caption(*iterations: int | None) -> str:
        networks = (
            one._replace(iteration=at) for one, at in zip(measured["rbf"].networks, iterations)
        )
        replace(measured["rbf"], networks=tuple(networks)).save(tmp_path / FOLDER / "a.json")
        return similarity_section(RunFolder(tmp_path))

    assert "After 1,300 iterations. 24 images" in caption(1300, 1300, 1300)
    mixed = "Checkpoints: boxes, again after 130 iterations; depth after 5 iterations. 24 images"
    assert mixed in caption(130, 5, 130)
    assert "Checkpoints: depth after 0 iterations. 24 images" in caption(None, 0, None)
    assert "iterations" not in caption(None, None, None)
