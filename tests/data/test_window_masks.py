"""Masks as windows against Detectron2's masks of the whole image."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from gppf_d2.data.batch import map_tensors
from gppf_d2.data.window_masks import PASTED, Window, WindowMasks, tight
from tests.modeling.test_heads import CHANNELS, CLASSES, roi_parts

HEIGHT, WIDTH = 60, 80


def make_masks(count: int, seed: int = 0) -> BitMasks:
    """Random blobs, some at the image's edges; the first fills the image, the second is empty."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    for mask in full:
        y, x = (int(torch.randint(0, n, (), generator=generator)) for n in (HEIGHT, WIDTH))
        h, w = (int(torch.randint(1, 50, (), generator=generator)) for _ in range(2))
        part = mask[max(y - 20, 0) : y + h, max(x - 20, 0) : x + w]
        part |= torch.rand(part.shape, generator=generator) < 0.7
    full[0], full[1] = True, False
    return BitMasks(full)


def make_boxes(count: int) -> torch.Tensor:
    """Random boxes [N, 4], many of which reach over the image's edges."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT]) * 1.4
    corners = corners - 10
    return torch.cat([corners.min(1).values, corners.max(1).values + 0.5], dim=1)


@pytest.fixture
def full() -> BitMasks:
    return make_masks(12)


@pytest.fixture
def windows(full: BitMasks) -> WindowMasks:
    return WindowMasks.from_bitmasks(full)


def test_a_tight_window_has_no_empty_edge() -> None:
    mask = np.zeros((6, 9), np.uint8, order="F")
    mask[2:4, 3:8] = 1
    x, y, small = tight(Window(10, 20, mask))
    assert (x, y, small.shape, small.dtype) == (13, 22, (2, 5), np.bool_) and small.all()
    assert tight(Window(4, 5, mask[:2])).mask.shape == (0, 0)
    assert tight(Window(4, 5, mask[:0])).mask.shape == (0, 0)


def test_answers_as_bitmasks_does(full: BitMasks, windows: WindowMasks) -> None:
    assert isinstance(windows, BitMasks) and len(windows) == len(full)
    assert windows.image_size == full.image_size and windows.device == full.device
    assert torch.equal(windows.tensor, full.tensor)
    assert torch.equal(windows.nonempty(), full.nonempty())
    assert torch.equal(windows.get_bounding_boxes().tensor, full.get_bounding_boxes().tensor)
    assert all(torch.equal(a, b) for a, b in zip(windows, full, strict=True))
    assert "num_instances=12" in repr(windows)


@pytest.mark.parametrize(
    "item",
    [
        3, -1, slice(2, 9, 3), torch.tensor([4, 4, 0, 11, 4]), torch.arange(12) % 3 == 0,
        torch.zeros(12, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), [1, 5],
    ],
    ids=str,
)  # fmt: skip
def test_is_indexed_as_bitmasks_is(item: object, full: BitMasks, windows: WindowMasks) -> None:
    some = windows[item]
    assert isinstance(some, WindowMasks) and torch.equal(some.tensor, full[item].tensor)
    assert torch.equal(some.get_bounding_boxes().tensor, full[item].get_bounding_boxes().tensor)
    assert torch.equal(some.nonempty(), full[item].nonempty())
    for window, mask in zip(some.windows(), full[item].tensor, strict=True):
        assert np.array_equal(window.mask, mask.numpy()[window.region])
        assert window.mask.sum() == mask.sum()


@pytest.mark.parametrize("side", [1, 7, 28])
def test_crops_are_those_of_bitmasks_bit_for_bit(side: int) -> None:
    full = make_masks(PASTED + 8)
    rows = torch.arange(3 * len(full)) * 7 % len(full)
    boxes = make_boxes(len(rows))
    windows = WindowMasks.from_bitmasks(full)
    expected = full[rows].crop_and_resize(boxes, side)
    assert torch.equal(windows[rows].crop_and_resize(boxes, side), expected)
    assert expected.any() and not expected.all()
    tight_boxes = full.get_bounding_boxes().tensor
    assert torch.equal(
        windows.crop_and_resize(tight_boxes, side), full.crop_and_resize(tight_boxes, side)
    )
    for row in range(2, 12):  # pasted alone, on a canvas that ends just behind it
        alone = windows[[row] * len(boxes)].crop_and_resize(boxes, side)
        assert torch.equal(alone, full[[row] * len(boxes)].crop_and_resize(boxes, side))
    nothing = windows[:0].crop_and_resize(torch.zeros(0, 4), side)
    assert nothing.shape == (0, side, side) and nothing.dtype == torch.bool


def test_is_concatenated_moved_copied_and_pickled(full: BitMasks, windows: WindowMasks) -> None:
    joined = WindowMasks.cat([windows[[3, 4]], make_masks(3, seed=5), windows[:0], windows[7]])
    expected = BitMasks.cat([full[[3, 4]], make_masks(3, seed=5), full[7]])
    assert torch.equal(joined.tensor, expected.tensor)
    assert torch.equal(joined[[5, 2, 0]].tensor, expected[[5, 2, 0]].tensor)
    for twin in (
        windows.to("cpu"), windows.to(torch.device("cpu"), non_blocking=True),
        copy.deepcopy(windows), pickle.loads(pickle.dumps(windows)),
    ):  # fmt: skip
        assert torch.equal(twin.tensor, full.tensor)
    assert windows.to("meta").device.type == "meta"
    nothing = WindowMasks([], (HEIGHT, WIDTH))
    assert nothing.tensor.shape == (0, HEIGHT, WIDTH) and len(nothing.get_bounding_boxes()) == 0


def test_batches_reach_its_tensors(full: BitMasks, windows: WindowMasks) -> None:
    seen = []

    def function(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor.numel())
        return tensor.clone()

    instances = Instances((HEIGHT, WIDTH), gt_masks=windows)
    twin = map_tensors([{"instances": instances}], function)[0]["instances"].gt_masks
    assert twin is not windows and torch.equal(twin.tensor, full.tensor)
    # windows and rows, not the whole masks
    assert len(seen) == 2 and sum(seen) < full.tensor.numel() / 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_gives_the_same_crops(full: BitMasks, windows: WindowMasks) -> None:
    rows = torch.arange(40, device="cuda") % len(full)
    boxes = make_boxes(len(rows)).cuda()
    moved = windows.to("cuda")
    expected = full.to("cuda")[rows].crop_and_resize(boxes, 28)
    assert torch.equal(moved[rows].crop_and_resize(boxes, 28), expected)
    assert torch.equal(moved.tensor.cpu(), full.tensor)


def test_the_losses_of_a_mask_rcnn_are_those_of_bitmasks(full: BitMasks) -> None:
    torch.manual_seed(0)
    heads = instantiate(roi_parts()["roi_heads"])
    features = {
        f"p{i}": torch.randn(1, CHANNELS, -(-HEIGHT // 2**i), -(-WIDTH // 2**i))
        for i in range(2, 6)
    }
    losses = []
    for masks in (full, WindowMasks.from_bitmasks(full)):
        truth = Instances((HEIGHT, WIDTH))
        truth.gt_boxes = full.get_bounding_boxes()
        truth.gt_classes = torch.arange(len(full)) % CLASSES
        truth.gt_masks = masks
        truth = truth[truth.gt_masks.nonempty()]
        noise = torch.randn(len(truth), 4, generator=torch.Generator().manual_seed(2))
        proposals = Instances((HEIGHT, WIDTH))
        proposals.proposal_boxes = Boxes(truth.gt_boxes.tensor + noise)
        proposals.objectness_logits = torch.zeros(len(truth))
        torch.manual_seed(3)
        with EventStorage():
            _, one = heads(None, features, [proposals], [truth])
        losses.append({name: loss.item() for name, loss in one.items()})
    assert losses[0] == losses[1] and losses[0]["loss_mask"] > 0
