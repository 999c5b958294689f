"""UODB: the JSON that all sets become, VOC's XML, the command, and the sets that keep their own
splits and images (WiderFace, Pascal VOC)."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from gppf_d2.data.catalog import uodb
from gppf_d2.data.index import open_records
from gppf_d2.data.mappers import DetectionMapper
from tests.conftest import MAKE_MINI

XML = """<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>
<object><name>{name}</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20.4</ymax></bndbox>
<part><name>head</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>
</part></object>
<object><name>dog</name>
<bndbox><ymax>30</ymax><xmax>40</xmax><ymin>11</ymin><xmin>21</xmin></bndbox></object>
</annotation>"""


@contextlib.contextmanager
def modules_of(*names: str) -> Iterator[SimpleNamespace]:
    """The modules of ``datasets/uodb``, which the package never imports, by their names."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(f"uodb.{name}") for name in names})
    finally:
        sys.path.remove(str(MAKE_MINI.parent))


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """All sets, what they share, and the command."""
    with modules_of("boxes_json", *uodb.CLASSES) as modules:
        modules.command = importlib.import_module("preparing").command
        modules.prepare_uodb = importlib.import_module("prepare_uodb")
        yield modules


def chosen(root: Path, partial: bool = False) -> Namespace:
    """What ``prepare_uodb.py`` hands to a set."""
    return Namespace(root=root, workers=1, partial=partial)


def put(path: Path, content: str | tuple[int, int]) -> None:
    """Write a text, or an image of a size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    else:
        Image.fromarray(np.zeros((*content[::-1], 3), dtype=np.uint8)).save(path)


def read(root: Path, name: str, split: str) -> tuple[list[str], list[tuple]]:
    """File names, and (image, class, box, difficult) of all annotations of a prepared set."""
    content = json.loads((root / "uodb" / "annotations" / f"{name}_{split}.json").read_text())
    for entry in content["annotations"]:
        assert entry["iscrowd"] == entry["difficult"]
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3], abs=0.01)
    labels = {entry["id"]: entry["name"] for entry in content["categories"]}
    names = [entry["file_name"] for entry in content["images"]]
    found = [
        (e["image_id"] - 1, labels[e["category_id"]], e["bbox"], e["difficult"])
        for e in content["annotations"]
    ]
    return names, found


def test_boxes_are_clipped_and_dropped_without_area_and_difficult_ones_are_crowds(
    scripts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = scripts.boxes_json.BoxesJson(("cat", "dog"))
    first = content.add_image("a/1.jpg", 40, 30)
    second = content.add_image("a/2.jpg", 20, 20)
    content.add_box(second, 1, -3.5, 2.25, 8, 25, difficult=True)
    content.add_box(first, 0, 0, 0, 40, 30)
    content.add_box(first, 0, 40, 3, 50, 9)
    content.add_box(first, 0, 5, 9, 5, 9)
    content.add_box(first, 1, 0.006, 0.1, 39.996, 0.3)
    path = tmp_path / "uodb" / "made.json"
    content.write(path)
    made = json.loads(path.read_text())
    assert made["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert made["images"][1] == {"id": 2, "file_name": "a/2.jpg", "width": 20, "height": 20}
    assert made["annotations"][0] == {
        "id": 1, "image_id": 2, "category_id": 2, "bbox": [0, 2.25, 8, 17.75], "area": 142.0,
        "iscrowd": 1, "difficult": 1,
    }  # fmt: skip
    assert [entry["bbox"] for entry in made["annotations"][1:]] == [
        [0, 0, 40, 30], [0.01, 0.1, 39.99, 0.2],
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "2 images, 3 boxes" in said and "2 dropped, without area" in said
    assert "1 of them difficult" in said and "1 clipped" in said


def test_a_json_that_holds_the_same_is_left_alone(scripts: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    for width, new in ((40, True), (40, False), (41, True)):
        content = scripts.boxes_json.BoxesJson(("cat",))
        content.add_image("1.jpg", width, 30)
        before = path.stat().st_ino if path.exists() else None
        content.write(path)
        assert (path.stat().st_ino != before) == new
    with pytest.raises(ValueError, match="no image for .*made.json"):
        scripts.boxes_json.BoxesJson(("cat",)).write(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.json"]


def test_voc_pixels_from_one_become_edges_from_zero(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    put(tmp_path / "1.xml", XML.format(size=(50, 40), name=" person "))
    assert scripts.boxes_json.read_voc_xml(tmp_path / "1.xml") == (
        50, 40, [("person", 0, 1, 10, 20.4, True), ("dog", 20, 10, 40, 30, False)],
    )  # fmt: skip


@pytest.mark.parametrize("lost", ["</annotation>", "<width>50</width>", "<xmin>21</xmin>", "dog"])
def test_a_damaged_voc_xml_is_named_in_one_sentence(
    lost: str, scripts: SimpleNamespace, tmp_path: Path
) -> None:
    text = XML.format(size=(50, 40), name="person").replace(lost, "").replace("<name></name>", "")
    put(tmp_path / "1.xml", text)
    with pytest.raises(ValueError, match=r"1\.xml' is no annotation file of VOC .*restore"):
        scripts.boxes_json.read_voc_xml(tmp_path / "1.xml")


def widerface(root: Path) -> Path:
    """One image with three faces and one without a face in both splits; the list of train."""
    for split in ("train", "val"):
        home = root / "widerface"
        for name in ("a/1.jpg", "a/2.jpg"):
            put(home / f"WIDER_{split}" / "images" / name, (40, 30))
        lines = [
            "a/1.jpg",
            "3",
            "1 2 10 11 0 0 0 0 0 0 ",
            "3 4 5 6 0 0 0 1 0 0 ",
            "7 8 0 9 0 0 0 0 0 0 ",
        ]
        lines += ["a/2.jpg", "0", "0 0 0 0 0 0 0 0 0 0 "]
        put(home / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt", "\n".join(lines) + "\n")
    return home / "wider_face_split" / "wider_face_train_bbx_gt.txt"


def test_widerface_keeps_images_without_faces_and_marks_invalid_ones(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    widerface(tmp_path)
    scripts.widerface.prepare(chosen(tmp_path))
    names, boxes = read(tmp_path, "widerface", "test")
    assert names == [f"widerface/WIDER_val/images/a/{k}.jpg" for k in (1, 2)]
    assert boxes == [(0, "face", [1, 2, 10, 11], 0), (0, "face", [3, 4, 5, 6], 1)]


@pytest.mark.parametrize("lines", [4, 7, 1])
def test_a_widerface_list_that_ends_too_early_is_an_error(
    lines: int, scripts: SimpleNamespace, tmp_path: Path
) -> None:
    path = widerface(tmp_path)
    path.write_text("\n".join(path.read_text().splitlines()[:lines]))
    with pytest.raises(ValueError, match="gt.txt' is damaged near line .*expected an image"):
        scripts.widerface.prepare(chosen(tmp_path))


def test_images_that_are_missing_are_an_error_or_left_out(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    widerface(tmp_path)
    (tmp_path / "widerface" / "WIDER_val" / "images" / "a" / "1.jpg").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 images .*'a/1.jpg'.*--partial"):
        scripts.widerface.prepare(chosen(tmp_path))
    scripts.widerface.prepare(chosen(tmp_path, partial=True))
    assert read(tmp_path, "widerface", "test") == (["widerface/WIDER_val/images/a/2.jpg"], [])


def test_pascal_voc_joins_both_years_and_marks_difficult_objects(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    for year, name in (("VOC2007", "000005"), ("VOC2007", "000006"), ("VOC2012", "2008_000002")):
        put(tmp_path / year / "JPEGImages" / f"{name}.jpg", (50, 40))
        put(tmp_path / year / "Annotations" / f"{name}.xml", XML.format(size=(50, 40), name="cow"))
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    put(lists / "trainval.txt", "000005\n")
    put(lists / "test.txt", "000006\n")
    with pytest.raises(FileNotFoundError, match="VOC2012/.*trainval.txt' does not exist; unpack"):
        scripts.pascal_voc.prepare(chosen(tmp_path))
    put(tmp_path / "VOC2012" / "ImageSets" / "Main" / "trainval.txt", "2008_000002\n")
    scripts.pascal_voc.prepare(chosen(tmp_path))
    names, boxes = read(tmp_path, "pascal_voc", "train")
    assert names == [
        "VOC2007/JPEGImages/000005.jpg", "VOC2012/JPEGImages/2008_000002.jpg",
    ]  # fmt: skip
    one = [("cow", [0, 1, 10, 19.4], 1), ("dog", [20, 10, 20, 20], 0)]
    assert boxes == [(k, *box) for k in (0, 1) for box in one]
    put(
        tmp_path / "VOC2007" / "Annotations" / "000006.xml", XML.format(size=(9, 9), name="unicorn")
    )
    with pytest.raises(ValueError, match="names the class 'unicorn', expected one of aeroplane"):
        scripts.pascal_voc.prepare(chosen(tmp_path))


def test_the_command_takes_what_is_there_and_names_the_rest(
    scripts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def run(*options: str) -> int:
        arguments = ["--root", str(tmp_path), "--workers", "1", *options]
        parser = scripts.prepare_uodb.parser()
        return scripts.command(scripts.prepare_uodb.prepare, parser, arguments)

    assert run() == 2
    assert "holds none of the downloads kitti" in capsys.readouterr().err
    widerface(tmp_path)
    assert run() == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("not there, left out: kitti ('kitti_object'), pascal_voc ('VOC2007'),")
    assert "widerface" not in out[0] and len(out) == 3
    assert run("--part", "widerface", "--part", "widerface") == 0
    assert all("is up to date" in line for line in capsys.readouterr().out.splitlines())
    assert run("--part", "widerface", "--part", "kitti") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "kitti_object' does not exist; unpack data_object_image_2.zip" in error


def test_scripts_and_catalog_agree_on_names_and_classes(
    scripts: SimpleNamespace, official_root: Path
) -> None:
    assert tuple(uodb.CLASSES) == importlib.import_module("uodb").SETS
    for name, classes in uodb.CLASSES.items():
        assert classes == getattr(scripts, name).CLASSES
    sizes = [
        MetadataCatalog.get(f"uodb_{name}_train").official_size for name in ("clipart", "lisa")
    ]
    assert sizes == [500, None], "the split of LISA is a rule of ours"


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [("kitti", 16, 6), ("widerface", 16, 6), ("pascal_voc", 38, 6), ("lisa", 15, 6)],
)
def test_prepared_miniatures_reach_the_mapper_without_difficult_objects(
    name: str, train: int, test: int, official_root: Path
) -> None:
    metadata = MetadataCatalog.get(f"uodb_{name}_train")
    assert metadata.evaluator_type == "voc" and metadata.thing_classes == list(uodb.CLASSES[name])
    classes = len(metadata.thing_classes)
    mapper = DetectionMapper(True, augmentations=[], use_instance_mask=False, num_classes=classes)
    seen: Counter = Counter()
    for split, count in (("train", train), ("test", test)):
        records = open_records(f"uodb_{name}_{split}")
        assert len(records) == count
        for record in records:
            objects = record["annotations"]
            kept = [entry for entry in objects if not entry["difficult"]]
            seen.update(entry["difficult"] for entry in objects)
            assert all(entry["iscrowd"] == entry["difficult"] for entry in objects)
            assert len(mapper(record)["instances"]) == len(kept)
            boxes = [BoxMode.convert(e["bbox"], e["bbox_mode"], BoxMode.XYXY_ABS) for e in objects]
            for x0, y0, x1, y1 in boxes:
                assert 0 <= x0 < x1 <= record["width"] and 0 <= y0 < y1 <= record["height"]
    assert seen[0] > train and (seen[1] > 0) == (name != "lisa")


def test_a_set_that_cannot_be_prepared_does_not_hold_up_the_others(scripts) -> None:
    done = []

    def prepare(name: str) -> None:
        if name == "lisa":
            raise FileNotFoundError("no\ncsv")
        done.append(name)

    with pytest.raises(ValueError, match="^lisa: no csv$"):
        importlib.import_module("downloads").prepare_each(["lisa", "dota"], prepare)
    assert done == ["dota"]
