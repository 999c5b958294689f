"""The BTS head: planes against a slow loop, layers against the published ones, both backbones."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from gppf_d2.modeling.heads import BTSHead, DepthHead, replace_sync_norms
from gppf_d2.modeling.heads.bts import plane_depth, plane_of
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.modeling.lego_models import tiny, tiny_swin

FORMAT = {"pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 60.0, 60.0]}
FOCAL = 715.0873


class Shapes(nn.Module):
    """A backbone that is nothing but its shapes, of given strides and channels."""

    size_divisibility, padding_constraints = 0, {}

    def __init__(self, **features: tuple[int, int]) -> None:
        super().__init__()
        self.features = features

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(stride=s, channels=c) for name, (s, c) in self.features.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch, _, height, width = x.shape
        return {
            name: x.mean(1, keepdim=True)[:, :, ::s, ::s].expand(-1, c, -1, -1) + 0.01 * s
            for name, (s, c) in self.features.items()
        }


RESNET_50 = Shapes(res2=(4, 256), res3=(8, 512), res4=(16, 1024), res5=(32, 2048))


def samples(sizes: tuple = ((64, 96), (64, 70)), **more: object) -> list[dict]:
    made = []
    for i, (height, width) in enumerate(sizes):
        generator = torch.Generator().manual_seed(i)
        image = torch.randint(0, 256, (3, height, width), generator=generator).byte()
        depth = torch.rand(height, width, generator=generator) * 90
        made.append({"image": image, "depth": depth, "focal_length": FOCAL * (i + 1), **more})
    return made


def model_of(backbone: nn.Module, features: list[str], **options: object) -> MultiTaskModel:
    torch.manual_seed(0)
    model = MultiTaskModel(backbone.float(), ["depth"])
    model.add_head(
        "depth",
        lambda: BTSHead(
            backbone=SharedBackbone(features), max_depth=80.0, channels=32, detail_channels=4,
            **{**FORMAT, **options},
        ),
    )  # fmt: skip
    return model


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    return model_of(tiny(18, 2), ["res2", "res3", "res4", "res5"], focal_reference=FOCAL)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_planes_give_the_depth_of_the_formula_at_every_pixel(side: int) -> None:
    raw = 6 * torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(side)).double()
    found = plane_depth(plane_of(raw), side)
    assert found.shape == (2, 3 * side, 4 * side)
    for image in range(2):
        for row in range(3 * side):
            for column in range(4 * side):
                a, b, c = (
                    1 / (1 + math.exp(-value))
                    for value in raw[image, :, row // side, column // side].tolist()
                )
                theta, phi = a * math.pi / 3, b * 2 * math.pi
                u = (column % side - (side - 1) / 2) / side
                v = (row % side - (side - 1) / 2) / side
                share = (
                    math.sin(theta) * math.cos(phi) * u
                    + math.sin(theta) * math.sin(phi) * v
                    + math.cos(theta)
                )
                wanted = c / max(share, 0.1)
                assert float(found[image, row, column]) == pytest.approx(wanted, rel=1e-9)


def test_planes_that_rays_hardly_meet_stay_finite() -> None:
    raw = torch.full((1, 3, 2, 2), 50.0)  # tilted by 60 degrees, and far away
    raw[:, 1] = math.log(5 / 3)  # azimuth 225 degrees: towards a corner of the cell
    depth = plane_depth(plane_of(raw), 8).detach()
    assert torch.isfinite(depth).all() and float(depth.min()) > 0
    assert float(depth.max()) == pytest.approx(10)


def test_the_decoder_has_the_layers_of_the_published_one() -> None:
    """The published model has 49.5 M parameters, of which ResNet-50 with its classifier 25.56 M."""
    head = BTSHead(backbone=RESNET_50, max_depth=80.0, **FORMAT)
    count = sum(p.numel() for name, p in head.named_parameters() if "detail" not in name)
    assert count == pytest.approx(49.5e6 - 25.56e6, abs=0.05e6)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes["steps.16.join.0.weight"] == (512, 512 + 1024, 3, 3)
    assert shapes["steps.8.join.0.weight"] == (256, 256 + 512, 3, 3)
    assert shapes["pyramid.branches.4.2.weight"] == (256, 256 + 512 + 4 * 128, 1, 1)
    assert shapes["pyramid.gather.0.weight"] == (128, 256 + 5 * 128, 3, 3)
    assert shapes["steps.4.join.0.weight"] == (128, 128 + 256 + 1, 3, 3)
    assert shapes["steps.2.join.0.weight"] == (64, 64 + 64 + 1, 3, 3)
    assert shapes["finish.0.weight"] == (32, 32 + 4, 3, 3)
    dilations = [branch[5].dilation[0] for branch in head.pyramid.branches]
    assert dilations == [3, 6, 12, 18, 24]
    assert [m.out_channels for m in head.planes["8"] if isinstance(m, nn.Conv2d)] == [
        128, 64, 32, 16, 8, 3,
    ]  # fmt: skip


def test_it_trains_all_its_parameters_and_the_backbone(model: MultiTaskModel) -> None:
    model.zero_grad()
    model.begin_micro_step(0, 0, 0, 0)
    losses = model.losses("depth", samples())
    (losses["loss_depth"] + model.finish_micro_step()).backward()
    for name, p in model.heads["depth"].named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
    weight = model.backbone.res2[0].units[0].conv1.weight
    assert weight.grad.abs().sum() > 0 and model.controllers["depth"].grad.abs().sum() > 0


def test_norms_of_the_head_are_local() -> None:
    head = BTSHead(backbone=RESNET_50, max_depth=80.0, channels=16, norm="SyncBN", **FORMAT)
    assert replace_sync_norms(head) > 0
    norms = [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and {type(norm) for norm in norms} == {nn.BatchNorm2d}


@pytest.mark.parametrize("norm", ["", "GN"])
def test_other_norms_and_no_detail(norm: str) -> None:
    channels = 16 if norm == "" else 512
    head = BTSHead(
        backbone=Shapes(a=(16, 32), b=(4, 32)), max_depth=10.0, channels=channels, norm=norm,
        detail_channels=0, **FORMAT,
    ).eval()  # fmt: skip
    with torch.no_grad():
        (result,) = head(samples(((16, 48),)))
    assert result["depth"].shape == (16, 48)


def test_swin_features_and_sides_that_are_no_multiples_of_the_strides() -> None:
    model = model_of(tiny_swin(2), ["p0", "p1", "p2", "p3"])
    made = samples(((50, 70), (64, 33)))
    model.begin_micro_step(0, 0, 0, 0)
    loss = model.losses("depth", made)["loss_depth"]
    (loss + model.finish_micro_step()).backward()
    assert torch.isfinite(loss)
    results = model.inference("depth", made)
    assert [tuple(result["depth"].shape) for result in results] == [(50, 70), (64, 33)]


@pytest.mark.parametrize("features", [{"stem": (4, 8), "res2": (4, 8)}, {"fine": (2, 8)}])
def test_features_of_one_stride_are_joined_and_fine_ones_used(features: dict) -> None:
    backbone = Shapes(**features, deep=(32, 16))
    head = BTSHead(backbone=backbone, max_depth=10.0, channels=16, detail_channels=0, **FORMAT)
    step = head.steps["4" if "stem" in features else "2"]
    own = {"4": 4, "2": 2}["4" if "stem" in features else "2"]
    extra = sum(channels for _, channels in features.values())
    assert step.join[0].in_channels == own + extra + 1
    with torch.no_grad():
        (result,) = head.eval()(samples(((32, 32),)))
    assert result["depth"].shape == (32, 32)


def test_depth_grows_with_the_focal_length(model: MultiTaskModel) -> None:
    one = samples(((64, 96),))
    twice = [{**one[0], "focal_length": 2 * FOCAL}]
    unknown = [{key: value for key, value in one[0].items() if key != "focal_length"}]
    near, far, other = (model.inference("depth", s)[0]["depth"] for s in (one, twice, unknown))
    torch.testing.assert_close(far, 2 * near)
    assert torch.equal(near, other)
    model.begin_micro_step(0, 0, 0, 0)
    with pytest.raises(ValueError, match="'focal_length'"):
        model.losses("depth", unknown)
    model.begin_micro_step(0, 0, 0, 0)


@pytest.mark.parametrize("window", [(8, 20, 80, 60), (-4, 0, 120, 64), None])
def test_predictions_are_put_into_their_window(
    model: MultiTaskModel, window: tuple[int, int, int, int] | None
) -> None:
    (sample,) = samples(((64, 96),))
    alone = model.inference("depth", [sample])[0]["depth"]
    place = {} if window is None else {"window": window}
    (found,) = model.inference("depth", [{**sample, "height": 64, "width": 100, **place}])
    x0, y0, x1, y1 = window or (0, 0, 100, 64)
    resized = nn.functional.interpolate(
        alone[None, None], (y1 - y0, x1 - x0), mode="bilinear", align_corners=False
    )[0, 0]
    left, right = max(x0, 0), min(x1, 100)
    wanted = torch.zeros(64, 100)
    wanted[y0:y1, left:right] = resized[:, left - x0 : right - x0]
    torch.testing.assert_close(found["depth"], wanted)


def test_loss_counts_truth_between_the_smallest_and_the_largest_depth() -> None:
    options = {"backbone": RESNET_50, "channels": 16, **FORMAT}
    head = BTSHead(max_depth=80.0, min_depth=1.0, **options)
    depth = torch.full((1, 2, 3), 4.0)
    truth = torch.tensor([[[0.0, 0.5, 100.0], [2.0, 8.0, 8.0]]])
    d = (depth / truth).log()[0, 1]
    wanted = 10 * (d.square().mean() - 0.85 * d.mean() ** 2).sqrt()
    torch.testing.assert_close(head.loss(depth, truth), wanted)
    other = DepthHead(backbone=tiny(18, 1), depth_range=(1.0, 80.0), **FORMAT)
    assert torch.equal(head.loss(depth, truth), other.loss(depth, truth))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 24}, "multiple of 16"),
        ({"focal_reference": 0.0}, "focal length in pixels"),
        ({"in_features": ["res9"]}, "res2, res3"),
        ({"in_features": ["res2", "res3"]}, "res2 4, res3 8"),
        ({"backbone": Shapes(a=(16, 8), b=(6, 8))}, "powers of two"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BTSHead(**{"backbone": RESNET_50, "max_depth": 80.0, **FORMAT, **options})
