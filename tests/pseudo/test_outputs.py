"""What is kept of the outputs of heads: thresholds, ignored pixels, sizes."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances

from gppf_d2.data.pseudo_labels import StoredLabel
from gppf_d2.pseudo import outputs
from gppf_d2.pseudo.outputs import host_value, reduce_output

SIZE = (24, 36)


def reduced(label: StoredLabel, output, size=SIZE, window=None):
    return host_value(label, reduce_output(label, output, size, window))


def logits(classes: int = 5) -> torch.Tensor:
    return 2 * torch.randn(classes, *SIZE, generator=torch.Generator().manual_seed(0))


def expected(probabilities: torch.Tensor, threshold: float) -> np.ndarray:
    best, labels = probabilities.max(0)
    return torch.where(best < threshold, 255, labels).numpy()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("chunk", [1 << 18, 100])
def test_pixels_below_the_threshold_are_ignored(threshold, chunk, monkeypatch) -> None:
    monkeypatch.setattr(outputs, "CHUNK", chunk)
    label = StoredLabel(kind="sem_seg", threshold=threshold)
    found, wanted = reduced(label, logits()), expected(logits().softmax(0), threshold)
    assert found.dtype == np.uint8
    assert 0.1 < (wanted == 255).mean() < 0.9 if threshold else (wanted < 255).all()
    np.testing.assert_array_equal(found, wanted)


def test_probabilities_are_taken_as_they_are() -> None:
    probabilities = logits().softmax(0)
    found = reduced(StoredLabel(kind="sem_seg", threshold=0.5), probabilities)
    np.testing.assert_array_equal(found, expected(probabilities, 0.5))
    # of mask classification: they need not add up to 1
    found = reduced(StoredLabel(kind="sem_seg", threshold=0.3), 0.6 * probabilities)
    np.testing.assert_array_equal(found, expected(probabilities, 0.5))


def test_maps_of_another_size_are_brought_to_the_stored_one() -> None:
    label = StoredLabel(kind="sem_seg", threshold=0.5, longest=18)
    halves = torch.zeros(2, 6, 9)
    halves[0, :, :4], halves[1, :, 5:] = 9, 9
    found = reduced(label, halves)
    assert found.shape == (12, 18)
    assert (found[:, :7] == 0).all() and (found[:, 11:] == 1).all()
    depth = reduced(StoredLabel(kind="depth", longest=18), torch.full((48, 72), 3.0))
    assert depth.shape == (12, 18) and (depth == 3).all()


def test_what_is_no_depth_is_unknown() -> None:
    values = torch.full(SIZE, 2.0)
    values[0, :3] = torch.tensor([-1.0, float("nan"), float("inf")])
    assert reduced(StoredLabel(kind="depth"), values)[0, :4].tolist() == [0, 0, 0, 2]
    relative = reduced(StoredLabel(kind="inverse_depth"), values[None])  # [1, H, W] too
    assert relative[0, 0] == -1 and np.isnan(relative[0, 1])


def test_pixels_that_the_network_did_not_see_are_unknown() -> None:
    window = (-4, 6, 18, 24)  # x0, y0, x1, y1
    seen = np.zeros(SIZE, bool)
    seen[6:, :18] = True
    labels = reduced(StoredLabel(kind="sem_seg"), torch.ones(2, *SIZE), window=window)
    np.testing.assert_array_equal(labels != 255, seen)
    depth = reduced(StoredLabel(kind="depth"), torch.ones(SIZE), window=window)
    np.testing.assert_array_equal(depth > 0, seen)
    relative = reduced(StoredLabel(kind="inverse_depth"), torch.ones(SIZE), window=window)
    np.testing.assert_array_equal(np.isfinite(relative), seen)


@pytest.mark.parametrize("masks", [True, False])
def test_boxes_of_the_threshold_and_above_are_kept(masks: bool) -> None:
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.arange(12.0).reshape(3, 4))
    found.scores = torch.tensor([0.5, 0.49, 0.8])
    found.pred_classes = torch.tensor([3, 1, 0])
    found.pred_masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    found.pred_masks[2, 3:7, 5:11] = True  # the first one has no pixel: no object
    value = reduced(StoredLabel(kind="instances", threshold=0.5, masks=masks), found)
    assert value["categories"].tolist() == ([0] if masks else [3, 0])
    assert value["boxes"].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]][masks:]
    assert ("masks" in value) == masks
    if masks:
        areas = [mask_util.area({"size": list(SIZE), "counts": m}) for m in value["masks"]]
        assert areas == [24]


@pytest.mark.parametrize("kind", ["sem_seg", "depth"])
def test_outputs_of_another_shape_are_named(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"{kind} has shape \[2, 3, 4, 5\], expected \["):
        reduce_output(StoredLabel(kind=kind), torch.zeros(2, 3, 4, 5), SIZE)
