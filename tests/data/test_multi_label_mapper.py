"""All labels of an image at once: moved together, from the right source, and refused by name."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from omegaconf import OmegaConf
from PIL import Image

from gppf_d2.data import pseudo_labels
from gppf_d2.data.augmentations import PadToSize
from gppf_d2.data.mappers import (
    ClassificationMapper,
    DepthMapper,
    DetectionMapper,
    Label,
    MultiLabelMapper,
    NormalsMapper,
    SemanticMapper,
)
from gppf_d2.data.mappers.pixel_sources import pixel_sources
from gppf_d2.data.pseudo_labels import StoredLabel
from gppf_d2.data.window_masks import Window, WindowMasks

from ..pseudo.made_labels import make_labels

HEIGHT, WIDTH = 36, 48
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
RING = ((ROWS - 14) ** 2 + (COLUMNS - 20) ** 2 < 100) & ~((ROWS > 9) & (COLUMNS > 22))
BOX = [30.0, 20.0, 44.0, 33.0]
SHARES = np.array([0.5, 0.25, 0.125, 0.125], np.float32)


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rle(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask, np.uint8))


def ring_box() -> list[float]:
    rows, columns = np.nonzero(RING)
    return [columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0]


STORED = {
    "classes": StoredLabel(kind="classes", num_classes=4),
    "boxes": StoredLabel(kind="instances", num_classes=3, masks=True),
    "plain": StoredLabel(kind="instances", num_classes=3),
    "segments": StoredLabel(kind="sem_seg", num_classes=6),
    "depth": StoredLabel(kind="depth"),
    "relative": StoredLabel(kind="inverse_depth"),
}


def stored_values() -> dict:
    """Labels that are functions of a pixel's place, which the image holds too."""
    depth = np.where(RING, 0, 1 + COLUMNS + ROWS / 16)
    objects = {
        "boxes": [ring_box(), BOX],
        "scores": [0.9, 0.6],
        "categories": [2, 0],
    }
    square = (COLUMNS >= 30) & (COLUMNS < 44) & (ROWS >= 20) & (ROWS < 33)
    masks = [rle(RING)["counts"], rle(square)["counts"]]
    return {
        "classes": SHARES,
        "boxes": {**objects, "masks": masks},
        "plain": objects,
        "segments": np.where(RING, 255, COLUMNS // 8),
        "depth": depth,
        "relative": np.where(RING, np.nan, ROWS - 20.0),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose colours are (column, row, ring), annotations of all kinds, and pseudo labels,
    in row 1 those of a teacher that found nothing."""
    root = tmp_path_factory.mktemp("labels")
    pixels = np.stack([COLUMNS, ROWS, np.where(RING, 255, 0)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(root / "image.png")
    Image.fromarray((COLUMNS // 8).astype(np.uint8)).save(root / "segments.png")
    Image.fromarray((COLUMNS * 500).astype(np.uint16)).save(root / "depth.png")
    np.save(root / "normals.npy", np.stack([COLUMNS - 20, ROWS - 10, 9 + 0 * ROWS], axis=-1))
    empty = {
        **stored_values(),
        "boxes": {"boxes": [], "scores": [], "categories": [], "masks": []},
        "plain": {"boxes": [], "scores": [], "categories": []},
    }
    make_labels(root / "labels", root, ["image.png"] * 2, [stored_values(), empty], STORED)
    return root


@pytest.fixture
def record(folder: Path) -> dict:
    """Of the dataset "own", with annotations of all kinds and with pseudo labels."""
    shard = str(folder / "labels" / "shard-00000.arrow")
    return {
        "file_name": str(folder / "image.png"),
        "dataset_name": "own",
        "label": 3,
        "annotations": [
            {"bbox": ring_box(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
            | {"segmentation": rle(RING)},
            {"bbox": [2.0, 2.0, 8.0, 8.0], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
            | {"segmentation": [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]]},
            {"bbox": [0, 0, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1},
        ],
        "sem_seg_file_name": str(folder / "segments.png"),
        "depth_file_name": str(folder / "depth.png"),
        "depth_scale": 1000.0,
        "focal_length": 100.0,
        "normals_file_name": str(folder / "normals.npy"),
        "pseudo_shard": shard,
        "pseudo_row": 0,
    }


PSEUDO = {
    "classes": Label(kind="classes", num_classes=4),
    "boxes": Label(kind="instances", num_classes=3, masks=True),
    "segments": Label(kind="sem_seg", num_classes=6),
    "depth": Label(kind="depth"),
    "relative": Label(kind="inverse_depth"),
}
SHIFTING = [
    T.RandomCrop("absolute", (30, 40)),
    T.RandomFlip(),
    T.RandomFlip(horizontal=False, vertical=True),
    T.FixedSizeCrop((34, 36)),
]


def mapped(record: dict, labels: dict, augmentations: list = SHIFTING, seed: int = 0) -> dict:
    seed_all(seed)
    return MultiLabelMapper(labels=labels, augmentations=augmentations)(record)


@pytest.mark.parametrize("seed", range(6))
def test_pseudo_labels_stay_on_their_pixels_through_crop_flip_and_padding(
    record: dict, seed: int
) -> None:
    sample = mapped(record, PSEUDO, seed=seed)
    labels = sample["labels"]
    columns, rows, blue = sample["image"].long()
    padding = (columns == 128) & (rows == 128)
    ring = (blue == 255) & ~padding
    assert sample["image"].shape == (3, 34, 36) and padding.sum() == 4 * 36
    assert labels["classes"]["label"].tolist() == SHARES.tolist()
    expected = torch.where(ring | padding, 255, columns // 8)
    assert torch.equal(labels["segments"]["sem_seg"], expected)
    expected = torch.where(ring | padding, 0, 1 + columns + rows / 16)
    assert torch.equal(labels["depth"]["depth"], expected)
    relative = labels["relative"]["inverse_depth"]
    # 36 rows span 35, so that the lowest of the known values becomes 35
    assert torch.equal(relative, torch.where(ring | padding, 0, rows + 35.0))
    instances = labels["boxes"]["instances"]
    first = (instances.gt_classes == 2).tolist().index(True)
    assert torch.equal(instances.gt_masks.tensor[first], ring)
    [tight] = instances.gt_masks[first].get_bounding_boxes().tensor
    assert torch.equal(instances.gt_boxes.tensor[first], tight)
    assert all(instances.gt_masks.tensor[:, padding.bool()].sum(1) == 0)


def test_own_annotations_are_those_of_the_kinds_own_mappers(record: dict) -> None:
    augmentations = [
        T.ResizeShortestEdge([20, 50], sample_style="range"),
        T.RandomCrop("relative_range", (0.6, 0.6)),
        T.RandomFlip(),
    ]
    own = {"supervised": ["own"], "pseudo": False}
    labels = {
        "depth": Label(kind="depth", **own),
        "near": Label(kind="inverse_depth", **own),
        "segments": Label(kind="sem_seg", num_classes=6, **own),
        "normals": Label(kind="normals", **own),
        "boxes": Label(kind="instances", num_classes=2, masks=True, **own),
        "classes": Label(kind="classes", num_classes=4, **own),
    }
    del record["pseudo_shard"]
    settings = {"augmentations": augmentations}
    mappers = {
        "depth": DepthMapper(True, **settings),
        "segments": SemanticMapper(True, **settings),
        "normals": NormalsMapper(True, **settings),
        "boxes": DetectionMapper(True, use_instance_mask=True, **settings),
    }
    one_by_one = {k: v for k, v in record.items() if k != "sem_seg_file_name"}
    for seed in range(4):
        sample = mapped(record, labels, augmentations, seed)
        assert list(sample["labels"]) == list(labels)
        for name, mapper in mappers.items():
            seed_all(seed)
            expected = mapper(record if name == "segments" else one_by_one)
            assert torch.equal(expected["image"], sample["image"])
            [(key, value)] = sample["labels"][name].items()
            if name != "boxes":
                assert value.dtype == expected[key].dtype and torch.equal(value, expected[key])
                continue
            assert torch.equal(value.gt_boxes.tensor, expected[key].gt_boxes.tensor)
            assert torch.equal(value.gt_masks.tensor, expected[key].gt_masks.tensor)
            assert value.gt_classes.tolist() == expected[key].gt_classes.tolist()
        assert sample["labels"]["classes"] == {"label": ClassificationMapper(True)(record)["label"]}
        depth = sample["labels"]["depth"]["depth"]
        near = torch.where(depth > 0, 1 / depth, 0)
        torch.testing.assert_close(sample["labels"]["near"]["inverse_depth"], near)
        seed_all(seed)
        assert sample["focal_length"] == mappers["depth"](one_by_one)["focal_length"]


def test_supervised_labels_where_they_are_and_pseudo_labels_elsewhere(record: dict) -> None:
    labels = {
        "classes": Label(kind="classes", supervised=["own"], num_classes=4),
        "boxes": Label(kind="instances", supervised=["another"]),
        "others": Label(kind="instances", pseudo="plain"),
        "never": Label(kind="depth", supervised=["another"], pseudo=False),
        "unknown": Label(kind="sem_seg"),
    }
    found = mapped(record, labels, [])["labels"]
    assert list(found) == ["classes", "boxes", "others"]
    assert found["classes"] == {"label": 3}
    assert found["boxes"]["instances"].gt_classes.tolist() == [2, 0]
    assert not found["boxes"]["instances"].has("gt_masks")
    record["dataset_name"] = "another"
    found = mapped(record, labels, [])["labels"]
    assert list(found) == ["classes", "boxes", "others", "never"]
    assert found["classes"]["label"].tolist() == SHARES.tolist()
    assert found["boxes"]["instances"].gt_classes.tolist() == [1, 0]
    del record["pseudo_shard"]
    assert list(mapped(record, labels, [])["labels"]) == ["boxes", "never"]
    record["dataset_name"] = "a third one"
    with pytest.raises(ValueError, match="'a third one' has none of the labels classes, boxes, "):
        mapped(record, labels, [])


def test_a_label_that_no_dataset_gives_is_refused(record: dict) -> None:
    """As on the images themselves where the labelled copy of a dataset was meant."""
    labels = {
        "classes": Label(kind="classes", supervised=["own"]),
        "segments": Label(kind="sem_seg"),
    }
    mapper = MultiLabelMapper(labels=labels, augmentations=[])
    plain = {key: value for key, value in record.items() if not key.startswith("pseudo_")}
    mapper.check_datasets([plain, record])
    with pytest.raises(ValueError, match="Label 'segments' is on no image.*train on pseudo_NAME"):
        mapper.check_datasets([plain])
    with pytest.raises(ValueError, match="'elsewhere' has none of the labels classes, segments"):
        mapper.check_datasets([record, {**plain, "dataset_name": "elsewhere"}])


def test_masks_are_there_where_all_objects_of_an_image_have_one(record: dict) -> None:
    label = Label(kind="instances", supervised=["own"], pseudo="plain", masks=True)

    def instances():
        return mapped(record, {"boxes": label}, SHIFTING)["labels"]["boxes"]["instances"]

    assert instances().has("gt_masks")
    del record["annotations"][0]["segmentation"]
    assert not instances().has("gt_masks") and len(instances()) == 2
    record["dataset_name"] = "elsewhere"  # pseudo boxes without masks
    assert not instances().has("gt_masks") and len(instances()) > 0


def test_an_image_where_nothing_was_found_is_a_negative(record: dict) -> None:
    record["pseudo_row"] = 1
    labels = {**PSEUDO, "plain": Label(kind="instances")}
    found = mapped(record, labels)["labels"]
    for name in ("boxes", "plain"):
        instances = found[name]["instances"]
        assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)
        assert instances.gt_classes.dtype == torch.int64 and instances.image_size == (34, 36)
    assert found["boxes"]["instances"].gt_masks.tensor.shape == (0, 34, 36)
    nothing = [T.CropTransform(0, 0, 4, 4)]  # no object there
    record["pseudo_row"] = 0
    assert len(mapped(record, PSEUDO, nothing)["labels"]["boxes"]["instances"]) == 0


def test_pseudo_boxes_below_min_score_are_left_out(record: dict) -> None:
    for least, classes in ((0.0, [2, 0]), (0.6, [2, 0]), (0.7, [2]), (0.9, [2]), (1.0, [])):
        label = Label(kind="instances", min_score=least)
        instances = mapped(record, {"boxes": label}, [])["labels"]["boxes"]["instances"]
        assert instances.gt_classes.tolist() == classes


def test_one_image_is_read_and_labels_that_are_not_wanted_are_not_decoded(
    record: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    read = Image.open
    monkeypatch.setattr(Image, "open", lambda file: calls.append("image") or read(file))
    decode = pseudo_labels.decode
    monkeypatch.setattr(
        pseudo_labels,
        "decode",
        lambda label, *args: calls.append(label.kind) or decode(label, *args),
    )
    labels = {"depth": PSEUDO["depth"], "boxes": Label(kind="instances", supervised=["own"])}
    mapped(record, labels)
    assert sorted(calls) == ["depth", "image"]


def test_samples_are_a_function_of_the_seed_and_leave_the_record_alone(record: dict) -> None:
    before = pickle.dumps(record)
    mapper = pickle.loads(pickle.dumps(MultiLabelMapper(labels=PSEUDO, augmentations=SHIFTING)))
    samples = []
    for seed in (1, 2, 1):
        seed_all(seed)
        samples.append(mapper(record))
    assert pickle.dumps(record) == before
    keys = {"file_name", "dataset_name", "height", "width", "focal_length", "image", "labels"}
    assert set(samples[0]) == keys and samples[0]["height"] == HEIGHT
    assert torch.equal(samples[0]["image"], samples[2]["image"])
    assert not torch.equal(samples[0]["image"], samples[1]["image"])
    for name in ("depth", "segments"):
        [(key, first)] = samples[0]["labels"][name].items()
        assert torch.equal(first, samples[2]["labels"][name][key])


def test_channels_come_in_the_order_asked_for(record: dict) -> None:
    images = [
        MultiLabelMapper(labels=PSEUDO, augmentations=[], image_format=order)(record)["image"]
        for order in ("RGB", "BGR")
    ]
    assert torch.equal(images[0], images[1].flip(0)) and images[0][0, 0, 5] == 5


def test_a_damaged_image_is_an_oserror_with_its_name(record: dict, tmp_path: Path) -> None:
    whole = Path(record["file_name"]).read_bytes()
    record["file_name"] = str(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="cut.png"):
        mapped(record, PSEUDO)
    del record["pseudo_shard"]
    (tmp_path / "cut.png").unlink()
    with pytest.raises(FileNotFoundError, match="cut.png"):
        mapped(record, {"boxes": Label(kind="instances", supervised=["own"])})


@pytest.mark.parametrize(
    ("label", "change", "sentence"),
    [
        ({"kind": "classes", "num_classes": 3}, {}, "has label 3, expected .*below 3"),
        ({"kind": "instances", "num_classes": 1}, {}, "an object of category 1"),
        ({"kind": "instances"}, {"annotations": None}, "has no 'annotations' in its record; 'own'"),
        ({"kind": "sem_seg", "num_classes": 5}, {}, "holds the label 5, expected 0 to 4"),
        ({"kind": "depth"}, {"depth_scale": 0}, "depth_scale 0"),
        ({"kind": "inverse_depth"}, {"depth_file_name": None}, "has no 'depth_file_name'"),
        ({"kind": "normals"}, {"normals_signs": (2, 1, 1)}, "normals_signs"),
    ],
)
def test_own_annotations_that_cannot_be_right_are_refused_with_the_labels_name(
    label: dict, change: dict, sentence: str, record: dict
) -> None:
    record |= change
    record = {key: value for key, value in record.items() if value is not None}
    with pytest.raises(ValueError, match=f"Label 'mine': .*{sentence}"):
        mapped(record, {"mine": {"supervised": ["own"], **label}})


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ({"kind": "classes", "num_classes": 3}, "num_classes is 3, but .*'classes' have 4"),
        ({"kind": "depth"}, "kind is 'depth', but the pseudo labels 'classes' are of kind"),
    ],
)
def test_pseudo_labels_of_another_kind_or_other_classes_are_refused(
    label: dict, sentence: str, record: dict
) -> None:
    with pytest.raises(ValueError, match=f"Label 'mine': .*{sentence}"):
        mapped(record, {"mine": {"pseudo": "classes", **label}})


def test_values_out_of_range_are_refused_where_the_labels_classes_are_not_known(
    folder: Path, record: dict
) -> None:
    unknown = {
        "boxes": StoredLabel(kind="instances"),
        "segments": StoredLabel(kind="sem_seg"),
    }
    make_labels(folder / "unknown", folder, ["image.png"], [stored_values()], unknown)
    record["pseudo_shard"] = str(folder / "unknown" / "shard-00000.arrow")
    with pytest.raises(ValueError, match="Label 'boxes': .*category 2, expected one below 2"):
        mapped(record, {"boxes": {"kind": "instances", "num_classes": 2}})
    with pytest.raises(ValueError, match="Label 'segments': .*class 5, expected 0 to 4"):
        mapped(record, {"segments": {"kind": "sem_seg", "num_classes": 5}})


def test_labels_of_another_image_are_refused(record: dict, tmp_path: Path) -> None:
    first = Path(record["file_name"])
    moved = tmp_path / "moved.png"
    moved.write_bytes(first.read_bytes())
    assert mapped({**record, "file_name": str(moved)}, PSEUDO)["labels"], "the same image"
    other = tmp_path / first.name
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    with pytest.raises(ValueError, match="is not the image that its pseudo labels are of"):
        mapped({**record, "file_name": str(other)}, PSEUDO)
    del record["dataset_name"]
    with pytest.raises(ValueError, match="no 'dataset_name'"):
        mapped(record, PSEUDO)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({}, "labels is empty"),
        ({"a": {"kind": "boxes"}}, "Label 'a': kind is 'boxes'; choose one of classes, instances"),
        ({"a": {"supervised": ["x"]}}, "Label 'a' lacks its kind"),
        ({"a": {"kind": "depth", "maks": True}}, "Label 'a' has no field 'maks'; it takes kind"),
        ({"a": 3}, "Label 'a' is 3; write Label"),
        ({"a": {"kind": "depth", "pseudo": False}}, "neither supervised nor pseudo"),
        ({"a": {"kind": "depth", "supervised": "x"}}, "supervised is 'x'; give a list"),
        ({"a": {"kind": "depth", "num_classes": 4}}, "num_classes is 4, which means nothing"),
        ({"a": {"kind": "sem_seg", "masks": True}}, "masks is True, which means nothing"),
        ({"a": {"kind": "classes", "min_score": 0.5}}, "min_score is 0.5, which means nothing"),
        ({"a": {"kind": "instances", "min_score": 2}}, "min_score is 2, expected a score"),
        ({"a": {"kind": "classes", "num_classes": 0}}, "num_classes is 0, expected 1 or more"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(labels: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MultiLabelMapper(labels=labels, augmentations=[])


def test_it_is_built_from_a_lazy_config_and_is_for_training() -> None:
    labels = {
        "boxes": LazyCall(Label)(kind="instances", supervised=["a", "b"], masks=True),
        "depth": {"kind": "depth", "supervised": ["b"], "pseudo": False},
    }
    call = LazyCall(MultiLabelMapper)(is_train=True, labels=labels, augmentations=[])
    mapper = instantiate(OmegaConf.create(call, flags={"allow_objects": True}))
    assert mapper.labels["boxes"] == Label(kind="instances", supervised=["a", "b"], masks=True)
    assert mapper.dataset_names == ("a", "b") and mapper.reads_dataset_name
    with pytest.raises(ValueError, match="is_train is False"):
        MultiLabelMapper(False, labels=labels, augmentations=[])
    constrained = T.RandomCrop_CategoryAreaConstraint("absolute", (8, 8), 0.75, 255)
    with pytest.raises(ValueError, match="RandomCrop_CategoryAreaConstraint asks for sem_seg"):
        MultiLabelMapper(labels=labels, augmentations=[T.RandomFlip(), constrained])


def test_sources_of_pixels_give_what_the_transforms_do_to_maps_and_masks() -> None:
    random_sizes = np.random.default_rng(0)
    for seed in range(40):
        height, width, tall, wide = random_sizes.integers(3, 70, 4).tolist()
        values = random_sizes.integers(0, 255, (height, width), dtype=np.uint8)
        seed_all(seed)
        augmentations = T.AugmentationList(
            [
                T.RandomFlip(),
                T.ResizeTransform(height, width, tall, wide),
                T.RandomBrightness(0.5, 1.5),
                T.RandomCrop("relative_range", (0.5, 0.5)),
                T.FixedSizeCrop((30, 40)),
                T.RandomFlip(horizontal=False, vertical=True),
                PadToSize((45, 35)),
            ]
        )
        transforms = augmentations(T.AugInput(np.zeros((height, width, 3), np.uint8)))
        sources = pixel_sources(transforms, (height, width))
        expected = transforms.apply_segmentation(values)
        assert np.array_equal(sources.take(values, 255), expected)
        mask = (values < 40).astype(np.uint8)
        moved = WindowMasks([sources.window(Window(0, 0, mask))], expected.shape).tensor[0].numpy()
        assert np.array_equal(moved, transforms.apply_segmentation(mask) == 1)


def test_labels_follow_a_rotation_too(record: dict) -> None:
    labels = {**PSEUDO, "boxes": Label(kind="instances", masks=True)}
    turned = [T.RotationTransform(HEIGHT, WIDTH, 90, expand=True)]
    assert pixel_sources(turned[0], (HEIGHT, WIDTH)) is None
    found = mapped(record, labels, turned)["labels"]
    instances = found["boxes"]["instances"]
    known = found["relative"]["inverse_depth"] > 0
    assert known.shape == (WIDTH, HEIGHT) and torch.equal(known, found["depth"]["depth"] > 0)
    assert torch.equal(known, found["segments"]["sem_seg"] != 255)
    assert torch.equal(instances.gt_masks.tensor[0], ~known)
    tight = instances.gt_masks.get_bounding_boxes().tensor
    assert (instances.gt_boxes.tensor - tight).abs().max() <= 1


def test_what_a_rotation_pads_has_no_label(record: dict) -> None:
    turned = [T.RotationTransform(HEIGHT, WIDTH, 30, expand=True)]
    labels = {"segments": PSEUDO["segments"], "depth": PSEUDO["depth"]}
    found = mapped(record, labels, turned)["labels"]
    segments, depth = found["segments"]["sem_seg"], found["depth"]["depth"]
    assert segments[0, 0] == 255 and (segments == 255).float().mean() > 0.3
    assert torch.equal(segments != 255, depth > 0)
