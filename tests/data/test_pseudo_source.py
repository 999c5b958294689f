"""Datasets of pseudo labels: their records, their names, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

from gppf_d2.data.catalog import pseudo
from gppf_d2.data.check import check_dataset
from gppf_d2.data.check_pseudo import pseudo_problems
from gppf_d2.data.index import open_records
from gppf_d2.data.index.pseudo_labels import PseudoLabelSource
from gppf_d2.data.pseudo_labels import StoredLabel, encode, open_shard, read_labels
from gppf_d2.engine import setup
from gppf_d2.engine.errors import UserError
from gppf_d2.tasks.spec import Task
from gppf_d2.tasks.stream import Position

from ..pseudo import made_labels
from ..pseudo.made_labels import make_labels

LABELS = {
    "classes": StoredLabel(kind="classes", num_classes=2, classes=("cat", "dog")),
    "boxes": StoredLabel(kind="instances", num_classes=2, classes=("nose", "tail")),
    "segments": StoredLabel(kind="sem_seg", num_classes=3, classes=("sky", "sea", "sand")),
}
COUNT, CORRUPT = 7, (0, 3, 4)


def values(index: int) -> dict:
    boxes = {"boxes": [[0, 0, 3, 2]], "scores": [0.75], "categories": [index % 2]}
    share = index / 8
    segments = np.full((4, 5), index % 3)
    return {"classes": [share, 1 - share], "boxes": boxes, "segments": segments}


def label(root: Path, name: str, **images: str) -> None:
    """Write ``pseudo/<name>``, labels of the images that the manifest is to name."""
    files = [f"{index}.png" for index in range(COUNT)]
    said = [values(index) for index in range(COUNT)]
    folder = make_labels(root / "pseudo" / name, root / "photos", files, said, LABELS, shard_size=2)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["images"] = {"count": COUNT, "digest": "", **images}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Path]:
    """Seven images, three of them corrupt, and their labels."""
    root = tmp_path / "world"
    (root / "photos").mkdir(parents=True)
    for index in range(COUNT):
        path = root / "photos" / f"{index}.png"
        Image.fromarray(np.full((4, 5, 3), 10 * index, np.uint8)).save(path)
        if index in CORRUPT:
            path.write_bytes(b"nothing")
    label(root, "photos", folder="../../photos")
    yield root
    for name in [name for name in DatasetCatalog if name.startswith("pseudo_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_records_are_the_labelled_images_with_the_place_of_their_labels(world: Path) -> None:
    pseudo.register(str(world))
    records = open_records("pseudo_photos")
    kept = [index for index in range(COUNT) if index not in CORRUPT]
    assert [Path(record["file_name"]).name for record in records] == [f"{i}.png" for i in kept]
    assert {record["dataset_name"] for record in records} == {"pseudo_photos"}
    for index, record in zip(kept, records):
        assert record["pseudo_shard"].endswith(f"photos/shard-0000{index // 2}.arrow")
        found = read_labels(record, ["classes", "segments"])
        assert found["classes"][0] == index / 8 and (found["segments"] == index % 3).all()
    assert list(pickle.loads(pickle.dumps(records))) == list(records)
    assert DatasetCatalog.get("pseudo_photos") == list(records)
    assert not records.annotated().any()


def test_metadata_have_the_classes_of_the_labels(world: Path) -> None:
    (world / "pseudo" / "unfinished").mkdir()
    for _ in range(2):
        pseudo.register(str(world))
    metadata = MetadataCatalog.get("pseudo_photos")
    assert metadata.classes == ["cat", "dog"] and metadata.thing_classes == ["nose", "tail"]
    assert metadata.stuff_classes == ["sky", "sea", "sand"] and metadata.ignore_label == 255
    assert metadata.pseudo_labels == LABELS and metadata.pseudo_labels["boxes"].num_classes == 2
    with pytest.raises(FileNotFoundError, match="unfinished' needs .*manifest.json.*command"):
        open_records("pseudo_unfinished")
    shutil.copy(world / "pseudo/photos/manifest.json", world / "pseudo/unfinished")
    pseudo.register(str(world))  # as the next command of the same process does
    assert MetadataCatalog.get("pseudo_unfinished").thing_classes == ["nose", "tail"]
    pseudo.register(str(world / "photos"))  # holds no labels: nothing happens


def test_images_and_labels_move_together(world: Path) -> None:
    moved = world.rename(world.with_name("elsewhere"))
    pseudo.register(str(moved))
    records = open_records("pseudo_photos")
    assert records[0]["file_name"] == f"{moved}/photos/1.png"
    assert read_labels(records[0], ["boxes"])["boxes"][0]["category_id"] == 1


def test_labels_behind_a_link_name_their_images_from_where_they_are(world: Path) -> None:
    (world / "pseudo" / "elsewhere").mkdir()
    link = world / "pseudo" / "elsewhere" / "link"
    link.symlink_to(world / "pseudo" / "photos")
    records = PseudoLabelSource(str(link)).open_records()
    assert records[0]["file_name"] == f"{world}/photos/1.png"


def test_names_that_are_not_utf8_are_stored_and_found_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "photos" / name)
    make_labels(tmp_path / "labels", tmp_path / "photos", [name], [values(1)], LABELS)
    (record,) = PseudoLabelSource(str(tmp_path / "labels")).open_records()
    assert record["file_name"] == f"{tmp_path}/photos/{name}"
    assert open_shard(record["pseudo_shard"]).cell("file_name", 0) == "caf\\udce9.png"
    assert list(pseudo_problems(record)) == []


def test_other_images_than_those_that_were_labelled_are_refused(world: Path) -> None:
    pseudo.register(str(world))
    extra = world / "photos" / "22.png"
    shutil.copy(world / "photos" / "2.png", extra)
    with pytest.raises(ValueError, match="of 7 images of .*photos', which now has 8 images"):
        open_records("pseudo_photos")
    (world / "photos" / "5.png").unlink()
    with pytest.raises(ValueError, match="now has '.*/4.png' in another place"):
        open_records("pseudo_photos")
    shutil.rmtree(world / "photos")
    with pytest.raises(ValueError, match="are of the images of .*photos': .*No such file"):
        open_records("pseudo_photos")


def test_a_missing_shard_is_named(world: Path) -> None:
    pseudo.register(str(world))
    (world / "pseudo" / "photos" / "shard-00003.arrow").unlink()
    with pytest.raises(FileNotFoundError, match="shard-00003.arrow"):
        open_records("pseudo_photos")


@pytest.fixture
def scenes(world: Path) -> Iterator[Path]:
    """A registered dataset "own_scenes" of the images, labelled too; every second has objects."""
    thing = {"category_id": 0, "iscrowd": 0, "bbox": [0, 0, 2, 2], "bbox_mode": 0}
    records = [
        {"file_name": f"{world}/photos/{index}.png", "height": 4, "width": 5}
        | {"annotations": [thing] * (index % 2)}
        for index in range(COUNT)
    ]
    DatasetCatalog.register("own_scenes", lambda: records)
    label(world, "own", dataset="own_scenes")
    pseudo.register(str(world))
    yield world
    DatasetCatalog.remove("own_scenes")
    MetadataCatalog.pop("own_scenes", None)


def test_a_labelled_dataset_keeps_its_name_and_its_annotations(scenes: Path) -> None:
    records = open_records("pseudo_own")
    assert len(records) == 4 and {r["dataset_name"] for r in records} == {"own_scenes"}
    assert [len(record["annotations"]) for record in records] == [1, 0, 1, 0]
    assert records.annotated().tolist() == [True, False, True, False]
    assert list(records.categories()) == [[0], [], [0], []]
    assert DatasetCatalog.get("own_scenes")[0].keys() == {
        "file_name", "height", "width", "annotations",
    }  # fmt: skip


class Named:
    """A mapper that asks for names."""

    reads_dataset_name = True
    dataset_names = ("own_scenes",)

    def __call__(self, record: dict) -> dict:
        return record


def built(train: list[str], mapper: type = Named, **fields: object):
    lazy = OmegaConf.create({"_target_": f"{mapper.__module__}.{mapper.__qualname__}"})
    task = Task(name="t", train=train, batch_size=1, head={}, mapper=lazy, **fields)
    cfg = OmegaConf.create({"input": {"pixel_format": "RGB"}})
    sources, streams = setup.build_data({"t": task}, ["t"], 0, cfg)
    return sources["t"].records, streams["t"]


@pytest.fixture
def catalogs(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(setup, "register_all", lambda: None)  # the catalogs belong to all tests
    return scenes


def test_a_mapper_that_asks_gets_the_name_of_every_records_dataset(
    catalogs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, _ = built(["own_scenes", "pseudo_own", "pseudo_photos"])
    names = [record["dataset_name"] for record in records]
    assert names == ["own_scenes"] * 11 + ["pseudo_photos"] * 4
    assert ["pseudo_row" in record for record in records] == [False] * 7 + [True] * 8
    assert list(records.categories())[:7] == [[0] * (index % 2) for index in range(7)]
    records, _ = built(["own_scenes"], dict)
    assert "dataset_name" not in records[0]
    monkeypatch.setattr(Named, "dataset_names", ("own_scene",))
    with pytest.raises(UserError, match="no dataset 'own_scene'; close to it are own_scenes"):
        built(["own_scenes"])


def test_filter_empty_asks_a_dataset_for_its_own_annotations(catalogs: Path) -> None:
    records, stream = built(["own_scenes", "pseudo_own", "pseudo_photos"], filter_empty=True)
    assert len(records) == stream.size == 3 + 2 + 4
    assert [record["dataset_name"] for record in records] == ["own_scenes"] * 5 + [
        "pseudo_photos"
    ] * 4
    nothing = [{"file_name": "x.png", "annotations": []}]
    DatasetCatalog.register("own_nothing", lambda: nothing)
    try:
        with pytest.raises(UserError, match="filter_empty leaves no image of dataset 'own_noth"):
            built(["own_scenes", "own_nothing"], filter_empty=True)
    finally:
        DatasetCatalog.remove("own_nothing")


def test_equal_datasets_draws_from_every_dataset_alike(catalogs: Path) -> None:
    """3 + 2 + 4 images; the repeated ones keep their multiple within their dataset."""
    train = ["own_scenes", "pseudo_own", "pseudo_photos"]
    for fields in ({}, {"repeat_threshold": 0.9}):
        _, stream = built(train, equal_datasets=True, filter_empty=True, **fields)
        _, plain = built(train, filter_empty=True, **fields)
        counts = np.zeros(9)
        for epoch in range(300):
            length = stream.epoch_length(epoch)
            assert abs(length - plain.epoch_length(epoch)) <= 1
            for offset in range(length):
                counts[stream.index(Position(epoch, offset))] += 1
        shares = [part.sum() / counts.sum() for part in np.split(counts, [3, 5])]
        assert shares == pytest.approx([1 / 3] * 3, abs=0.005)
    _, again = built(train, equal_datasets=True, filter_empty=True, **fields)
    order = [stream.index(Position(5, o)) for o in range(stream.epoch_length(5))]
    assert order == [again.index(Position(5, o)) for o in range(again.epoch_length(5))]


def test_the_checker_finds_nothing_in_sound_labels_and_names_what_is_wrong(
    catalogs: Path,
) -> None:
    for name in ("pseudo_photos", "pseudo_own"):
        assert list(check_dataset(name, quiet=True)) == []
    photos = catalogs / "photos"
    Image.fromarray(np.full((4, 5, 3), 99, np.uint8)).save(photos / "1.png")
    Image.fromarray(np.full((9, 5, 3), 20, np.uint8)).save(photos / "2.png")
    (photos / "5.png").write_bytes(b"nothing")
    lines = [str(problem) for problem in check_dataset("pseudo_own", quiet=True)]
    assert [line.partition(":")[0] for line in lines] == ["labels", "labels", "size", "unreadable"]
    assert "1.png' is not the image '1.png' that was labelled" in lines[0]
    assert "2.png' is 5 x 9, its labels 5 x 4" in lines[2] and "5.png" in lines[3]


def test_the_checker_looks_at_boxes_and_maps(
    catalogs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unchecked(label: StoredLabel, value: dict) -> dict:
        return encode(dataclasses.replace(label, num_classes=0), value)

    monkeypatch.setattr(made_labels, "encode", unchecked)
    wrong = {"boxes": StoredLabel(kind="instances", num_classes=1)}
    wrong["segments"] = StoredLabel(kind="sem_seg", num_classes=2)
    said = {**values(1), "segments": np.full((4, 5), 2)}
    said["boxes"] = {"boxes": [[0, 0, 9, 2]], "scores": [0.5], "categories": [1]}
    folder = catalogs / "pseudo" / "wrong"
    make_labels(folder, catalogs / "photos", ["1.png"], [said], wrong)
    shard = str(folder / "shard-00000.arrow")
    record = {"file_name": f"{catalogs}/photos/1.png", "pseudo_shard": shard, "pseudo_row": 0}
    found = [(problem.kind, problem.text) for problem in pseudo_problems(record)]
    assert [kind for kind, _ in found] == ["category", "box", "labels"]
    assert "label 'boxes', has an object of category 1, expected 0 to 0" in found[0][1]
    assert "label 'segments', holds the class 2, expected 0 to 1" in found[2][1]
    Path(shard).write_bytes(Path(shard).read_bytes()[:500])
    open_shard.cache_clear()
    assert [problem.kind for problem in pseudo_problems(record)] == ["unreadable"]
