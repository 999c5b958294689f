"""The dataset checker: every kind of damage gets its line, sound datasets get none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from gppf_d2.data import check
from gppf_d2.data.catalog import GPPF_15M
from gppf_d2.data.check import check_dataset
from gppf_d2.tools import check_dataset as tool

NAME = "check_test_things"


def lines(name: str = NAME, **options: object) -> list[str]:
    return [str(problem) for problem in check_dataset(name, quiet=True, **options)]


@pytest.fixture
def registered() -> Iterator[Callable]:
    """Registers datasets, and forgets them afterwards."""
    names: list[str] = []

    def register(name: str, load: Callable | None = None, **metadata: object) -> None:
        names.append(name)
        if load is not None:
            DatasetCatalog.register(name, load)
            MetadataCatalog.get(name).set(**metadata)

    yield register
    for name in names:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def things(tmp_path: Path, registered: Callable) -> Callable[[Callable[[dict], None]], list[str]]:
    """Damages a sound COCO-style dataset of somebody else's and gives what the checker says."""
    folder = tmp_path / "images"
    folder.mkdir()
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "a"}]}
    for number in range(1, 5):
        file_name = f"{number}.jpg"
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / file_name)
        image = {"id": number, "file_name": file_name, "width": 60, "height": 40}
        content["images"].append(image)
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 3, "iscrowd": 0, "area": 100}
            | {"bbox": [5, 5, 10, 10], "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}
        )

    def damage(change: Callable[[dict], None]) -> list[str]:
        change(content)
        (tmp_path / "x.json").write_text(json.dumps(content))
        registered(NAME)
        register_coco_instances(NAME, {}, str(tmp_path / "x.json"), str(folder))
        return lines()

    return damage


def test_a_sound_dataset_of_somebody_else_has_no_line(things: Callable) -> None:
    assert things(lambda content: None) == []


def set_entry(key: str, **entries: object) -> Callable[[dict], None]:
    return lambda content: content[key][1].update(entries)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (set_entry("images", width=61), "size", "is 60 x 40, its annotation says 61 x 40"),
        (set_entry("images", file_name="lost.jpg"), "missing", "lost.jpg' does not exist"),
        (set_entry("annotations", bbox=[5, 5, 0, 10]), "box", "without area"),
        (set_entry("annotations", bbox=[50, 5, 20, 10]), "box", "leaves the image"),
        (lambda content: content["annotations"][1].pop("bbox"), "box", "has None for a box"),
        (set_entry("annotations", bbox=[5, 5, 10]), "box", "has [5, 5, 10] for a box"),
        (set_entry("annotations", segmentation=[[1, 2, 3, 4]]), "mask", "polygon of 4 numbers"),
        (set_entry("annotations", segmentation=[[1.0] * 7]), "mask", "polygon of 7 numbers"),
        (
            set_entry("annotations", segmentation={"size": [40, 59], "counts": [59, 3, 2298]}),
            "mask",
            "of 59 x 40, not of the size",
        ),
        (
            set_entry("annotations", segmentation={"size": [40, 60], "counts": [2400]}),
            "mask",
            "without a pixel",
        ),
        (set_entry("annotations", segmentation={"counts": "Sa0"}), "mask", "KeyError('size')"),
        (set_entry("annotations", image_id=77), "annotation", "unknown image 77"),
        (set_entry("annotations", id=1), "annotation", "several annotations with id 1"),
        (set_entry("images", id=1), "annotation", "images twice with id 1"),
    ],
)
def test_damage_in_a_json_gets_its_line(
    change: Callable, kind: str, words: str, things: Callable
) -> None:
    found = things(change)
    assert [line for line in found if line.startswith(f"{kind}: ") and words in line], found
    assert all("\n" not in line for line in found)


def test_an_unknown_category_is_named_with_its_annotation(things: Callable) -> None:
    found = things(set_entry("annotations", category_id=4))
    assert "annotation 2 of" in found[0] and "unknown category 4" in found[0]


def test_an_entry_that_is_not_cocos_is_one_line(things: Callable) -> None:
    found = things(lambda content: content["images"][1].pop("id"))
    assert len(found) == 1 and "not COCO's: KeyError('id')" in found[0]


def test_damaged_images_and_files_that_are_gone(things: Callable, tmp_path: Path) -> None:
    whole = (tmp_path / "images" / "1.jpg").read_bytes()
    (tmp_path / "images" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images" / "3.jpg").write_text("no image")
    found = things(lambda content: None)
    assert [line.split(":")[0] for line in found] == ["unreadable", "unreadable"]
    assert "1.jpg" in found[0] and "3.jpg" in found[1]
    assert len(lines(sample=1)) == 1, "of one image in four only the first is read"
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert lines() == [f"missing: '{tmp_path / 'images'}' does not exist"]
    text = (tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text[:-20])
    found = lines()
    assert found[-1].startswith("dataset: ") and "x.json" in found[-1]
    (tmp_path / "x.json").unlink()
    assert f"missing: '{tmp_path / 'x.json'}' does not exist" in lines()


def test_objects_are_looked_at_in_all_images_whatever_the_sample(things: Callable) -> None:
    things(lambda content: content["annotations"][2].update(bbox=[5, 5, 10, 0]))
    assert [line.split(":")[0] for line in lines(sample=1)] == ["box"]


def test_label_maps_of_another_size_or_with_other_values(
    tmp_path: Path, registered: Callable
) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "i.jpg")
    for name, size, value in (("good", (60, 40), 1), ("small", (30, 40), 1), ("high", (60, 40), 2)):
        Image.new("L", size, value).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    names = ("good", "small", "high", "broken", "lost")

    def load() -> list[dict]:
        paths = (str(tmp_path / f"{name}.png") for name in names)
        return [{"file_name": str(tmp_path / "i.jpg"), "sem_seg_file_name": path} for path in paths]

    registered("check_test_maps", load, stuff_classes=["a", "b"], ignore_label=255)
    found = lines("check_test_maps")
    assert [line.split(":")[0] for line in found] == ["labels", "labels", "unreadable", "missing"]
    for name, line in zip(names[1:], found):
        assert f"{name}.png" in line


def test_classes_out_of_range_in_labels_objects_and_verified_lists(
    tmp_path: Path, registered: Callable
) -> None:
    path = str(tmp_path / "i.jpg")
    Image.new("RGB", (60, 40)).save(path)
    record = {"file_name": path, "height": 40, "width": 60}
    registered("check_test_labels", lambda: [{**record, "label": 2}], classes=["a", "b"])
    assert lines("check_test_labels") == [f"category: '{path}' has the label 2, expected 0 to 1"]
    annotation = {"category_id": 2, "bbox": [1, 1, 5, 5], "bbox_mode": 0, "iscrowd": 0}
    load = [{**record, "annotations": [annotation], "neg_category_ids": [1, 7]}]
    registered("check_test_objects", lambda: load, thing_classes=["a", "b"])
    found = lines("check_test_objects")
    assert "category 2, expected 0 to 1" in found[1] and "7 in 'neg_category_ids'" in found[0]


def test_the_number_of_images_is_compared_with_the_official_one(
    things: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    things(lambda content: None)
    monkeypatch.setitem(check.OFFICIAL_SIZES, NAME, 5)
    assert lines() == ["dataset: 4 images, the official number is 5"]
    assert lines(partial=True) == []


def test_the_tool_limits_its_lines_and_says_by_its_status_what_it_found(
    things: Callable, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    things(lambda content: [entry.update(bbox=[1, 1, 0, 0]) for entry in content["annotations"]])
    monkeypatch.setattr(tool, "register_all", lambda: None)  # the catalogs belong to all tests
    assert tool.main([NAME, "--limit", "3"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and printed[-1] == f"{NAME}: box: 1 more of this kind"
    assert tool.main(["no_such_dataset"]) == 2
    assert "'no_such_dataset' is not registered" in capsys.readouterr().err
    assert tool.main([]) == 2 and tool.main([NAME, "--all"]) == 2
    assert tool.main([NAME, "--sample", "0"]) == 2
    assert tool.main([NAME, "--import", "no_such_module_of_mine"]) == 2


def test_the_official_miniatures_are_sound(
    official_root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "register_all", lambda: None)  # the fixture did
    assert tool.main(["--all", "--partial", "--full"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{name}: nothing is missing or broken" for name in GPPF_15M]
