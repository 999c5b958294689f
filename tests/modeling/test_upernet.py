"""UperNet as a sem_seg_head of Detectron2's SemanticSegmentor, alone and around the view."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch import SemanticSegmentor
from torch import Tensor, nn

from gppf_d2.modeling.heads import UperNetHead, replace_sync_norms
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.modeling.lego_models import tiny

STAGES = ["res2", "res3", "res4", "res5"]
CLASSES = 5


def shapes(names=STAGES, widths=(8, 16, 32, 64)) -> dict[str, ShapeSpec]:
    return {
        name: ShapeSpec(channels=width, stride=2 ** (i + 2))
        for i, (name, width) in enumerate(zip(names, widths))
    }


def features(of: dict[str, ShapeSpec], count: int = 2, height: int = 64, width: int = 96) -> dict:
    torch.manual_seed(1)
    return {
        name: torch.randn(count, s.channels, -(-height // s.stride), -(-width // s.stride))
        for name, s in of.items()
    }


def build(**options) -> UperNetHead:
    torch.manual_seed(0)
    return UperNetHead(shapes(), **{"num_classes": CLASSES, "channels": 12, **options})


def labels(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    drawn = torch.randint(0, CLASSES, (count, height, width))
    drawn[:, :10] = 255
    return drawn


def reference(head: UperNetHead, maps: dict[str, Tensor]) -> Tensor:
    """Scores at the smallest stride, written down step by step from the state dict (eval mode)."""
    state = head.state_dict()

    def block(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{name}.norm.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).relu()

    def grow(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear")

    last = maps["res5"]
    pooled = [
        grow(block(f"pool.pooled.{i}", F.adaptive_avg_pool2d(last, scale)), last)
        for i, scale in enumerate((1, 2, 3, 6))
    ]
    p5 = block("pool.fuse", torch.cat([last, *pooled], 1))
    p4 = block("lateral.2", maps["res4"])
    p4 = p4 + grow(p5, p4)
    p3 = block("lateral.1", maps["res3"])
    p3 = p3 + grow(p4, p3)
    p2 = block("lateral.0", maps["res2"])
    p2 = p2 + grow(p3, p2)
    outs = [block("smooth.0", p2), block("smooth.1", p3), block("smooth.2", p4), p5]
    fused = block("fuse", torch.cat([grow(x, p2) for x in outs], 1))
    return F.conv2d(fused, state["predict.1.weight"], state["predict.1.bias"])


def test_scores_equal_the_slow_reference() -> None:
    head, maps = build().eval(), features(shapes())
    for norm in (m for m in head.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
    logits, losses = head(maps)
    assert losses == {} and logits.shape == (2, CLASSES, 64, 96)
    wanted = F.interpolate(reference(head, maps), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(logits, wanted)


def test_size_is_that_of_the_published_architecture() -> None:
    with torch.device("meta"):
        head = UperNetHead(shapes(widths=(256, 512, 1024, 2048)), num_classes=150)
    count = {
        part: sum(p.numel() for p in module.parameters()) for part, module in head.named_children()
    }
    pool = 4 * 2048 * 512 + 9 * (2048 + 4 * 512) * 512 + 5 * 2 * 512
    assert count["pool"] == pool and count["auxiliary"] == 9 * 1024 * 256 + 512 + 257 * 150
    # with the 23.5 M of ResNet-50 the 66.5 M of UperNet-R50
    assert sum(count.values()) == 42_988_844


def test_losses_are_means_over_labelled_pixels() -> None:
    head, maps, targets = build(dropout=0.0).train(), features(shapes()), labels()
    none, losses = head(maps, targets)
    assert none is None
    scores = head.predict(head.fused(maps)), head.auxiliary(maps["res4"])
    for name, logits, weight in zip(("loss_sem_seg", "loss_sem_seg_aux"), scores, (1.0, 0.4)):
        logits = F.interpolate(logits, (64, 96), mode="bilinear")
        wanted = weight * F.cross_entropy(logits, targets, ignore_index=255)
        torch.testing.assert_close(losses[name], wanted)
    head.loss_weight, head.auxiliary_weight = 2.0, 1.0
    again = head(maps, targets)[1]
    torch.testing.assert_close(again["loss_sem_seg"], 2 * losses["loss_sem_seg"])
    torch.testing.assert_close(again["loss_sem_seg_aux"], 2.5 * losses["loss_sem_seg_aux"])


def test_a_batch_of_one_image_trains() -> None:
    head, maps = build().train(), features(shapes(), count=1)
    whole, *others = (layer.norm for layer in head.pool.pooled)
    before = whole.running_mean.clone()
    _, losses = head(maps, labels(1))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert torch.equal(whole.running_mean, before) and whole.num_batches_tracked == 0
    assert all(norm.num_batches_tracked == 1 for norm in others)
    head(features(shapes(), count=2), labels(2))
    assert whole.num_batches_tracked == 1


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN", ""])
def test_nothing_labelled_is_a_zero_with_a_graph(norm: str) -> None:
    head, maps = build(norm=norm, channels=32, auxiliary_channels=32).train(), features(shapes())
    replace_sync_norms(head)
    _, losses = head(maps, torch.full((2, 64, 96), 255))
    assert [float(loss.detach()) for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_any_feature_names_and_sizes_do() -> None:
    """Swin's names, given in any order, and an image whose sides no stride divides."""
    swin = shapes(["p0", "p1", "p2", "p3"])
    shuffled = {name: swin[name] for name in ("p2", "p0", "p3", "p1")}
    head = UperNetHead(shuffled, num_classes=CLASSES, channels=12, auxiliary_feature="p2")
    assert head.in_features == ["p0", "p1", "p2", "p3"]
    maps = features(swin, height=50, width=71)
    _, losses = head.train()(maps, labels(2, 50, 71))
    assert all(loss.isfinite() for loss in losses.values())
    assert head.eval()(maps)[0].shape == (2, CLASSES, 52, 72)
    with pytest.raises(ValueError, match="auxiliary_feature='res4'.*p2, p0, p3, p1"):
        UperNetHead(shuffled, num_classes=CLASSES)
    assert build(auxiliary_feature="").train()(features(shapes()), labels())[1].keys() == {
        "loss_sem_seg"
    }


def test_it_is_a_head_of_an_unmodified_semantic_segmentor() -> None:
    backbone = tiny(18, 2).float()
    config = L(SemanticSegmentor)(
        backbone=L(SharedBackbone)(out_features=STAGES),
        sem_seg_head=L(UperNetHead)(
            input_shape={
                name: L(ShapeSpec)(channels=shape.channels, stride=shape.stride)
                for name, shape in backbone.output_shape().items()
                if name in STAGES
            },
            num_classes=CLASSES,
            channels=12,
        ),
        pixel_mean=[120.0, 110.0, 100.0],
        pixel_std=[60.0, 60.0, 60.0],
    )
    model = MultiTaskModel(backbone, ["parsing"])
    model.add_head("parsing", lambda: instantiate(config))
    samples = [
        {"image": torch.randint(0, 256, (3, 64, 96)).byte(), "sem_seg": one, "height": 32}
        for one in labels()
    ]
    model.begin_micro_step(0, 0, 0, 0)
    losses = model.losses("parsing", samples)
    (sum(losses.values()) + model.finish_micro_step()).backward()
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_aux"}
    assert all(p.grad is not None and p.grad.any() for p in model.heads["parsing"].parameters())
    assert model.backbone.res2[0].units[0].conv1.weight.grad.any()
    evaluated = model.inference("parsing", [{**samples[0], "sem_seg": torch.zeros(32, 96)}])
    assert evaluated[0]["sem_seg"].shape == (CLASSES, 32, 96)
