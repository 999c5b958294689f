"""The real datasets, where they exist: what the catalog says, and their first samples."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from gppf_d2.data.mappers import (
    ClassificationMapper,
    DepthMapper,
    DetectionMapper,
    SemanticMapper,
)
from gppf_d2.data.registration import register_dataset

PROJECT = Path(__file__).resolve().parents[2]
ROOT = Path(os.environ.get("DETECTRON2_DATASETS") or PROJECT.parent / "shared" / "data")

# module -> folder below the root
FOLDERS = {
    "cifar10_images": "cifar10_images",
    "coco128": "coco128",
    "bccd": "bccd_detection",
    "facemask": "facemask_detection",
    "pools": "swimming_pools_aerial",
    "nuclei": "dsb2018_nuclei",
    "camvid": "camvid",
    "seven_scenes": "seven_scenes_depth",
}

# dataset -> images, objects, images without an object (of the sets' own documentation)
COUNTS = {
    "cifar10_images_train": (5000, None, None),
    "cifar10_images_test": (1000, None, None),
    "coco128_train": (100, 747, 2),
    "coco128_val": (60, 418, 0),
    "bccd_train": (205, 2804, 0),
    "bccd_val": (87, 1137, 0),
    "bccd_test": (72, 945, 0),
    "facemask_train": (226, 1058, 0),
    "facemask_val": (86, 469, 0),
    "pools_train": (100, 228, 25),
    "pools_val": (40, 68, 12),
    "nuclei_train": (90, 2465, 0),
    "nuclei_val": (22, 569, 0),
    "camvid_train": (74, None, None),
    "camvid_val": (21, None, None),
    "camvid_test": (22, None, None),
    "seven_scenes_train": (50, None, None),
    "seven_scenes_val": (13, None, None),
}

RECORDS: dict[str, list[dict]] = {}


def module_of(name: str) -> str:
    return name.rsplit("_", 1)[0]


def register(module: str, root: object) -> None:
    importlib.import_module(f"gppf_d2.data.catalog.{module}").register(str(root))


def records_of(name: str) -> list[dict]:
    module = module_of(name)
    if not (ROOT / FOLDERS[module]).is_dir():
        pytest.skip(f"the dataset '{FOLDERS[module]}' is not in '{ROOT}' (DETECTRON2_DATASETS)")
    register(module, ROOT)
    if name not in RECORDS:
        RECORDS[name] = DatasetCatalog.get(name)
    return RECORDS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_a_split_has_the_documented_size(name: str) -> None:
    images, objects, negatives = COUNTS[name]
    records = records_of(name)
    assert len(records) == images
    assert len({record["image_id"] for record in records}) == images
    assert len({record["file_name"] for record in records}) == images
    if objects is not None:
        annotations = [record["annotations"] for record in records]
        assert sum(map(len, annotations)) == objects
        assert sum(not entries for entries in annotations) == negatives


@pytest.mark.parametrize("name", COUNTS)
def test_records_and_metadata_agree(name: str) -> None:
    records = records_of(name)
    metadata = MetadataCatalog.get(name)
    kind = metadata.evaluator_type
    if kind == "classification":
        assert {record["label"] for record in records} == set(range(len(metadata.classes)))
        for record in records[:: len(records) // 20]:
            assert Path(record["file_name"]).parent.name == metadata.classes[record["label"]]
    elif kind == "coco":
        boxes = [box for record in records for box in record["annotations"]]
        assert {box["category_id"] for box in boxes} <= set(range(len(metadata.thing_classes)))
        for box in boxes:
            x0, y0, x1, y1 = BoxMode.convert(box["bbox"], box["bbox_mode"], BoxMode.XYXY_ABS)
            assert x0 < x1 and y0 < y1
    elif kind == "sem_seg":
        assert len(metadata.stuff_classes) == 11 and metadata.ignore_label == 255
    else:
        assert kind == "depth" and metadata.depth_range == (0.1, 10.0)


def mapper_of(name: str, is_train: bool) -> object:
    metadata = MetadataCatalog.get(name)
    resize = [T.ResizeShortestEdge(100, 150), *([T.RandomFlip()] if is_train else [])]
    if metadata.evaluator_type == "classification":
        return ClassificationMapper(is_train, image_size=32, num_classes=10)
    if metadata.evaluator_type == "sem_seg":
        return SemanticMapper(is_train, augmentations=resize, num_classes=11)
    if metadata.evaluator_type == "depth":
        return DepthMapper(is_train, augmentations=resize)
    masks = module_of(name) in ("coco128", "nuclei")
    return DetectionMapper(
        is_train,
        augmentations=resize,
        use_instance_mask=masks,
        num_classes=len(metadata.thing_classes),
    )


@pytest.mark.parametrize("name", COUNTS)
def test_first_records_pass_the_mappers(name: str) -> None:
    for record in records_of(name)[:3]:
        for is_train in (True, False):
            sample = mapper_of(name, is_train)(record)
            assert sample["image"].dtype == torch.uint8 and sample["image"].shape[0] == 3
            if "sem_seg" in sample:
                assert set(sample["sem_seg"].unique().tolist()) <= {*range(11), 255}
            if "depth" in sample:
                valid = sample["depth"][sample["depth"] > 0]
                assert valid.numel() > 0 and valid.min() > 0.5 and valid.max() < 5
            if "instances" in sample:
                kept = [entry for entry in record["annotations"] if not entry.get("iscrowd")]
                assert len(sample["instances"]) == len(kept)


def test_every_camvid_void_pixel_is_ignored() -> None:
    sample = SemanticMapper(False, augmentations=[])(records_of("camvid_train")[0])
    assert (sample["sem_seg"] == 255).any() and not (sample["sem_seg"] == 11).any()


def test_coco128_boxes_and_areas_from_panoptic_masks_are_those_of_its_json() -> None:
    records = records_of("coco128_val")
    json_file = ROOT / "coco128/panoptic_segmentation/annotations/panoptic_val2017.json"
    content = json.loads(json_file.read_text())
    segments = {entry["image_id"]: entry["segments_info"] for entry in content["annotations"]}
    crowds = 0
    for record in records:
        things = [s for s in segments[record["image_id"]] if s["category_id"] <= 90]
        assert [s["bbox"] for s in things] == [a["bbox"] for a in record["annotations"]]
        areas = [mask_util.area(a["segmentation"]) for a in record["annotations"]]
        assert [s["area"] for s in things] == areas
        crowds += sum(annotation["iscrowd"] for annotation in record["annotations"])
    assert crowds == sum(
        s["iscrowd"] for entry in segments.values() for s in entry if s["category_id"] <= 90
    )


def test_nucleus_masks_are_the_files() -> None:
    record = records_of("nuclei_val")[0]
    masks = [mask_util.decode(entry["segmentation"]) for entry in record["annotations"]]
    folder = Path(record["file_name"]).parents[1] / "masks"
    files = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    assert len(masks) == len(files)
    assert all(np.array_equal(mask > 0, file > 0) for mask, file in zip(masks, files))


def test_bccd_drops_zero_area_boxes_with_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    records_of("bccd_train")
    caplog.clear()
    DatasetCatalog.get("bccd_train")
    lines = [entry.getMessage() for entry in caplog.records if "zero area" in entry.getMessage()]
    assert len(lines) == 1 and "BloodImage_00343" in lines[0]


@pytest.mark.parametrize("module", FOLDERS)
def test_a_missing_folder_says_where_to_put_it(module: str, tmp_path: Path) -> None:
    known = {name: MetadataCatalog.get(name) for name in COUNTS if name in DatasetCatalog}
    names = [name for name in COUNTS if module_of(name) == module]
    try:
        register(module, tmp_path / "nowhere")
        register(module, tmp_path / "nowhere")
        for name in names:
            with pytest.raises(FileNotFoundError) as caught:
                DatasetCatalog.get(name)
            text = str(caught.value)
            assert str(tmp_path / "nowhere" / FOLDERS[module]) in text
            assert "DETECTRON2_DATASETS" in text and "--data-root" in text
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        if any(name in known for name in names):
            register(module, ROOT)


def test_somebody_elses_registration_stays() -> None:
    DatasetCatalog.register("gppf_test_theirs", lambda: [{"file_name": "theirs"}])
    try:
        register_dataset("gppf_test_theirs", "root", lambda: [], classes=["a"])
        assert DatasetCatalog.get("gppf_test_theirs") == [{"file_name": "theirs"}]
    finally:
        DatasetCatalog.remove("gppf_test_theirs")
        MetadataCatalog.remove("gppf_test_theirs")


def test_an_empty_dataset_is_an_error() -> None:
    register_dataset("gppf_test_empty", "root", lambda: [], classes=["a"])
    try:
        with pytest.raises(ValueError, match="gppf_test_empty.*no image"):
            DatasetCatalog.get("gppf_test_empty")
    finally:
        DatasetCatalog.remove("gppf_test_empty")
        MetadataCatalog.remove("gppf_test_empty")
