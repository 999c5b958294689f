"""Large-scale jitter against Detectron2's own mapper with the same draws."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.structures import BitMasks, BoxMode
from PIL import Image

from gppf_d2.data.mappers import LargeScaleJitterMapper
from gppf_d2.data.samples import kept_generators
from gppf_d2.data.window_masks import WindowMasks
from gppf_d2.tools.bench_mapper import make_records, photographs, slow_mapper

PROJECT = Path(__file__).resolve().parents[2]
ROOT = Path(os.environ.get("DETECTRON2_DATASETS") or PROJECT.parent / "shared" / "data")
SIZE = 160


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Wide and tall images; the second half is larger than the canvas at most scales."""
    folder = tmp_path_factory.mktemp("images")
    made = []
    for name, (width, height) in {"wide": (120, 84), "tall": (230, 310)}.items():
        (folder / name).mkdir()
        made += make_records(folder / name, 3, width=width, height=height, objects=5)
    return made


def as_rle(record: dict) -> dict:
    """The record with the same objects as RLE."""
    size = record["height"], record["width"]
    annotations = [
        {**a, "segmentation": mask_util.merge(mask_util.frPyObjects(a["segmentation"], *size))}
        for a in record["annotations"]
    ]
    return {**record, "annotations": annotations}


def both(record: dict, seed: int, size: int, resize: str) -> tuple[dict, dict]:
    """The slow and the fast sample of the same draws, which leave the generator where it is."""
    samples = []
    for mapper in (
        slow_mapper(size, seg_pad_value=0),
        LargeScaleJitterMapper(size=size, use_instance_mask=True, resize=resize),
    ):
        np.random.seed(seed)
        samples.append((mapper(record), np.random.uniform()))
    assert samples[0][1] == samples[1][1], "another number of draws"
    return samples[0][0], samples[1][0]


def assert_agree(slow: dict, fast: dict) -> None:
    """Image within two grey levels, the same instances, masks and boxes within rounding."""
    difference = slow["image"].int() - fast["image"].int()
    assert difference.abs().max() <= 2 and difference.float().abs().mean() < 0.3
    one, two = slow["instances"], fast["instances"]
    assert one.image_size == two.image_size
    assert one.gt_classes.tolist() == two.gt_classes.tolist()
    assert two.gt_masks.tensor.shape == one.gt_masks.tensor.shape
    assert ((one.gt_boxes.tensor - two.gt_boxes.tensor).abs() <= 2).all()
    union = (one.gt_masks.tensor | two.gt_masks.tensor).sum((1, 2))
    wrong = (one.gt_masks.tensor ^ two.gt_masks.tensor).sum((1, 2))
    # one pixel of an object of less than 500 is more than 0.002 already
    assert ((wrong <= 0.002 * union) | (wrong <= 1)).all()
    boxes = BitMasks(two.gt_masks.tensor).get_bounding_boxes()
    assert torch.equal(two.gt_boxes.tensor, boxes.tensor)


@pytest.mark.parametrize("resize", ["pil", "cv2"])
@pytest.mark.parametrize("form", ["polygons", "rle"])
def test_equals_detectron2s_mapper_with_the_same_draws(
    resize: str, form: str, records: list[dict]
) -> None:
    objects = 0
    for seed in range(10 * len(records)):
        record = records[seed % len(records)]
        slow, fast = both(as_rle(record) if form == "rle" else record, seed, SIZE, resize)
        assert_agree(slow, fast)
        if form == "rle":
            masks = (sample["instances"].gt_masks.tensor for sample in (slow, fast))
            assert torch.equal(*masks)
        objects += len(fast["instances"])
    assert objects > 150


@pytest.mark.skipif(not (ROOT / "coco128").is_dir(), reason=f"no coco128 in {ROOT}")
def test_equals_detectron2s_mapper_on_photographs() -> None:
    for seed, record in enumerate(photographs(ROOT)[::7]):
        assert_agree(*both(record, seed, 512, "pil" if seed % 2 else "cv2"))


def test_boxes_alone_are_those_of_the_annotations(records: list[dict]) -> None:
    slow = slow_mapper(SIZE)
    slow.recompute_boxes = slow.use_instance_mask = False
    fast = LargeScaleJitterMapper(size=SIZE)
    for seed in range(20):
        record = records[seed % len(records)]
        np.random.seed(seed)
        expected = slow(record)["instances"]
        np.random.seed(seed)
        instances = fast(record)["instances"]
        assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}
        assert instances.gt_classes.tolist() == expected.gt_classes.tolist()
        assert torch.allclose(instances.gt_boxes.tensor, expected.gt_boxes.tensor, atol=1e-3)


def test_padding_is_grey_and_the_flip_moves_it_to_the_left(records: list[dict]) -> None:
    record = records[0]
    for flip in (0.0, 1.0):
        mapper = LargeScaleJitterMapper(size=SIZE, scale=(0.5, 0.5), flip=flip)
        image = mapper(record)["image"]
        assert image.shape == (3, SIZE, SIZE)
        covered = (image != 128).any(0)
        columns = covered.any(0).nonzero()[:, 0]
        width, height = SIZE // 2, round(SIZE / 2 * record["height"] / record["width"])
        assert len(columns) == width and int(covered.any(1).sum()) == height
        assert columns[0] == (SIZE - width if flip else 0)


def test_bgr_is_rgb_with_its_channels_reversed(records: list[dict]) -> None:
    images = []
    for image_format in ("RGB", "BGR"):
        np.random.seed(1)
        mapper = LargeScaleJitterMapper(size=SIZE, image_format=image_format)
        images.append(mapper(records[0])["image"])
    assert torch.equal(images[0], images[1].flip(0)) and not torch.equal(*images)


def test_rle_does_not_spill_into_the_padding(records: list[dict]) -> None:
    mapper = LargeScaleJitterMapper(size=SIZE, scale=(0.4, 0.4), flip=0.0, use_instance_mask=True)
    sample = mapper(as_rle(records[0]))
    masks = sample["instances"].gt_masks.tensor
    assert masks.any() and not masks[:, :, round(0.4 * SIZE) :].any()


@pytest.mark.parametrize(
    "polygon",
    [
        [10.0, 10.0, 50.0, 60.0, 50.0, 10.0, 10.0, 60.0],
        [10.0, 30.0, 90.0, 30.0, 20.0, 80.0, 50.0, 5.0, 80.0, 80.0],
    ],
    ids=["bow tie", "pentagram"],
)
def test_polygons_that_cross_themselves_have_cocos_area(
    polygon: list[float], records: list[dict]
) -> None:
    annotation = {**records[0]["annotations"][0], "segmentation": [polygon]}
    record = {**records[0], "annotations": [annotation]}
    mapper = LargeScaleJitterMapper(size=120, scale=(1.0, 1.0), flip=0.0, use_instance_mask=True)
    [mask] = mapper(record)["instances"].gt_masks.tensor
    [rle] = mask_util.frPyObjects([polygon], 120, 120)
    assert np.array_equal(mask.numpy(), mask_util.decode(rle))


@pytest.mark.parametrize("polygon", [[10.0] * 6, [10.0, 10, 40, 10, 60, 10], [0.0, 0, 9, 9]])
def test_polygons_without_area_are_dropped(polygon: list[float], records: list[dict]) -> None:
    first, second = records[0]["annotations"][:2]
    record = {**records[0], "annotations": [{**first, "segmentation": [polygon]}, second]}
    mapper = LargeScaleJitterMapper(size=120, scale=(1.0, 1.0), use_instance_mask=True)
    assert mapper(record)["instances"].gt_classes.tolist() == [second["category_id"]]


def test_crowds_and_objects_outside_are_left_out(records: list[dict]) -> None:
    record = records[0]
    first, second, *_ = record["annotations"]
    outside = {"segmentation": [[-50.0, -50, -10, -50, -10, -10]], "bbox": [-50, -50, -10, -10]}
    annotations = [{**first, "iscrowd": 1}, {**first, **outside}, second]
    for masks in (True, False):
        mapper = LargeScaleJitterMapper(size=SIZE, scale=(1.0, 1.0), use_instance_mask=masks)
        instances = mapper({**record, "annotations": annotations})["instances"]
        assert instances.gt_classes.tolist() == [second["category_id"]]


def test_an_image_without_objects_keeps_all_fields(records: list[dict]) -> None:
    mapper = LargeScaleJitterMapper(size=SIZE, use_instance_mask=True)
    crowd = {**as_rle(records[0])["annotations"][0], "iscrowd": 1}
    for objects in ([], [crowd]):
        instances = mapper({**records[0], "annotations": objects})["instances"]
        assert len(instances) == 0
        assert set(instances.get_fields()) == {"gt_boxes", "gt_classes", "gt_masks"}
        assert instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_masks.tensor.shape == (0, SIZE, SIZE)
        assert instances.gt_classes.dtype == torch.int64


@pytest.mark.parametrize("shape", [(2, 400), (400, 2)])
def test_images_of_a_line_and_huge_scales_work(shape: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(tmp_path / "line.png")
    record = {"file_name": str(tmp_path / "line.png"), "annotations": []}
    for scale in (0.1, 1.0, 9.0):
        mapper = LargeScaleJitterMapper(size=64, scale=(scale, scale))
        assert set(mapper(record)["image"].unique().tolist()) == {90, 128}


def test_randomness_comes_from_the_global_generators_alone(records: list[dict]) -> None:
    mapper = LargeScaleJitterMapper(size=64, use_instance_mask=True)
    images = []
    for seed in (1, 2, 3, 1):
        np.random.seed(seed)
        random.seed(0)
        images.append(mapper(records[0])["image"])
    assert torch.equal(images[0], images[-1])
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])


def test_mapping_leaves_the_record_as_it_was(records: list[dict]) -> None:
    before = repr(records[0])
    with kept_generators():
        sample = LargeScaleJitterMapper(size=64, use_instance_mask=True)(records[0])
    assert repr(records[0]) == before and "annotations" not in sample
    assert (sample["height"], sample["width"]) == (84, 120) and sample["image_id"] == 0


def test_exif_orientation_is_followed(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    mapper = LargeScaleJitterMapper(size=40, scale=(1.0, 1.0), flip=0.0)
    sample = mapper({"file_name": str(tmp_path / "turned.jpg"), "annotations": []})
    assert (sample["height"], sample["width"]) == (40, 20)
    assert int((sample["image"] != 128).all(0).any(0).sum()) == 20


def test_damaged_images_and_wrong_annotations_are_named(
    records: list[dict], tmp_path: Path
) -> None:
    record = records[0]
    whole = Path(record["file_name"]).read_bytes()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole[: len(whole) // 2])
    mapper = LargeScaleJitterMapper(size=64, use_instance_mask=True, num_classes=80)
    with pytest.raises(OSError, match=r"broken\.jpg"):
        mapper({**record, "file_name": str(broken)})
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        mapper({**record, "file_name": str(tmp_path / "missing.jpg")})

    first = record["annotations"][0]
    wrong = {
        "category 80, expected 0 or more and below 80": {**first, "category_id": 80},
        "without a mask": {**first, "segmentation": None},
        "mask of 30 x 20, its image is 120 x 84": {
            **first,
            "segmentation": mask_util.encode(np.ones((20, 30), np.uint8, order="F")),
        },
    }
    for sentence, annotation in wrong.items():
        with pytest.raises(ValueError, match=rf"0000\.jpg.*{sentence}"):
            mapper({**record, "annotations": [annotation]})
    with pytest.raises(ValueError, match=r"0000\.jpg.*no 'annotations'"):
        mapper({key: value for key, value in record.items() if key != "annotations"})


def test_arguments_that_cannot_be_meant_are_refused() -> None:
    for sentence, options in {
        "is_train is False.*DetectionMapper": {"is_train": False},
        "size is 0": {"size": 0},
        "scale is .2.0, 0.1.": {"scale": (2.0, 0.1)},
        "flip is 2": {"flip": 2},
        "resize is 'torch'; choose 'cv2' or 'pil'": {"resize": "torch"},
        "'L'; choose 'RGB' or 'BGR'": {"image_format": "L"},
    }.items():
        with pytest.raises(ValueError, match=sentence):
            LargeScaleJitterMapper(**options)


def test_works_as_a_lazy_config(records: list[dict]) -> None:
    lazy = LazyCall(LargeScaleJitterMapper)(size=64, scale=[0.5, 1.5], use_instance_mask=True)
    sample = instantiate(lazy)(records[0])
    assert isinstance(sample["instances"].gt_masks, WindowMasks)
    assert len(pickle.dumps(sample)) < 64 * 64 * (3 + len(sample["instances"]))


def test_xywh_boxes_are_read(records: list[dict]) -> None:
    first = records[0]["annotations"][0]
    x0, y0, x1, y1 = first["bbox"]
    twin = {**first, "bbox": [x0, y0, x1 - x0, y1 - y0], "bbox_mode": BoxMode.XYWH_ABS}
    mapper = LargeScaleJitterMapper(size=SIZE, scale=(1.0, 1.0))
    boxes = mapper({**records[0], "annotations": [first, twin]})["instances"].gt_boxes.tensor
    assert torch.allclose(boxes[0], boxes[1])
