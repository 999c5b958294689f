"""Copy-Paste: what must hold of every mixed batch, and equality with the plain way."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from gppf_d2.data.batch_transforms import CopyPaste
from gppf_d2.data.loader import TaskSource, build_train_loader
from gppf_d2.data.mappers import LargeScaleJitterMapper
from gppf_d2.data.window_masks import WindowMasks
from gppf_d2.tasks.schedule import Schedule
from gppf_d2.tasks.stream import Stream, StreamPlan
from gppf_d2.tools.bench_mapper import SlowCopyPaste, make_records

SIZE = 96


def make_sample(boxes: list[list[int]], grey: int, windows: bool = True) -> dict:
    """A grey image with rectangles as objects; the class of an object is its place in the list."""
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[y0:y1, x0:x1] = True
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(boxes)) + grey
    full = BitMasks(masks)
    instances.gt_masks = WindowMasks.from_bitmasks(full) if windows else full
    image = torch.full((3, SIZE, SIZE), grey, dtype=torch.uint8)
    return {"image": image, "instances": instances, "file_name": f"{grey}.jpg", "image_id": grey}


def slow_copy(samples: list[dict]) -> list[dict]:
    """The same samples with masks of the whole image."""
    twins = []
    for sample in samples:
        instances = copy.copy(sample["instances"])
        instances = Instances(instances.image_size, **instances.get_fields())
        instances.gt_masks = BitMasks(instances.gt_masks.tensor)
        twins.append({**sample, "instances": instances})
    return twins


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Four jittered samples."""
    records = make_records(tmp_path_factory.mktemp("images"), 4, width=120, height=90, objects=6)
    mapper = LargeScaleJitterMapper(size=SIZE, scale=(0.6, 2.0), use_instance_mask=True)
    np.random.seed(0)
    return [mapper(record) for record in records]


def test_pasted_objects_lie_above_and_small_remains_are_dropped() -> None:
    base = make_sample(
        [[0, 0, 40, 40], [42, 10, 60, 30], [50, 50, 90, 90], [70, 5, 72, 8], [45, 12, 61, 20]], 10
    )
    partner = make_sample([[20, 0, 61, 45], [80, 80, 96, 96]], 200)
    mixed = CopyPaste(min_visible=0.1, min_area=8).paste(base, partner, [0])
    instances = mixed["instances"]
    # half of 0 is left, 1 is covered, 2 and the tiny 3 are untouched, of 4 nothing is left
    assert instances.gt_classes.tolist() == [10, 12, 13, 200]
    expected = [[0, 0, 20, 40], [50, 50, 90, 90], [70, 5, 72, 8], [20, 0, 61, 45]]
    assert instances.gt_boxes.tensor.tolist() == expected
    assert (mixed["image"][:, 0:45, 20:61] == 200).all()
    assert int((mixed["image"][0] == 200).sum()) == 45 * 41
    assert mixed["image_id"] == 10 and mixed["file_name"] == "10.jpg"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_visible": 0.3, "min_area": 0}, False),
        ({"min_visible": 0.2, "min_area": 0}, True),
        ({"min_visible": 0.0, "min_area": 401}, False),
        ({"min_visible": 0.0, "min_area": 400}, True),
    ],
)
def test_both_limits_of_remains_count(options: dict, kept: bool) -> None:
    base, partner = make_sample([[0, 0, 40, 40]], 1), make_sample([[10, 0, 40, 40]], 50)
    mixed = CopyPaste(**options).paste(base, partner, [0])
    assert mixed["instances"].gt_classes.tolist() == ([1, 50] if kept else [50])


@pytest.mark.parametrize("windows", [True, False])
def test_no_pixel_belongs_to_two_objects_and_boxes_are_tight(windows: bool) -> None:
    tiles = [[x, y, x + 30, y + 30] for x in (0, 32, 64) for y in (0, 32, 64)]
    shifted = [[x + 10, y + 7, x + 35, y + 31] for x in (0, 32) for y in (0, 32)]
    batch = [make_sample(tiles, 10, windows), make_sample(shifted, 100, windows)]
    for seed in range(10):
        np.random.seed(seed)
        for place, sample in enumerate(CopyPaste()(batch)):
            instances = sample["instances"]
            masks = instances.gt_masks.tensor
            assert masks.sum(0).max() <= 1 and masks.flatten(1).any(1).all()
            boxes = BitMasks(masks).get_bounding_boxes().tensor
            assert torch.equal(instances.gt_boxes.tensor, boxes)
            # pixels of the partner where its objects are, the sample's own everywhere else
            own, foreign = (10, 100) if place == 0 else (100, 10)
            pasted = (instances.gt_classes >= 100) == (place == 0)
            above = masks[pasted].any(0)
            assert (sample["image"][:, above] == foreign).all()
            assert (sample["image"][:, ~above] == own).all()


def test_equals_the_plain_way_on_full_masks(batch: list[dict]) -> None:
    pasted = 0
    for seed in range(12):
        np.random.seed(seed)
        fast = CopyPaste(0.8, min_area=20)(batch)
        np.random.seed(seed)
        slow = SlowCopyPaste(0.8, min_area=20)(slow_copy(batch))
        for one, two, before in zip(fast, slow, batch, strict=True):
            assert torch.equal(one["image"], two["image"])
            a, b = one["instances"], two["instances"]
            assert a.gt_classes.tolist() == b.gt_classes.tolist()
            assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
            # what is not pasted onto keeps its boxes
            assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
            pasted += one is not before
    assert pasted > 20


def test_probability_subsets_and_partners_vary(batch: list[dict]) -> None:
    def origins(samples: list[dict]) -> list[int]:
        return [len(sample["instances"]) for sample in samples]

    assert CopyPaste(0.0)(batch) == batch
    results = set()
    for seed in range(6):
        np.random.seed(seed)
        results.add(tuple(origins(CopyPaste()(batch))))
    assert len(results) > 3


def test_what_goes_in_is_left_as_it_was(batch: list[dict]) -> None:
    before = [(s["image"].clone(), s["instances"].gt_masks.tensor) for s in batch]
    np.random.seed(0)
    mixed = CopyPaste()(batch)
    assert any(one is not two for one, two in zip(mixed, batch))
    for sample, (image, masks) in zip(batch, before, strict=True):
        assert torch.equal(sample["image"], image)
        assert torch.equal(sample["instances"].gt_masks.tensor, masks)


def test_a_batch_of_one_and_a_partner_without_objects_change_nothing() -> None:
    alone = make_sample([[0, 0, 9, 9]], 3)
    assert CopyPaste()([alone]) == [alone]
    empty = make_sample([], 7)
    np.random.seed(1)
    mixed = [CopyPaste()([alone, empty]) for _ in range(8)]
    assert all(one[0] is alone for one in mixed)
    assert {len(one[1]["instances"]) for one in mixed} == {0, 1}


def test_what_cannot_be_mixed_is_refused_in_one_sentence() -> None:
    sample, other = make_sample([[0, 0, 9, 9]], 3), make_sample([[0, 0, 9, 9]], 4)
    wide = {**other, "image": torch.zeros(3, SIZE, SIZE + 1, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"sizes \[\(96, 96\), \(96, 97\)\].*LargeScaleJitter"):
        CopyPaste()([sample, wide])
    for masks in (None, PolygonMasks([[np.array([0.0, 0, 2, 0, 2, 2])]])):
        instances = Instances((SIZE, SIZE), gt_boxes=Boxes(torch.zeros(1, 4)))
        if masks is not None:
            instances.gt_masks = masks
        with pytest.raises(ValueError, match=r"'4\.jpg' without bit masks.*use_instance_mask=True"):
            CopyPaste()([sample, {**other, "instances": instances}])
    for options in ({"probability": 1.5}, {"min_visible": -0.1}, {"min_area": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
            CopyPaste(**options)


def test_the_loader_makes_the_same_batches_in_a_worker(tmp_path: Path) -> None:
    records = make_records(tmp_path, 6, width=64, height=48, objects=3)
    lazy = LazyCall(CopyPaste)(probability=0.9, min_area=4)
    runs = []
    for num_workers in (0, 1):
        np.random.seed(num_workers)  # of no consequence
        source = TaskSource(
            records,
            LargeScaleJitterMapper(size=64, use_instance_mask=True),
            batch_transform=instantiate(lazy),
        )
        stream = Stream("objects", len(records), seed=0)
        plan = StreamPlan(Schedule({"objects": 1}, 1), {"objects": stream}, {"objects": 3})
        with build_train_loader(plan, 0, {"objects": source}, 5, num_workers) as loader:
            runs.append([next(loader).samples for _ in range(3)])
    for one, two in zip(*(sum(run, []) for run in runs), strict=True):
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, two["instances"].gt_masks.tensor)
