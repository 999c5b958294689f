"""The class-balanced predictor: the formula as a plain loop, the counts, the weights it loads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from configs.common.balanced import balance_classes
from configs.common.gppf_tasks import gppf_tasks
from gppf_d2.data.class_counts import ClassCounts
from gppf_d2.modeling.heads import ClassBalancedOutputLayers, prediction_layers
from gppf_d2.modeling.heads.class_balanced import class_balanced_weights

COUNTS = [1, 10, 3000, 0, 40]
CLASSES = len(COUNTS)


def predictor(
    kind: type[nn.Module] = ClassBalancedOutputLayers, seed: int = 0, **options: object
) -> nn.Module:
    torch.manual_seed(seed)
    if kind is ClassBalancedOutputLayers:
        options = {"class_counts": COUNTS, **options}
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    layers = kind(
        ShapeSpec(channels=6), box2box_transform=transform, num_classes=CLASSES, **options
    )
    with torch.no_grad():
        layers.cls_score.weight.normal_()
    return layers


def proposals(labels: list[list[int]]) -> list[Instances]:
    found = []
    for classes in labels:
        one = Instances((40, 40))
        one.proposal_boxes = Boxes(torch.tensor([[2.0, 3.0, 20.0, 30.0]] * len(classes)))
        one.gt_boxes = Boxes(torch.tensor([[3.0, 3.0, 22.0, 28.0]] * len(classes)))
        one.gt_classes = torch.tensor(classes, dtype=torch.int64)
        found.append(one)
    return found


LABELS = [[0, 1, 5, 5], [2, 4, 5, 1, 5]]  # 5 is the background


def losses(layers: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    with EventStorage(0), torch.no_grad():
        return layers.losses(layers.to(dtype)(x), proposals(LABELS))


def plain_weights(beta: float) -> list[float]:
    """The formula, class by class; the background is a class of 10^9 objects."""
    weights = [(1 - beta) / (1 - beta**n) if n else 0.0 for n in COUNTS]
    scale = sum(n > 0 for n in COUNTS) / sum(weights)
    return [w * scale for w in weights] + [(1 - beta) / (1 - beta ** (10**9)) * scale]


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_weights_are_the_formula_and_sum_to_the_number_of_classes(beta: float) -> None:
    weights = class_balanced_weights(COUNTS, beta)
    assert weights.tolist() == pytest.approx(plain_weights(beta))
    assert float(weights[:CLASSES].sum()) == pytest.approx(4)  # of five, one has no object
    assert bool((weights[:CLASSES][[0, 1, 4]] > weights[-1]).all()) == (beta > 0)


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_loss_is_a_plain_loop_over_regions(beta: float) -> None:
    layers = predictor(beta=beta)
    found = losses(layers, torch.float64)["loss_cls"]
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1)).double()
    total = 0.0
    for scores, label in zip(layers(x)[0].tolist(), sum(LABELS, [])):
        evidence = math.log(sum(math.exp(score) for score in scores)) - scores[label]
        total += plain_weights(beta)[label] * evidence
    assert found.item() == pytest.approx(total / 9)


def test_other_losses_and_evaluation_are_detectron2s() -> None:
    ours, stock = predictor(), predictor(FastRCNNOutputLayers)
    assert torch.equal(losses(ours)["loss_box_reg"], losses(stock)["loss_box_reg"])
    assert not torch.equal(losses(ours)["loss_cls"], losses(stock)["loss_cls"])
    x = torch.randn(9, 6)
    assert torch.equal(ours(x)[0], stock(x)[0])


def test_with_beta_0_and_all_classes_it_is_the_stock_loss() -> None:
    ours, stock = predictor(beta=0.0, class_counts=[3] * CLASSES), predictor(FastRCNNOutputLayers)
    assert float(losses(ours)["loss_cls"]) == pytest.approx(float(losses(stock)["loss_cls"]))


def test_weights_of_losses_hold() -> None:
    once = losses(predictor(loss_weight=1.0))["loss_cls"]
    assert torch.allclose(losses(predictor(loss_weight=0.5))["loss_cls"], once / 2)


def test_background_weighs_what_it_is_told_to() -> None:
    layers = predictor(background_weight=0.0)
    x = torch.randn(2, 6)
    with EventStorage(0):
        assert float(layers.losses(layers(x), proposals([[5, 5]]))["loss_cls"].detach()) == 0
        assert float(predictor().losses(layers(x), proposals([[5, 5]]))["loss_cls"].detach()) > 0


def test_no_region_has_a_loss_of_zero_with_a_graph() -> None:
    layers = predictor()
    with EventStorage(0):
        found = layers.losses(layers(torch.zeros(0, 6)), proposals([[]]))["loss_cls"]
    assert found.item() == 0 and found.requires_grad


def test_half_precision_scores_get_the_same_loss() -> None:
    layers = predictor()
    exact = losses(layers)["loss_cls"]
    with torch.autocast("cpu", torch.bfloat16):
        half = losses(layers)["loss_cls"]
    assert half.dtype == torch.float32
    assert torch.allclose(half, exact, rtol=0.05)


def test_a_stock_predictors_weights_load_and_its_state_is_that_of_a_stock_one() -> None:
    ours, stock = predictor(), predictor(FastRCNNOutputLayers, seed=1)
    losses(ours)  # the weights of the loss are no state
    assert ours.state_dict().keys() == stock.state_dict().keys()
    ours.load_state_dict(stock.state_dict())
    assert prediction_layers(ours) == prediction_layers(stock) == ("",)


def test_counts_are_asked_for_at_the_first_loss_and_once() -> None:
    asked = []
    layers = predictor(class_counts=lambda: asked.append(1) or COUNTS)
    layers.eval()(torch.randn(2, 6))
    assert not asked
    assert torch.equal(losses(layers)["loss_cls"], losses(predictor())["loss_cls"])
    losses(layers)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"beta": 1.0}, "beta is 1.0"),
        ({"background_weight": -1.0}, "must not be negative"),
        ({"use_sigmoid_ce": True}, "set use_sigmoid_ce=False"),
        ({"class_counts": [1, 2]}, "has 2 numbers and num_classes is 5"),
        ({"class_counts": [0] * CLASSES}, "No class has an object"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        losses(predictor(**options))


def test_counts_are_those_of_the_records_without_crowds(mini_root: Path) -> None:
    names = ["mini_scenes_train", "mini_scenes_val"]
    wanted = [0] * len(MetadataCatalog.get(names[0]).thing_classes)
    for name in names:
        for record in DatasetCatalog.get(name):
            for one in record["annotations"]:
                wanted[one["category_id"]] += not one["iscrowd"]
    assert ClassCounts(names)() == wanted and sum(wanted)
    assert [a - b for a, b in zip(wanted, ClassCounts(names[0])())] == ClassCounts(names[1])()


@pytest.mark.parametrize("cascade", [False, True])
def test_every_stage_of_a_detector_is_balanced(cascade: bool) -> None:
    stages = ("p0", "p1", "p2", "p3")
    widths = (96, 192, 384, 768)
    options = {"stages": stages, "widths": widths, "cascade": True} if cascade else {}
    task = gppf_tasks(**options)["lvis"]
    balance_classes(task, beta=0.99)
    roi = task.head.roi_heads
    found = roi.box_predictors if cascade else [roi.box_predictor]
    for one in found:
        layers = instantiate(one)
        assert isinstance(layers, ClassBalancedOutputLayers) and layers.beta == 0.99
        assert layers.num_classes == 1203
    assert len(found) == (3 if cascade else 1)
