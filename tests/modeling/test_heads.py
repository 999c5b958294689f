"""Heads of our own and stock Detectron2 heads around the shared backbone."""

from __future__ import annotations

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import NaiveSyncBatchNorm, ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import (
    GeneralizedRCNN,
    PanopticFPN,
    RetinaNet,
    SemanticSegmentor,
)
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from gppf_d2.modeling.heads import (
    ClassificationHead,
    DepthHead,
    NormalsHead,
    check_input_format,
    replace_sync_norms,
)
from gppf_d2.modeling.heads.image_batch import at_file_size
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.modeling.lego_models import tiny

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]
FORMAT = {"pixel_mean": MEAN, "pixel_std": STD}
STAGES = ["res2", "res3", "res4", "res5"]
LEVELS = ["p2", "p3", "p4", "p5"]
CLASSES, CHANNELS = 4, 8


def pyramid(norm: str = "", top=None):
    view = L(SharedBackbone)(out_features=STAGES)
    return L(FPN)(
        bottom_up=view, in_features=STAGES, out_channels=CHANNELS, norm=norm, top_block=top
    )


def roi_parts() -> dict:
    """RPN and ROI heads of a small Mask R-CNN."""
    return {
        "proposal_generator": L(RPN)(
            in_features=[*LEVELS, "p6"],
            head=L(StandardRPNHead)(in_channels=CHANNELS, num_anchors=3),
            anchor_generator=L(DefaultAnchorGenerator)(
                sizes=[[16], [32], [64], [128], [256]], aspect_ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
            ),
            anchor_matcher=L(Matcher)(
                thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
            ),
            box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
            batch_size_per_image=32, positive_fraction=0.5,
            pre_nms_topk=(100, 50), post_nms_topk=(50, 20),
        ),
        "roi_heads": L(StandardROIHeads)(
            num_classes=CLASSES, batch_size_per_image=16, positive_fraction=0.25,
            proposal_matcher=L(Matcher)(
                thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
            ),
            box_in_features=LEVELS,
            box_pooler=L(ROIPooler)(
                output_size=7, scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0,
                pooler_type="ROIAlignV2",
            ),
            box_head=L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=CHANNELS, height=7, width=7),
                conv_dims=[CHANNELS], fc_dims=[16], conv_norm="SyncBN",
            ),
            box_predictor=L(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=16), test_score_thresh=0.0, num_classes=CLASSES,
                box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            ),
            mask_in_features=LEVELS,
            mask_pooler=L(ROIPooler)(
                output_size=14, scales=[1 / 4, 1 / 8, 1 / 16, 1 / 32], sampling_ratio=0,
                pooler_type="ROIAlignV2",
            ),
            mask_head=L(MaskRCNNConvUpsampleHead)(
                input_shape=ShapeSpec(channels=CHANNELS, height=14, width=14),
                num_classes=CLASSES, conv_dims=[CHANNELS, CHANNELS],
            ),
        ),
    }  # fmt: skip


def semantic_part():
    return L(SemSegFPNHead)(
        input_shape={
            level: L(ShapeSpec)(channels=CHANNELS, stride=2 ** (i + 2))
            for i, level in enumerate(LEVELS)
        },
        num_classes=CLASSES, conv_dims=CHANNELS, common_stride=4, norm="BN", ignore_value=255,
    )  # fmt: skip


def configs() -> dict:
    detector = L(GeneralizedRCNN)(
        backbone=pyramid("SyncBN", L(LastLevelMaxPool)()), **roi_parts(), **FORMAT
    )
    panoptic = L(PanopticFPN)(
        backbone=pyramid("", L(LastLevelMaxPool)()), sem_seg_head=semantic_part(),
        **roi_parts(), **FORMAT,
    )  # fmt: skip
    semantic = L(SemanticSegmentor)(backbone=pyramid(), sem_seg_head=semantic_part(), **FORMAT)
    retina = L(RetinaNet)(
        backbone=pyramid(),
        head=L(RetinaNetHead)(
            input_shape=[L(ShapeSpec)(channels=CHANNELS)] * 4, num_classes=CLASSES,
            conv_dims=[CHANNELS], num_anchors=3,
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[16], [32], [64], [128]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32]
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        anchor_matcher=L(Matcher)(
            thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        num_classes=CLASSES, head_in_features=LEVELS, **FORMAT,
    )  # fmt: skip
    view = L(SharedBackbone)(out_features=STAGES)
    return {
        "detection": detector,
        "panoptic": panoptic,
        "semantic": semantic,
        "retina": retina,
        "classes": L(ClassificationHead)(backbone=view, num_classes=CLASSES, **FORMAT),
        "depth": L(DepthHead)(backbone=view, depth_range=(0.5, 10.0), channels=CHANNELS, **FORMAT),
        "normals": L(NormalsHead)(backbone=view, channels=CHANNELS, **FORMAT),
    }


def samples() -> list[dict]:
    """Two images of different sizes, every kind of label; results are wanted at twice the size."""
    made = []
    for i, (height, width) in enumerate([(96, 128), (96, 120)]):
        generator = torch.Generator().manual_seed(i)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 60, 70], [30, 20, 100, 90]]))
        instances.gt_classes = torch.tensor([1, 3])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 8:70, 8:60] = masks[1, 20:90, 30:100] = True
        instances.gt_masks = BitMasks(masks)
        made.append(
            {
                "image": torch.randint(0, 256, (3, height, width), generator=generator).byte(),
                "height": 2 * height, "width": 2 * width, "instances": instances, "label": i,
                "sem_seg": torch.randint(0, CLASSES, (height, width), generator=generator),
                "depth": torch.rand(height, width, generator=generator) * 12,
                "normals": F.normalize(torch.randn(3, height, width, generator=generator), dim=0),
            }
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    built = configs()
    model = MultiTaskModel(tiny(18, 2).float(), list(built))
    for task, config in built.items():
        model.add_head(task, lambda config=config: instantiate(config))
        replace_sync_norms(model.heads[task])
        check_input_format(task, model.heads[task], MEAN, STD)
    return model


@pytest.mark.parametrize("task", list(configs()))
def test_heads_train_around_the_shared_backbone(model, task):
    torch.manual_seed(0)
    model.zero_grad()
    model.begin_micro_step(0, 0, 0, 0)
    with EventStorage():
        losses = model.losses(task, samples())
    (sum(losses.values()) + model.finish_micro_step()).backward()
    assert all(loss.dim() == 0 and torch.isfinite(loss) for loss in losses.values())
    weight = model.backbone.res2[0].units[0].conv1.weight
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert model.controllers[task].grad.abs().sum() > 0
    for other, head in model.heads.items():
        used = [p.grad is not None for p in head.parameters()]
        assert all(used) if other == task else not any(used)


@pytest.mark.parametrize("task", list(configs()))
def test_heads_infer_at_the_wanted_size(model, task):
    made = samples()
    results = model.inference(task, made)
    assert len(results) == 2
    for result, sample in zip(results, made):
        size = (sample["height"], sample["width"])
        if task in ("detection", "retina", "panoptic"):
            assert result["instances"].image_size == size
        if task in ("semantic", "panoptic"):
            assert result["sem_seg"].shape == (CLASSES, *size)
        if task == "classes":
            assert float(result["classes"].sum()) == pytest.approx(1)
        if task == "depth":
            assert result["depth"].shape == size
            assert result["depth"].min() >= 0.5 and result["depth"].max() <= 10
        if task == "normals":
            assert result["normals"].shape == (3, *size)
            torch.testing.assert_close(result["normals"].norm(dim=0), torch.ones(size))


@pytest.mark.parametrize("task", ["semantic", "depth", "normals", "classes"])
def test_a_batch_with_nothing_to_learn_gives_zero_with_a_graph(model, task):
    made = samples()
    for sample in made:
        sample["sem_seg"] = torch.full_like(sample["sem_seg"], 255)
        sample["depth"] = torch.zeros_like(sample["depth"])
        sample["normals"] = torch.zeros_like(sample["normals"])
        sample["label"] = -1
    model.zero_grad()
    model.begin_micro_step(0, 0, 0, 0)
    (loss,) = model.losses(task, made).values()
    assert float(loss.detach()) == 0
    (loss + model.finish_micro_step()).backward()
    for name, p in [*model.heads[task].named_parameters(), *model.backbone.named_parameters()]:
        assert p.grad is not None, name
        assert not p.grad.any(), name


def test_a_partly_ignored_batch_is_left_as_it_is(model):
    made = samples()
    made[0]["sem_seg"] = torch.full_like(made[0]["sem_seg"], 255)
    model.begin_micro_step(0, 0, 0, 0)
    assert float(model.losses("semantic", made)["loss_sem_seg"].detach()) > 0
    head = model.heads["semantic"]
    with torch.no_grad():
        weight = head.sem_seg_head.predictor.weight.clone()
        head.sem_seg_head.predictor.weight.fill_(float("nan"))
        model.begin_micro_step(0, 0, 0, 0)
    assert math.isnan(model.losses("semantic", made)["loss_sem_seg"])  # true NaN are not hidden
    with torch.no_grad():
        head.sem_seg_head.predictor.weight.copy_(weight)


def test_synchronised_norms_of_heads_became_batch_norm(model, caplog):
    kinds = {type(m) for head in model.heads.values() for m in head.modules()}
    assert nn.BatchNorm2d in kinds
    assert not kinds & {nn.SyncBatchNorm, NaiveSyncBatchNorm}
    head = nn.Sequential(nn.Conv2d(3, 4, 1), NaiveSyncBatchNorm(4, eps=1e-3, stats_mode="N"))
    head[1].running_mean.fill_(2.0)
    with caplog.at_level(logging.INFO):
        assert replace_sync_norms(head) == 1 and replace_sync_norms(head) == 0
    assert type(head[1]) is nn.BatchNorm2d and head[1].eps == 1e-3
    assert head[1].running_mean.tolist() == [2.0] * 4
    assert "1 norm(s) of type NaiveSyncBatchNorm" in caplog.text


def test_heads_with_another_input_format_are_refused(model):
    with pytest.raises(ValueError, match=r"task 'depth' has pixel_mean=\[120.0, 110.0, 100.0\]"):
        check_input_format("depth", model.heads["depth"], MEAN[::-1], STD)
    with pytest.raises(ValueError, match="pixel_std"):
        check_input_format("detection", model.heads["detection"], MEAN, [1.0, 1.0, 1.0])


def test_soft_and_hard_labels_agree(model):
    head = model.heads["classes"]
    logits = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(0))
    hard = head.loss(logits, [1, 3, 0])
    soft = head.loss(logits, [torch.eye(CLASSES)[1], 3, torch.eye(CLASSES)[0]])
    torch.testing.assert_close(hard, soft)
    torch.testing.assert_close(hard, nn.functional.cross_entropy(logits, torch.tensor([1, 3, 0])))
    only_first = head.loss(logits, [1, -1, -1])
    torch.testing.assert_close(only_first, head.loss(logits[:1], [1]))
    smooth = ClassificationHead(
        backbone=tiny(18, 1), num_classes=CLASSES, label_smoothing=0.1, **FORMAT
    )
    wanted = nn.functional.cross_entropy(logits, torch.tensor([1, 3, 0]), label_smoothing=0.1)
    torch.testing.assert_close(smooth.loss(logits, [1, 3, 0]), wanted)


def test_depth_losses_follow_their_formulas(model):
    head = model.heads["depth"]
    generator = torch.Generator().manual_seed(0)
    depth, truth = torch.rand(2, 2, 5, 5, generator=generator) * 9 + 0.6
    truth[0, :2], truth[0, 2, 0] = 0, 11.0  # not measured, and beyond the range
    valid = (truth >= 0.5) & (truth <= 10)
    d = depth[valid].log() - truth[valid].log()
    wanted = 10 * (d.square().mean() - 0.85 * d.mean() ** 2).sqrt()
    torch.testing.assert_close(head.loss(depth, truth), wanted)
    head.loss_name = "l1"
    torch.testing.assert_close(head.loss(depth, truth), (depth - truth)[valid].abs().mean())
    head.loss_name = "silog"


def test_the_loss_of_normals_is_one_minus_the_cosine_of_pixels_with_a_truth(model):
    head = model.heads["normals"]
    truth = torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).repeat(1, 1, 1, 4)
    raw = torch.tensor([[0.0, 0, 5], [3, 0, 0], [0, 0, -2], [1, 1, 1]]).T.view(1, 3, 1, 4)
    truth[..., 3] = 0  # no truth there
    torch.testing.assert_close(head.loss(raw, truth), torch.tensor((0 + 1 + 2) / 3))
    fresh = NormalsHead(backbone=head.backbone, channels=CHANNELS, **FORMAT)
    assert fresh.predict.bias.tolist() == [0, 0, 1], "a new head faces the viewer"


def test_a_window_places_the_prediction_in_the_file(model):
    whole = torch.rand(3, 4, 6)
    sample = {"height": 10, "width": 12, "window": (5, 3, 11, 7)}
    placed = at_file_size(whole, sample)
    assert placed.shape == (3, 10, 12) and torch.equal(placed[:, 3:7, 5:11], whole)
    assert placed.count_nonzero() == whole.count_nonzero()
    beyond = at_file_size(whole[0], {**sample, "window": (-2, -1, 4, 3)})
    assert torch.equal(beyond[:3, :4], whole[0, 1:, 2:]) and beyond.shape == (10, 12)


def test_arguments_that_cannot_be_are_refused():
    backbone = tiny(18, 1)
    with pytest.raises(ValueError, match="smallest < largest"):
        DepthHead(backbone=backbone, depth_range=(5.0, 1.0), **FORMAT)
    with pytest.raises(ValueError, match="silog, l1"):
        DepthHead(backbone=backbone, depth_range=(0.0, 1.0), loss="l2", **FORMAT)
    with pytest.raises(ValueError, match="stem, res2"):
        ClassificationHead(backbone=backbone, num_classes=2, in_feature="res9", **FORMAT)
