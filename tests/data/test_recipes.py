"""The classification recipe: train transform, MixUp and CutMix, and the loss on mixed labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from PIL import Image
from torchvision.transforms import v2

from gppf_d2.data.batch_transforms import MixUpCutMix
from gppf_d2.data.image_transforms import MEAN, STD, NoiseErasing, classification_recipe
from gppf_d2.data.mappers import ClassificationMapper
from gppf_d2.modeling.heads import ClassificationHead

SIDE = 32
KINDS = {"mixup": {"cutmix_alpha": 0.0}, "cutmix": {"mixup_alpha": 0.0}}


def batch(count: int = 6, num_classes: int = 100) -> list[dict]:
    """Images of one grey level each, with labels that are not their numbers."""
    return [
        {
            "image": torch.full((3, SIDE, SIDE), 10 + 40 * i, dtype=torch.uint8),
            "label": (7 * i + 3) % num_classes,
            "file_name": f"{i}.jpg",
        }
        for i in range(count)
    ]


def level(label: int) -> int:
    return next(int(s["image"][0, 0, 0]) for s in batch() if s["label"] == label)


# the train transform


def test_erased_pixels_are_standard_normal_noise_after_normalisation() -> None:
    torch.manual_seed(0)
    image = torch.full((3, 256, 256), 255, dtype=torch.uint8)
    erased = NoiseErasing(1.0, scale=(0.9, 0.9), ratio=(1.0, 1.0))(image)
    assert erased.dtype == torch.uint8
    inside = erased[:, (erased != 255).any(0)].float()
    assert 0.85 < inside.shape[1] / 256**2 < 0.91
    noise = (inside - torch.tensor(MEAN)[:, None]) / torch.tensor(STD)[:, None]
    assert noise.mean(1).abs().max() < 0.05 and (noise.std(1) - 1).abs().max() < 0.06


def test_the_recipe_is_uint8_and_a_function_of_the_global_generator() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (3, 40, 60), dtype=np.uint8))
    before = image.clone()
    transform = classification_recipe(SIDE)
    results = []
    for seed in [*range(30), 0]:
        torch.manual_seed(seed)
        results.append(transform(image))
    assert all(r.shape == (3, SIDE, SIDE) and r.dtype == torch.uint8 for r in results)
    assert torch.equal(results[0], results[-1]) and torch.equal(image, before)
    assert len({r.numpy().tobytes() for r in results}) == 30


def test_every_part_of_the_recipe_can_be_left_out() -> None:
    image = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    bare = classification_recipe(SIDE, operations=0, erasing=0)
    changed = {"operations": 0, "erasing": 0}
    for seed in range(40):
        torch.manual_seed(seed)
        assert (bare(image) == 200).all()
        for left in changed:
            torch.manual_seed(seed)
            changed[left] += bool((classification_recipe(SIDE, **{left: 0})(image) != 200).any())
    # without operations a quarter is erased; without erasing RandAugment changes its share
    assert 4 <= changed["operations"] <= 18 and 10 <= changed["erasing"] <= 36
    with pytest.raises(ValueError, match="magnitude is 11"):
        classification_recipe(magnitude=11)


def test_the_recipe_is_a_transform_of_the_mapper(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    samples = []
    for image_format in ("RGB", "BGR"):
        mapper = instantiate(
            L(ClassificationMapper)(
                is_train=True,
                image_format=image_format,
                transform=L(classification_recipe)(image_size=SIDE, crop_scale=(0.5, 1.0)),
            )
        )
        torch.manual_seed(3)
        samples.append(mapper({"file_name": str(tmp_path / "image.png"), "label": 1}))
    assert torch.equal(samples[0]["image"], samples[1]["image"].flip(0))


# MixUp and CutMix


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_what_is_in_the_image(kind: str) -> None:
    shares = []
    for seed in range(20):
        torch.manual_seed(seed)
        for sample in MixUpCutMix(**KINDS[kind])(batch()):
            assert sample["image"].dtype == torch.uint8 and "label" not in sample
            (one, other), (share, rest) = sample["labels"], sample["label_weights"]
            assert share + rest == pytest.approx(1) and share >= rest >= 0
            shares.append(share)
            grey = sample["image"].float()
            if kind == "mixup":
                wanted = share * level(one) + rest * level(other)
                assert (grey - wanted).abs().max() <= 0.5 + 1e-4
            else:
                assert float((grey == level(one)).float().mean()) == pytest.approx(share, abs=1e-6)
                assert ((grey == level(one)) | (grey == level(other))).all()
    assert min(shares) < 0.7 and max(shares) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_equals_torchvision_on_one_hot_labels(kind: str) -> None:
    samples = batch()
    torch.manual_seed(5)
    mixed = MixUpCutMix(**KINDS[kind])(samples)
    torch.manual_seed(5)
    torch.rand(())  # whether to mix
    alpha, plain = (0.8, v2.MixUp) if kind == "mixup" else (1.0, v2.CutMix)
    images, targets = plain(alpha=alpha, num_classes=100)(
        torch.stack([s["image"] for s in samples]).float(),
        torch.tensor([s["label"] for s in samples]),
    )
    assert torch.equal(torch.stack([s["image"] for s in mixed]), images.round().byte())
    for sample, target in zip(mixed, targets):
        dense = torch.zeros(100)
        for label, weight in zip(sample["labels"], sample["label_weights"]):
            dense[label] += weight
        assert torch.equal(dense, target)


def test_kind_and_strength_are_drawn_per_batch() -> None:
    def cut(samples: list[dict]) -> bool:
        """Whether the levels in the images are those of the batch."""
        return set(torch.cat([s["image"].flatten() for s in samples]).tolist()) <= {
            10 + 40 * i for i in range(6)
        }

    def run(seed: int, **options: float) -> list[dict]:
        torch.manual_seed(seed)
        return MixUpCutMix(**options)(batch())

    assert 15 <= sum(cut(run(seed)) for seed in range(50)) <= 35
    assert sum("label" in run(seed, probability=0.5)[0] for seed in range(50)) in range(15, 36)
    assert all("label" in run(seed, probability=0.0)[0] for seed in range(5))
    one, two = run(1), run(1)
    assert [s["label_weights"] for s in one] == [s["label_weights"] for s in two]
    assert len({run(seed)[0]["label_weights"] for seed in range(5)}) == 5


def test_the_samples_themselves_stay_and_one_alone_is_not_mixed() -> None:
    samples = batch()
    MixUpCutMix()(samples)
    for sample, before in zip(samples, batch()):
        assert sample.keys() == before.keys() and torch.equal(sample["image"], before["image"])
    assert "label" in MixUpCutMix()(batch(1))[0]


def test_batches_that_cannot_be_mixed_are_refused() -> None:
    uneven = batch()
    uneven[2]["image"] = uneven[2]["image"][:, :30]
    with pytest.raises(ValueError, match=r"\[3, 30, 32\].*\[3, 32, 32\].*crop to one size"):
        MixUpCutMix()(uneven)
    with pytest.raises(ValueError, match="'0.jpg' has label None"):
        MixUpCutMix()([{**s, "label": None} for s in batch()])
    with pytest.raises(ValueError, match="one must be positive"):
        MixUpCutMix(0.0, 0.0)
    with pytest.raises(ValueError, match="switch_probability is 1.5"):
        MixUpCutMix(switch_probability=1.5)


# the loss on mixed labels


class Colours(Backbone):
    """A backbone whose feature is the image itself, a quarter of the size."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res5": ShapeSpec(channels=3, stride=4)}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": F.avg_pool2d(x, 4)}


@pytest.fixture(scope="module")
def head() -> ClassificationHead:
    return ClassificationHead(
        backbone=Colours(),
        num_classes=10_450,
        pixel_mean=MEAN,
        pixel_std=STD,
        label_smoothing=0.1,
    )


def test_mixed_labels_cost_the_cross_entropy_of_the_mixed_one_hot_vectors(head) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 10_450, dtype=torch.float64, requires_grad=True)
    mixed = MixUpCutMix()(batch(6, 10_450))
    dense = torch.zeros_like(logits)
    for row, sample in zip(dense, mixed):
        for label, weight in zip(sample["labels"], sample["label_weights"]):
            row[label] += weight
    labels = [(sample["labels"], sample["label_weights"]) for sample in mixed]
    loss, wanted = head.loss(logits, labels), F.cross_entropy(logits, dense, label_smoothing=0.1)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-6)  # weights are float32
    gradient, reference = (torch.autograd.grad(x, logits)[0] for x in (loss, wanted))
    torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-8)


def test_hard_mixed_and_soft_labels_meet_in_one_batch(head) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 10_450, dtype=torch.float64)
    soft = torch.rand(10_450, dtype=torch.float64).softmax(0)
    labels = [5, ((1, 2), (0.75, 0.25)), soft, -1]
    dense = torch.zeros(3, 10_450, dtype=torch.float64)
    dense[0, 5], dense[1, 1], dense[1, 2], dense[2] = 1, 0.75, 0.25, soft
    wanted = F.cross_entropy(logits[:3], dense, label_smoothing=0.1)
    torch.testing.assert_close(head.loss(logits, labels), wanted)


def test_a_share_without_a_label_counts_neither_in_sum_nor_in_number(head) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 10_450, dtype=torch.float64)
    costs = [head.loss(logits[i : i + 1], [9]) for i in (0, 1)]
    partly = head.loss(logits, [((9, -1), (0.25, 0.75)), 9])
    torch.testing.assert_close(partly, (0.25 * costs[0] + costs[1]) / 1.25)
    nothing = head.loss(logits.requires_grad_(), [((-1, -1), (0.5, 0.5)), -1])
    nothing.backward()
    assert float(nothing.detach()) == 0 and not logits.grad.any()


def test_the_head_reads_mixed_samples(head) -> None:
    torch.manual_seed(0)
    mixed = MixUpCutMix()(batch(4, 10_450))
    with torch.no_grad():
        head.linear.weight.normal_()
    loss = head.train()(mixed)["loss_cls"].detach()
    images = torch.stack([sample["image"] for sample in mixed])
    colours = (images - head.pixel_mean) / head.pixel_std
    labels = [(sample["labels"], sample["label_weights"]) for sample in mixed]
    with torch.no_grad():
        wanted = head.loss(head.linear(colours.mean((2, 3))), labels)
        other = head([{**sample, "label_weights": (0.5, 0.5)} for sample in mixed])["loss_cls"]
    torch.testing.assert_close(loss, wanted)
    assert abs(other - loss) > 1e-3
