"""The pixel heads on the sum of a pyramid, and the loss of relative depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads import (
    DepthHead,
    NormalsHead,
    RelativeDepthHead,
    SemanticHead,
    prediction_layers,
)
from gppf_d2.modeling.heads.relative_depth import SMALLEST_SCALE
from tests.modeling.test_heads import FORMAT

STRIDES = {f"p{level}": 2**level for level in range(3, 8)}
SUM = {"fusion": "sum", "convs": 3, "channels": 6, **FORMAT}
HEADS = {
    "sem_seg": (SemanticHead, {"num_classes": 5}),
    "inverse_depth": (RelativeDepthHead, {}),
    "depth": (DepthHead, {"depth_range": (0.5, 10.0)}),
    "normals": (NormalsHead, {}),
}


class Pyramid(Backbone):
    """Means of the image's cells at every stride, in linear combinations of their own."""

    def __init__(self, strides: dict[str, int] = STRIDES, channels: int = 4) -> None:
        super().__init__()
        self.strides, self.channels = strides, channels
        self.layers = nn.ModuleDict({name: nn.Conv2d(3, channels, 1) for name in strides})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {
            name: self.layers[name](F.avg_pool2d(images, stride, ceil_mode=True))
            for name, stride in self.strides.items()
        }

    @property
    def size_divisibility(self) -> int:
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {n: ShapeSpec(channels=self.channels, stride=s) for n, s in self.strides.items()}


def build(kind: str, **options) -> nn.Module:
    torch.manual_seed(0)
    head, own = HEADS[kind]
    return head(**{"backbone": Pyramid(), **SUM, **own, **options})


def samples() -> list[dict]:
    """Two images of different sizes with every kind of label; results at twice the size."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for height, width in [(96, 64), (64, 80)]:
        normals = torch.randn(3, height, width, generator=generator)
        made.append(
            {
                "image": torch.randint(0, 256, (3, height, width), generator=generator).byte(),
                "height": 2 * height, "width": 2 * width,
                "sem_seg": torch.randint(0, 5, (height, width), generator=generator),
                "depth": torch.rand(height, width, generator=generator) * 9 + 0.6,
                "inverse_depth": torch.rand(height, width, generator=generator) + 0.1,
                "normals": F.normalize(normals, dim=0),
            }
        )  # fmt: skip
        made[-1]["sem_seg"][:9] = 255
        made[-1]["inverse_depth"][:, :5] = 0
    return made


def enlarged(x: np.ndarray, factor: int, height: int, width: int) -> np.ndarray:
    """Bilinear values at the centres of cells ``factor`` times as small, [C, height, width]."""

    def places(wanted: int, have: int):
        at = np.clip((np.arange(wanted) + 0.5) / factor - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, have - 1), at - low

    top, bottom, down = places(height, x.shape[1])
    left, right, along = places(width, x.shape[2])
    rows = x[:, top] * (1 - down)[:, None] + x[:, bottom] * down[:, None]
    return rows[:, :, left] * (1 - along) + rows[:, :, right] * along


def test_a_pyramid_is_rescaled_to_level_2_and_summed_without_parameters() -> None:
    head = build("depth")
    names = {name for name, _ in head.named_parameters() if not name.startswith("backbone")}
    layers = ("fuse.0", "fuse.1", "fuse.2", "predict")
    assert names == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert head.predict.kernel_size == (1, 1) and head.fuse[0].weight.shape == (6, 4, 3, 3)
    # sides that 128 does not divide: the cell of P7 reaches beyond the batch
    features = head.backbone(torch.randn(1, 3, 96, 160))
    assert features["p7"].shape[-2:] == (1, 2)
    wanted = sum(
        enlarged(x[0].detach().double().numpy(), STRIDES[name] // 4, 24, 40)
        for name, x in features.items()
    )
    np.testing.assert_allclose(head._sum(features)[0].detach(), wanted, atol=1e-5)
    assert head.decode(features).shape == (1, 1, 24, 40)


def test_top_down_fusion_is_what_it_was() -> None:
    head = build("normals", fusion="top_down", convs=2, in_features=["p5", "p3", "p4"])
    state = {name: value for name, value in head.state_dict().items() if "backbone" not in name}
    layers = ("lateral.p3", "lateral.p4", "lateral.p5", "fuse.0", "fuse.1", "predict")
    assert list(state) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]

    def layer(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    features = head.backbone(torch.randn(2, 3, 64, 96))
    x = layer("lateral.p5", features["p5"])
    for name in ("p4", "p3"):
        x = layer(f"lateral.{name}", features[name]) + F.interpolate(
            x, features[name].shape[-2:], mode="bilinear"
        )
    x = layer("predict", layer("fuse.1", layer("fuse.0", x).relu()).relu())
    torch.testing.assert_close(head.decode(features), x)
    assert type(head)(backbone=Pyramid(), **FORMAT).state_dict().keys() >= set(state), "defaults"


@pytest.mark.parametrize("kind", HEADS)
def test_pixel_heads_on_the_sum_train_and_infer_at_file_size(kind: str) -> None:
    head, made = build(kind, norm="BN"), samples()
    (loss,) = head(made).values()
    loss.backward()
    assert loss > 0 and all(p.grad.isfinite().all() and p.grad.any() for p in head.parameters())
    outputs = head.eval()(made)
    for output, sample in zip(outputs, made, strict=True):
        (result,) = (output[kind],)
        assert result.shape[-2:] == (sample["height"], sample["width"])
        assert result.isfinite().all() and result.dtype == torch.float32
    assert outputs[0][kind].dim() == {"sem_seg": 3, "normals": 3}.get(kind, 2)


@pytest.mark.parametrize("kind", HEADS)
def test_nothing_to_learn_is_a_zero_with_a_graph(kind: str) -> None:
    head, made = build(kind, norm="BN"), samples()
    for sample in made:
        sample[kind] = torch.full_like(sample[kind], 255 if kind == "sem_seg" else 0)
    (loss,) = head(made).values()
    assert float(loss.detach()) == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_losses_are_float32_under_autocast(kind: str) -> None:
    head, made = build(kind), samples()
    (exact,) = head(made).values()
    with torch.autocast("cpu", torch.bfloat16):
        (loss,) = head(made).values()
        (output, _) = head.eval()(made)
    assert loss.dtype == torch.float32 and output[kind].dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.03, atol=0.01)


def test_semantic_loss_is_the_mean_over_the_labelled_pixels_of_the_batch() -> None:
    head, made = build("sem_seg"), samples()
    loss = head(made)["loss_sem_seg"]
    images = head.preprocess(made)
    assert images.tensor.shape[-2:] == (96, 96)
    logits = F.interpolate(head.decode(head.backbone(images.tensor)), (96, 96), mode="bilinear")
    pixels, labels = [], []
    for scores, sample in zip(logits, made):
        height, width = sample["sem_seg"].shape
        chosen = sample["sem_seg"] != 255
        pixels.append(scores[:, :height, :width][:, chosen].T)
        labels.append(sample["sem_seg"][chosen])
    torch.testing.assert_close(loss, F.cross_entropy(torch.cat(pixels), torch.cat(labels)))
    other = build("sem_seg", ignore_value=4)
    for sample in made:
        sample["sem_seg"] = sample["sem_seg"].where(sample["sem_seg"] != 255, 4)
    assert other(made)["loss_sem_seg"] != loss, "class 4 is ignored, 255 is not"
    assert prediction_layers(head) == ("predict",)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="fusion 'concat'; choose one of top_down, sum"):
        build("depth", fusion="concat")
    with pytest.raises(ValueError, match="convs is -1"):
        build("depth", convs=-1)
    with pytest.raises(ValueError, match="multiples of 4.|p2 4 at stride 2"):
        build("depth", backbone=Pyramid({"p2": 2, "p3": 8}))
    mixed = Pyramid()
    mixed.output_shape = lambda: {
        "p3": ShapeSpec(channels=4, stride=8), "p4": ShapeSpec(channels=5, stride=16)
    }  # fmt: skip
    with pytest.raises(ValueError, match="p3 4 at stride 8, p4 5 at stride 16"):
        build("depth", backbone=mixed)
    with pytest.raises(ValueError, match="'l3'; choose one of l1, l2"):
        build("inverse_depth", loss="l3")
    with pytest.raises(ValueError, match="gradient_scales 0"):
        build("inverse_depth", gradient_scales=0)
    no_convolution = build("depth", convs=0)
    assert no_convolution.predict.in_channels == 4 and len(no_convolution.fuse) == 0


# relative inverse depth


def maps(count: int = 3, height: int = 11, width: int = 13) -> tuple[Tensor, Tensor]:
    """Predictions that go with their targets, except for the last; a third has no target."""
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(count, height, width, generator=generator) + 0.5
    noise = torch.randn(count, height, width, generator=generator)
    prediction = 2 * target + 0.3 * noise - 1
    prediction[-1] = -target[-1] + 0.3 * noise[-1]
    target[torch.rand(count, height, width, generator=generator) < 0.3] = 0
    return prediction, target


def slow_loss(prediction: np.ndarray, target: np.ndarray, power: int, scales: int) -> float:
    """One image, with numpy's least squares and loops over pixels."""
    valid = target > 0
    p, t = prediction[valid], target[valid]
    standard = (t - t.mean()) / t.std()
    (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), standard, rcond=None)
    smallest = SMALLEST_SCALE / p.std()
    if scale < smallest:
        scale, shift = smallest, -smallest * p.mean()
    residual = np.zeros_like(target)
    residual[valid] = scale * p + shift - standard
    loss = np.mean(np.abs(residual[valid]) ** power)
    for k in range(scales):
        part, known = residual[:: 2**k, :: 2**k], valid[:: 2**k, :: 2**k]
        steps = 0.0
        for i in range(part.shape[0]):
            for j in range(part.shape[1]):
                for y, x in ((i + 1, j), (i, j + 1)):
                    if y < part.shape[0] and x < part.shape[1] and known[i, j] and known[y, x]:
                        steps += abs(part[y, x] - part[i, j])
        loss += 0.5 * steps / known.sum()
    return loss


@pytest.mark.parametrize("loss, power", [("l1", 1), ("l2", 2)])
def test_relative_loss_equals_the_slow_reference(loss: str, power: int) -> None:
    prediction, target = maps()
    slow = [
        slow_loss(p, t, power, 4)
        for p, t in zip(prediction.double().numpy(), target.double().numpy())
    ]
    head = build("inverse_depth", loss=loss)
    for i, wanted in enumerate(slow):
        assert head.loss(prediction[i : i + 1], target[i : i + 1]).item() == pytest.approx(
            wanted, rel=1e-4
        )
    assert head.loss(prediction, target).item() == pytest.approx(np.mean(slow), rel=1e-4)
    target[1] = 0
    remaining = (slow[0] + slow[2]) / 2
    assert head.loss(prediction, target).item() == pytest.approx(remaining, rel=1e-4)
    alone = build("inverse_depth", loss=loss, gradient_weight=0.0)
    wanted = slow_loss(prediction[0].double().numpy(), target[0].double().numpy(), power, 0)
    assert alone.loss(prediction[:1], target[:1]).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("scale, shift", [(1.0, 3.0), (1e-4, 0.0), (5e3, 0.0), (0.02, 0.7)])
def test_units_of_the_teacher_and_of_the_student_do_not_matter(scale: float, shift: float) -> None:
    head = build("inverse_depth")
    prediction, target = maps()
    prediction.requires_grad_()
    loss = head.loss(prediction, target)
    (gradient,) = torch.autograd.grad(loss, prediction)
    other = torch.where(target > 0, scale * target + shift, 0.0)
    moved = head.loss(prediction, other)
    torch.testing.assert_close(moved, loss, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(moved, prediction)[0], gradient, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(head.loss(7 * prediction - 40, target), loss, rtol=1e-3, atol=0)


def test_a_prediction_cannot_be_turned_around_but_finds_its_way() -> None:
    _, target = maps()
    head = build("inverse_depth", loss="l2", gradient_weight=0.0)
    assert head.loss(target, target) < 1e-4 < 0.9 < head.loss(-target, target)
    prediction = nn.Parameter(-target + 0.1 * torch.randn(target.shape))
    optimizer = torch.optim.Adam([prediction], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        head.loss(prediction, target).backward()
        optimizer.step()
    assert head.loss(prediction, target) < 0.05


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_degenerate_images_stay_finite(loss: str) -> None:
    head = build("inverse_depth", loss=loss)
    prediction, target = maps(5)
    prediction[0] = 4.0  # constant
    target[1] = torch.where(target[1] > 0, 0.7, 0.0)  # constant
    target[2] = 0
    target[2, 4, 4] = 0.5  # one valid pixel
    target[3] = 0
    target[4, 0, 0] = torch.inf
    for chosen in [[0], [1], [2], [3], [4], [0, 1, 2, 3, 4]]:
        x = prediction[chosen].clone().requires_grad_()
        value = head.loss(x, target[chosen])
        value.backward()
        assert value.isfinite() and x.grad.isfinite().all(), chosen
        if chosen in ([1], [2], [3]):
            assert value == 0 and not x.grad.any(), "nothing to learn"
        else:
            assert value > 0 and x.grad.any()
