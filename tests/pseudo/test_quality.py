"""Stored labels against the truth: matching, the ordinary evaluators, coverage, clear errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from gppf_d2.data.pseudo_labels import StoredLabel, read_manifest
from gppf_d2.pseudo.box_precision import BoxCounts
from gppf_d2.pseudo.matching import match_images
from gppf_d2.pseudo.quality import SUBSET, class_map, label_quality
from gppf_d2.tools.label_quality import main
from tests.pseudo.made_labels import LABELS, make_labels, mask, values

H, W = 40, 64
NAMES = [f"{index}.png" for index in range(6)]


class World:
    """Six images with labels, and datasets with the truth of four of them."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.folder = root, root / "images", root / "pseudo"
        self.images.mkdir()
        for index, name in enumerate(NAMES):
            pixels = np.random.default_rng(index).integers(0, 255, (H, W, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / name)
        self.said = [values(index, H, W) for index in range(len(NAMES))]
        make_labels(self.folder, self.images, NAMES, self.said)
        self.names: list[str] = []

    def record(self, index: int) -> dict:
        """An image with every kind of truth, made of what the labels say."""
        said = self.said[index]
        depth = self.root / f"depth{index}.png"
        cv2.imwrite(str(depth), (said["depth"] * 256).round().astype(np.uint16))
        segments = self.root / f"segments{index}.png"
        truth = np.where(said["segments"] == 255, 0, said["segments"])
        truth[:10] = 1 - truth[:10]  # a quarter of the rows is wrong
        Image.fromarray(truth.astype(np.uint8)).save(segments)
        boxes = np.array(said["boxes"]["boxes"], float).reshape(-1, 4)
        annotations = [
            {
                "bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1 - category,
                "iscrowd": 0,
                "segmentation": {"size": [H, W], "counts": mask(H, W, box.astype(int)).decode()},
            }
            for box, category in zip(boxes, said["boxes"]["categories"])
        ]  # fmt: skip
        return {
            "file_name": str(self.images / NAMES[index]), "image_id": f"image {index}",
            "height": H, "width": W, "annotations": annotations,
            "label": int(said["classes"].argmax()), "depth_file_name": str(depth),
            "depth_scale": 256.0, "sem_seg_file_name": str(segments),
        }  # fmt: skip

    def register(self, name: str, records: list[dict], **facts) -> str:
        """A dataset; its things are the labels' in another order, and one more."""
        DatasetCatalog.register(name, lambda: [dict(record) for record in records])
        # names in another order than the labels': found by name
        defaults = {
            "thing_classes": ["Dog", "cat", "zebra"], "stuff_classes": ["sky", "road"],
            "classes": list(LABELS["classes"].classes), "depth_range": (0.5, 20.0),
        }  # fmt: skip
        MetadataCatalog.get(name).set(**{**defaults, **facts})
        self.names.append(name)
        return name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("quality"))
    made.register("quality_part", [made.record(index) for index in (1, 2, 4, 5)])
    made.register("quality_all", [made.record(index) for index in range(6)])
    yield made
    for name in made.names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_labels_that_are_the_truth_are_perfect_and_what_is_not_labelled_is_told(world) -> None:
    truth = dict.fromkeys(LABELS, "quality_all")
    found = {one.label: one for one in label_quality(world.folder, truth)}
    assert list(found) == list(truth)
    boxes = found["boxes"]
    assert boxes.matched_by == "path" and boxes.images == boxes.true_images == 6
    assert boxes.missing_classes == ["zebra"]
    assert boxes.metrics["bbox/AP"] == boxes.metrics["segm/AP"] == pytest.approx(100)
    assert boxes.coverage == {
        "precision50": 100, "recall50": 100, "boxes_per_image": 2.5, "true_boxes_per_image": 2.5,
        "images_without_boxes": pytest.approx(100 / 6),
    }  # fmt: skip
    classes = found["classes"]
    assert classes.metrics["classification/top1"] == 100
    tops = [float(said["classes"].max()) for said in world.said]
    assert classes.coverage["confidence"] == pytest.approx(100 * np.mean(tops), abs=0.1)
    depth = found["depth"]
    assert depth.metrics["depth/delta1"] == 1 and depth.metrics["depth/abs_rel"] < 0.01
    assert found["relative"].metrics["depth/delta1"] == 1, "aligned by scale and shift"
    segments = found["segments"]
    assert segments.metrics["sem_seg/pACC"] == pytest.approx(75), "where there are labels"
    assert segments.coverage == {"labelled": pytest.approx(75)}


def test_part_of_the_images_is_compared_as_a_dataset_of_its_own(world, tmp_path: Path) -> None:
    labels = {"boxes": LABELS["boxes"]}
    said = [dict(one) for one in world.said[:3]]
    wrong = {**said[2]["boxes"], "categories": [0, 0]}  # the second object gets a wrong class
    said[2] = {"boxes": wrong}
    folder = make_labels(tmp_path / "part", world.images, NAMES[:3], said, labels)
    (found,) = label_quality(folder, {"boxes": "quality_part"})
    assert (found.images, found.true_images) == (2, 4)
    assert found.coverage["precision50"] == pytest.approx(200 / 3)
    assert found.coverage["recall50"] == pytest.approx(200 / 3)
    assert found.metrics["bbox/AP-cat"] == pytest.approx(100, abs=1)
    assert found.metrics["bbox/AP-Dog"] == pytest.approx(0), "the image that was not labelled"
    assert not [name for name in DatasetCatalog if name.startswith(SUBSET)]


def test_truth_of_another_size_or_kind_is_refused(world, tmp_path: Path) -> None:
    record = world.record(1)
    small = Image.open(world.images / NAMES[1]).resize((W // 2, H // 2))
    (tmp_path / "images").mkdir()
    small.save(tmp_path / "images" / NAMES[1])
    said = [values(1, H // 2, W // 2)]
    folder = make_labels(tmp_path / "small", tmp_path / "images", NAMES[1:2], said)
    record = {**record, "height": H, "width": W}
    world.register("quality_other", [record])
    for label in ("depth", "segments"):
        with pytest.raises(ValueError, match=r"have \[20, 32\] pixels, the truth \[40, 64\]"):
            label_quality(folder, {label: "quality_other"})
    world.register("quality_plain", [{k: v for k, v in record.items() if k != "label"}])
    with pytest.raises(ValueError, match="records of dataset 'quality_plain' have no 'label'"):
        label_quality(world.folder, {"classes": "quality_plain"})


def test_images_are_found_by_path_by_name_and_by_content(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(world.folder)
    records = [world.record(index) for index in (4, 2)]
    assert match_images(manifest, records) == ("path", [(2, 1), (4, 0)])
    # a dataset's names are relative to the root of the datasets
    of_dataset = replace(manifest, images={"dataset": "quality_all", "count": 6})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world.images))
    assert match_images(of_dataset, records)[0] == "path"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world.root))
    assert match_images(of_dataset, records)[0] == "name"
    for record in records:
        shutil.copy(record["file_name"], tmp_path)
        record["file_name"] = str(tmp_path / Path(record["file_name"]).name)
    assert match_images(manifest, records) == ("name", [(2, 1), (4, 0)])
    for place, record in enumerate(records):
        Path(record["file_name"]).rename(tmp_path / f"other{place}.png")
        record["file_name"] = str(tmp_path / f"other{place}.png")
    assert match_images(manifest, records) == ("hash", [(2, 1), (4, 0)])
    with pytest.raises(ValueError, match=r"looked for by name;.*other0.png.*0.png"):
        match_images(manifest, records, "name")
    # two images of one name cannot be told apart
    (tmp_path / "below").mkdir()
    twice = [{"file_name": str(tmp_path / "1.png")}, {"file_name": str(tmp_path / "below/1.png")}]
    with pytest.raises(ValueError, match="None of the 2 images"):
        match_images(manifest, twice, "name")
    with pytest.raises(ValueError, match="match is 'size'"):
        match_images(manifest, records, "size")


def test_classes_are_matched_by_name() -> None:
    label = StoredLabel(kind="instances", classes=("traffic_light", "Dog", "ghost"), num_classes=3)
    found = class_map("boxes", label, "truth", ["dog", "cat", "traffic light"])
    assert found.tolist() == [2, 0, -1]
    nameless = replace(label, classes=())
    assert class_map("boxes", nameless, "truth", ["a", "b", "c"]).tolist() == [0, 1, 2]
    twice = replace(label, classes=("bench", "bench", "dog"))
    assert class_map("boxes", twice, "truth", ["Bench", "bench", "dog"]).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="has 3 classes without names and dataset 'truth' 2"):
        class_map("boxes", nameless, "truth", ["a", "b"])
    with pytest.raises(ValueError, match="No class of label 'boxes'.*ghost.*'truth' .a, b"):
        class_map("boxes", label, "truth", ["a", "b"])


def found_boxes(boxes: list, classes: list[int], scores: list[float]) -> Instances:
    """Predicted instances."""
    return Instances(
        (H, W), pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_classes=torch.tensor(classes), scores=torch.tensor(scores),
    )  # fmt: skip


def test_precision_counts_an_object_once_and_leaves_crowds_out() -> None:
    def true(box: list, crowd: int = 0, category: int = 0) -> dict:
        mode = BoxMode.XYXY_ABS
        return {"bbox": box, "bbox_mode": mode, "category_id": category, "iscrowd": crowd}

    counts = BoxCounts()
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 34, 34], [0, 0, 10, 10], [50, 0, 60, 10]]
    found = found_boxes(boxes, [0, 0, 0, 1, 0], [0.6, 0.9, 0.8, 0.7, 0.5])
    counts.add(found, [true([0, 0, 10, 10]), true([20, 20, 40, 40], crowd=1), true([0, 30, 5, 35])])
    # the second takes the object before the first; the third lies in the crowd
    assert (counts.right, counts.wrong, counts.true, counts.stored) == (1, 3, 2, 5)
    counts.add(found_boxes([], [], []), [])
    assert counts.metrics() == {
        "precision50": 25, "recall50": 50, "boxes_per_image": 2.5, "true_boxes_per_image": 1,
        "images_without_boxes": 50,
    }  # fmt: skip
    assert np.isnan(BoxCounts().metrics()["precision50"])


def test_tool_prints_a_table_writes_json_and_names_what_is_wrong(world, tmp_path, capsys) -> None:
    output = tmp_path / "quality.json"
    call = [str(world.folder), "--output", str(output)]
    assert main([*call, "--truth", "depth=quality_part", "--truth", "boxes=quality_part"]) == 0
    said = capsys.readouterr().out
    assert "depth (depth) against quality_part: 4 of its 4 images, found by path" in said
    assert "1 classes are not labelled: zebra" in said and "coverage/precision50" in said
    assert "AP-cat" not in said, "classes are in the file"
    content = json.loads(output.read_text())["labels"]
    assert [one["label"] for one in content] == ["depth", "boxes"]
    assert content[1]["metrics"]["bbox/AP-zebra"] is None and content[0]["images"] == 4
    for truth, words in (
        ("boxes", "--truth is 'boxes'; write the label and its dataset"),
        ("normals=quality_part", "no label 'normals'"),
        ("depth=quality_nowhere", "no dataset 'quality_nowhere'"),
    ):
        assert main([*call, "--truth", truth]) == 2
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1
