"""ROI heads on batches in which some images have masks, beside Detectron2's own."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from gppf_d2.modeling.heads import PartlyMaskedROIHeads
from tests.modeling.test_heads import CHANNELS, CLASSES, roi_parts

SIZE = (64, 96)
LEVELS = ["p2", "p3", "p4", "p5"]


def targets(*kinds: str) -> list[Instances]:
    """Per image two objects with "masks", two "boxes" without, or "nothing"."""
    made = []
    for kind in kinds:
        instances = Instances(SIZE)
        boxes = torch.tensor([[8.0, 8, 60, 50], [30, 20, 90, 60]])
        masks = torch.zeros(2, *SIZE, dtype=torch.bool)
        masks[0, 8:40, 8:50] = masks[1, 25:60, 30:90] = True
        count = 0 if kind == "nothing" else 2
        instances.gt_boxes = Boxes(boxes[:count])
        instances.gt_classes = torch.tensor([1, 3])[:count]
        if kind == "masks":
            instances.gt_masks = BitMasks(masks)
        made.append(instances)
    return made


def proposals(count: int) -> list[Instances]:
    generator = torch.Generator().manual_seed(5)
    made = []
    for _ in range(count):
        corner = torch.rand(20, 2, generator=generator) * 40
        size = torch.rand(20, 2, generator=generator) * 40 + 8
        found = Instances(SIZE)
        found.proposal_boxes = Boxes(torch.cat([corner, corner + size], 1))
        found.objectness_logits = torch.zeros(20)
        made.append(found)
    return made


def features(count: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return {
        level: torch.randn(
            count, CHANNELS, SIZE[0] >> (i + 2), SIZE[1] >> (i + 2), generator=generator
        )
        for i, level in enumerate(LEVELS)
    }


@pytest.fixture(scope="module")
def roi_heads() -> tuple[StandardROIHeads, PartlyMaskedROIHeads]:
    """The stock ones and ours, of equal weights; the mask head has BatchNorm."""
    config = roi_parts()["roi_heads"]
    config.mask_head.conv_norm = config.box_head.conv_norm = "BN"
    torch.manual_seed(0)
    stock = instantiate(config)
    config._target_ = PartlyMaskedROIHeads
    ours = instantiate(config)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    return stock, ours


def train(heads: nn.Module, *kinds: str) -> dict[str, Tensor]:
    torch.manual_seed(7)
    with EventStorage():
        count = len(kinds)
        _, losses = heads.train()(None, features(count), proposals(count), targets(*kinds))
    return losses


def same_weights(roi_heads) -> tuple[nn.Module, nn.Module]:
    stock, ours = (copy.deepcopy(heads) for heads in roi_heads)
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("kinds", [("masks", "masks"), ("nothing", "masks", "nothing")])
def test_mask_loss_is_the_stock_one_where_all_images_have_masks(roi_heads, kinds) -> None:
    stock, ours = same_weights(roi_heads)
    wanted, found = train(stock, *kinds), train(ours, *kinds)
    assert wanted.keys() == found.keys() >= {"loss_mask", "loss_cls", "loss_box_reg"}
    for name, loss in wanted.items():
        assert torch.equal(loss, found[name]), name
    for wanted, found in zip(stock.state_dict().values(), ours.state_dict().values()):
        assert torch.equal(wanted, found)


def test_regions_without_masks_count_as_zero(roi_heads) -> None:
    _, ours = same_weights(roi_heads)
    seen = []
    ours.mask_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    losses = train(ours, "boxes", "masks", "nothing")
    ((pooled, instances),) = seen
    assert [len(image) > 0 for image in instances] == [False, True, False]
    masked = len(instances[1])
    assert pooled.shape[0] == masked
    whole = train(same_weights(roi_heads)[1], "masks", "masks", "nothing")
    stock = same_weights(roi_heads)[0].train()
    with EventStorage():
        (mean,) = stock.mask_head(pooled, instances).values()
    sampled = same_weights(roi_heads)[1].train()
    torch.manual_seed(7)
    with EventStorage():
        matched = sampled.label_and_sample_proposals(
            proposals(3), targets("boxes", "masks", "nothing")
        )
    regions = sum(int((image.gt_classes < CLASSES).sum()) for image in matched)
    assert 0 < masked < regions
    torch.testing.assert_close(losses["loss_mask"], mean * masked / regions)
    for name in ("loss_cls", "loss_box_reg"):
        assert torch.equal(losses[name], whole[name]), "boxes learn from all images"


@pytest.mark.parametrize("kinds", [("boxes", "boxes"), ("nothing", "boxes"), ("nothing",)])
def test_without_any_mask_the_mask_head_takes_part_with_zero(roi_heads, kinds) -> None:
    _, ours = same_weights(roi_heads)
    before = copy.deepcopy(ours.mask_head.state_dict())
    losses = train(ours, *kinds)
    assert losses["loss_mask"] == 0 and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in ours.mask_head.parameters())
    assert all(p.grad.any() for p in ours.box_head.parameters())
    for name, value in ours.mask_head.state_dict().items():
        assert torch.equal(value, before[name]), name


@torch.no_grad()
def test_inference_of_masks_is_the_stock_one(roi_heads) -> None:
    results = []
    for heads in same_weights(roi_heads):
        found, losses = heads.eval()(None, features(2), proposals(2))
        assert losses == {} and len(found[0])
        results.append(found)
    for wanted, found in zip(*results):
        assert torch.equal(wanted.pred_masks, found.pred_masks)
        assert torch.equal(wanted.scores, found.scores)
