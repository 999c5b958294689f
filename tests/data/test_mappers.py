"""Mappers: what they hand to a head, on files written by the tests."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image, PngImagePlugin
from torchvision.transforms import v2

from gppf_d2.data.mappers import (
    ClassificationMapper,
    DepthMapper,
    DetectionMapper,
    SemanticMapper,
)

HEIGHT, WIDTH = 24, 32


@pytest.fixture
def image_file(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def record(image_file: str, tmp_path: Path) -> dict:
    """One record with the annotations of all kinds; the value of a map's pixel is its column."""
    columns = np.tile(np.arange(WIDTH, dtype=np.uint16), (HEIGHT, 1))
    Image.fromarray((columns // 4).astype(np.uint8)).save(tmp_path / "labels.png")
    Image.fromarray(columns * 500).save(tmp_path / "depth.png")
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[4:12, 8:20] = 1
    return {
        "file_name": image_file,
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 3,
        "label": 2,
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "depth_file_name": str(tmp_path / "depth.png"),
        "depth_scale": 1000.0,
        "annotations": [
            {
                "bbox": [8, 4, 20, 12],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 1,
                "segmentation": mask_util.encode(mask),
            },
            {
                "bbox": [2, 2, 8, 8],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "segmentation": [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]],
            },
        ],
    }


FLIP = [T.RandomFlip(prob=1.0)]
TRAINING_MAPPERS: dict[str, Callable[[], Callable[[dict], dict]]] = {
    "classification": lambda: ClassificationMapper(
        True,
        transform=v2.Compose(
            [
                v2.RandomResizedCrop(16),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(),
                v2.RandomErasing(p=0.5),
            ]
        ),
    ),
    "semantic": lambda: SemanticMapper(
        True, augmentations=[T.RandomCrop("relative_range", (0.5, 0.5)), T.RandomFlip()]
    ),
    "depth": lambda: DepthMapper(
        True, augmentations=[T.RandomCrop("relative_range", (0.5, 0.5)), T.RandomBrightness(0.5, 2)]
    ),
    "detection": lambda: DetectionMapper(
        True, augmentations=[T.ResizeShortestEdge([16, 24, 31], sample_style="choice")]
    ),
}


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.mark.parametrize("kind", TRAINING_MAPPERS)
def test_randomness_comes_from_the_global_generators_alone(kind: str, record: dict) -> None:
    mapper = TRAINING_MAPPERS[kind]()
    images = []
    for seed in (1, 2, 3, 4, 1):
        seed_all(seed)
        images.append(mapper(record)["image"])
    assert torch.equal(images[0], images[-1])
    assert any(
        images[0].shape != other.shape or not torch.equal(images[0], other) for other in images[1:4]
    )


@pytest.mark.parametrize("kind", TRAINING_MAPPERS)
def test_mapping_leaves_the_record_as_it_was(kind: str, record: dict) -> None:
    before = repr(record)
    sample = TRAINING_MAPPERS[kind]()(record)
    assert repr(record) == before
    assert sample["image"].shape[0] == 3 and sample["image"].dtype == torch.uint8
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", TRAINING_MAPPERS)
def test_a_damaged_image_is_an_oserror_with_its_name(
    kind: str, record: dict, image_file: str
) -> None:
    whole = Path(image_file).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:200] + bytes(len(whole) - 200), b"", b"text"):
        Path(image_file).write_bytes(content)
        with pytest.raises(OSError, match="image.png"):
            TRAINING_MAPPERS[kind]()(record)
    Path(image_file).unlink()
    with pytest.raises(FileNotFoundError, match="image.png"):
        TRAINING_MAPPERS[kind]()(record)


def test_what_pil_calls_a_value_error_is_a_damaged_file_too(record: dict, image_file: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", " " * (2 << 20), zip=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(image_file, pnginfo=text)
    with pytest.raises(ValueError, match="too large"), Image.open(image_file):
        pass
    with pytest.raises(OSError, match="image.png.*too large"):
        TRAINING_MAPPERS["detection"]()(record)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_grey_palette_and_rgba_files_become_three_channels(mode: str, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    path = str(tmp_path / ("image.tif" if mode == "CMYK" else "image.png"))
    Image.fromarray(np.stack([grey] * 3, -1)).convert("L").convert(mode).save(path)
    sample = DetectionMapper(True, augmentations=[])({"file_name": path, "annotations": []})
    assert sample["image"].shape == (3, HEIGHT, WIDTH)
    assert (sample["height"], sample["width"]) == (HEIGHT, WIDTH)
    assert np.array_equal(sample["image"][0], grey)


def test_exif_orientation_is_followed_and_a_broken_one_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (WIDTH, HEIGHT), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "broken.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    mapper = DetectionMapper(False, augmentations=[])
    turned = mapper({"file_name": str(tmp_path / "turned.jpg")})
    broken = mapper({"file_name": str(tmp_path / "broken.jpg")})
    assert turned["image"].shape == (3, WIDTH, HEIGHT) and turned["width"] == HEIGHT
    assert broken["image"].shape == (3, HEIGHT, WIDTH)


def test_a_full_machine_is_no_broken_file(record: dict) -> None:
    def too_many(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="image.png") as caught:
        patch.setattr(Image, "open", too_many)
        SemanticMapper(True, augmentations=[])(record)
    assert caught.value.errno == errno.EMFILE


def test_bgr_is_rgb_with_its_channels_reversed(record: dict) -> None:
    mappers = {
        "classification": lambda f: ClassificationMapper(False, image_size=16, image_format=f),
        "semantic": lambda f: SemanticMapper(False, augmentations=FLIP, image_format=f),
        "depth": lambda f: DepthMapper(False, augmentations=FLIP, image_format=f),
        "detection": lambda f: DetectionMapper(False, augmentations=FLIP, image_format=f),
    }
    for build in mappers.values():
        assert torch.equal(build("RGB")(record)["image"], build("BGR")(record)["image"].flip(0))
        with pytest.raises(ValueError, match="'L'; choose 'RGB' or 'BGR'"):
            build("L")


def test_mappers_work_as_lazy_configs(record: dict) -> None:
    lazy = LazyCall(DetectionMapper)(
        is_train=True,
        augmentations=[LazyCall(T.ResizeShortestEdge)(short_edge_length=12, max_size=16)],
        use_instance_mask=True,
        recompute_boxes=True,
        num_classes=2,
    )
    sample = instantiate(lazy)(record)
    assert sample["image"].shape == (3, 12, 16)
    assert sample["instances"].gt_masks.tensor.shape == (2, 12, 16)
    lazy = LazyCall(ClassificationMapper)(
        is_train=True,
        transform=LazyCall(v2.Compose)(transforms=[LazyCall(v2.RandomResizedCrop)(size=8)]),
    )
    assert instantiate(lazy)(record)["image"].shape == (3, 8, 8)


# classification


def test_classification_evaluation_crops_the_centre(record: dict, image_file: str) -> None:
    sample = ClassificationMapper(False, image_size=21)(record)
    assert sample["image"].shape == (3, 21, 21) and sample["label"] == 2
    pixels = np.asarray(Image.open(image_file)).transpose(2, 0, 1)
    # the shorter side is already 8/7 of 21: nothing is resized
    assert np.array_equal(sample["image"], pixels[:, 2:23, 6:27])


@pytest.mark.parametrize("label", [3, -1, "cat", None, 1.0, True])
def test_a_label_out_of_range_is_named(label: object, record: dict) -> None:
    mapper = ClassificationMapper(True, image_size=8, num_classes=3)
    with pytest.raises(ValueError, match="image.png.*below 3"):
        mapper({**record, "label": label})
    assert mapper({**record, "label": np.int64(2)})["label"] == 2


def test_evaluation_without_ground_truth_is_a_sample_without_it(record: dict) -> None:
    bare = {"file_name": record["file_name"]}
    mappers = {
        "label": lambda train: ClassificationMapper(train, image_size=8),
        "sem_seg": lambda train: SemanticMapper(train, augmentations=[]),
        "depth": lambda train: DepthMapper(train, augmentations=[]),
        "instances": lambda train: DetectionMapper(train, augmentations=[]),
    }
    for key, build in mappers.items():
        assert key not in build(False)(bare)
        with pytest.raises(ValueError, match="image.png"):
            build(True)(bare)


# semantic segmentation


def test_labels_follow_the_image(record: dict) -> None:
    plain = SemanticMapper(True, augmentations=[])(record)["sem_seg"]
    assert plain.dtype == torch.int64 and plain[0].tolist() == [x // 4 for x in range(WIDTH)]
    flipped = SemanticMapper(True, augmentations=FLIP)(record)["sem_seg"]
    assert torch.equal(flipped, plain.flip(1))
    padded = SemanticMapper(True, augmentations=[T.FixedSizeCrop((40, 40))])(record)
    assert padded["image"].shape == (3, 40, 40)
    assert torch.equal(padded["sem_seg"][:HEIGHT, :WIDTH], plain)
    assert (padded["sem_seg"][HEIGHT:] == 255).all() and (padded["sem_seg"][:, WIDTH:] == 255).all()


def test_evaluation_keeps_labels_and_depth_at_the_size_of_the_file(record: dict) -> None:
    resize = [T.Resize((12, 16))]
    semantic = SemanticMapper(False, augmentations=resize)(record)
    depth = DepthMapper(False, augmentations=resize)(record)
    assert semantic["image"].shape == depth["image"].shape == (3, 12, 16)
    assert semantic["sem_seg"].shape == depth["depth"].shape == (HEIGHT, WIDTH)


def test_void_and_offset_of_the_record_become_255(record: dict) -> None:
    ignore = SemanticMapper(True, augmentations=[], num_classes=7)(
        {**record, "sem_seg_ignore": [7]}
    )
    assert sorted(set(ignore["sem_seg"].flatten().tolist())) == [*range(7), 255]
    offset = SemanticMapper(True, augmentations=[], num_classes=7)({**record, "sem_seg_offset": 1})
    values = [255, *range(7)]
    assert offset["sem_seg"][0].tolist() == [values[x // 4] for x in range(WIDTH)]


def test_palette_labels_are_read_as_indices(record: dict) -> None:
    labels = Image.open(record["sem_seg_file_name"])
    labels.load()
    expected = np.asarray(labels)
    labels = labels.convert("P")
    labels.putpalette([(7 * i) % 256 for i in range(768)])
    labels.save(record["sem_seg_file_name"])
    assert np.array_equal(SemanticMapper(False, augmentations=[])(record)["sem_seg"], expected)


def test_wrong_label_maps_are_named(record: dict, tmp_path: Path) -> None:
    mapper = SemanticMapper(True, augmentations=[], num_classes=5)
    with pytest.raises(ValueError, match=r"labels.png.* holds the label 7, expected 0 to 4 or 255"):
        mapper(record)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(record["sem_seg_file_name"])
    with pytest.raises(ValueError, match="labels.png.* is 5 x 5, its image 32 x 24"):
        mapper(record)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(record["sem_seg_file_name"])
    with pytest.raises(ValueError, match="labels.png.*3 channels"):
        mapper(record)
    Path(record["sem_seg_file_name"]).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(OSError, match="labels.png"):
        mapper(record)
    with pytest.raises(ValueError, match="num_classes is 256"):
        SemanticMapper(True, augmentations=[], num_classes=256)


# depth


def test_depth_is_in_metres_with_zero_for_invalid(record: dict) -> None:
    depth = DepthMapper(True, augmentations=[])({**record, "depth_invalid": [15500]})["depth"]
    expected = torch.arange(WIDTH) * 0.5
    expected[31] = 0
    assert depth.dtype == torch.float32 and torch.equal(depth, expected.expand(HEIGHT, WIDTH))


def test_resizing_moves_depths_without_changing_or_inventing_any(record: dict) -> None:
    known = {x * 0.5 for x in range(WIDTH)}
    for height, width in ((12, 16), (48, 64), (17, 50)):
        sample = DepthMapper(True, augmentations=[T.Resize((height, width))])(record)
        depth = sample["depth"]
        assert depth.shape == sample["image"].shape[1:] == (height, width)
        assert set(depth.flatten().tolist()) <= known
        # at the centre of each new pixel, as the image is: at most half a pixel of the file away
        centres = (torch.arange(width) + 0.5) * WIDTH / width
        assert ((depth[0] / 0.5 + 0.5 - centres).abs() <= 0.5).all()


def test_depth_follows_crops_and_flips_and_padding_is_invalid(record: dict) -> None:
    plain = DepthMapper(True, augmentations=[])(record)["depth"]
    crop = T.CropTransform(8, 4, 16, 12)
    cropped = DepthMapper(True, augmentations=[crop, T.HFlipTransform(16)])(record)["depth"]
    assert torch.equal(cropped, plain[4:16, 8:24].flip(1))
    padded = DepthMapper(True, augmentations=[T.FixedSizeCrop((40, 40))])(record)["depth"]
    assert torch.equal(padded[:HEIGHT, :WIDTH], plain)
    assert not padded[HEIGHT:].any() and not padded[:, WIDTH:].any()


@pytest.mark.parametrize("scale", [None, 0, -1.0, "mm"])
def test_a_record_without_a_scale_is_named(scale: object, record: dict) -> None:
    with pytest.raises(ValueError, match="depth.png.*depth_scale"):
        DepthMapper(True, augmentations=[])({**record, "depth_scale": scale})


# detection


def test_boxes_and_masks_agree_after_a_flip(record: dict) -> None:
    mapper = DetectionMapper(True, augmentations=FLIP, use_instance_mask=True, num_classes=2)
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [1, 0]
    assert instances.gt_boxes.tensor.tolist() == [[12, 4, 24, 12], [22, 2, 30, 10]]
    assert torch.equal(instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor)


def test_polygons_stay_polygons_if_asked_for(record: dict) -> None:
    record["annotations"] = record["annotations"][1:]
    mapper = DetectionMapper(
        True, augmentations=[], use_instance_mask=True, instance_mask_format="polygon"
    )
    instances = mapper(record)["instances"]
    assert instances.gt_masks.area().tolist() == [64]


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_an_image_without_objects_keeps_all_fields(mask_format: str, record: dict) -> None:
    mapper = DetectionMapper(
        True, augmentations=FLIP, use_instance_mask=True, instance_mask_format=mask_format
    )
    crowd = {**record["annotations"][0], "iscrowd": 1}
    for objects in ([], [crowd]):
        instances = mapper({**record, "annotations": objects})["instances"]
        assert len(instances) == 0
        assert set(instances.get_fields()) == {"gt_boxes", "gt_classes", "gt_masks"}
        assert len(instances[torch.zeros(0, dtype=torch.long)].gt_masks) == 0


def test_wrong_annotations_are_named(record: dict) -> None:
    def mapper(**options: object) -> DetectionMapper:
        return DetectionMapper(True, augmentations=[], **options)

    with pytest.raises(ValueError, match="image.png.* category 1, expected 0 or more and below 1"):
        mapper(num_classes=1)(record)
    with pytest.raises(ValueError, match="image.png.*instance_mask_format='bitmask'"):
        mapper(use_instance_mask=True, instance_mask_format="polygon")(record)
    with pytest.raises(ValueError, match="choose 'bitmask' or 'polygon'"):
        mapper(use_instance_mask=True, instance_mask_format="rle")
    with pytest.raises(ValueError, match="image.png"):
        mapper()({**record, "height": 10})
    for entry in record["annotations"]:
        del entry["segmentation"]
    with pytest.raises(ValueError, match="image.png.*without a mask"):
        mapper(use_instance_mask=True)(record)
    assert len(mapper()(record)["instances"]) == 2
