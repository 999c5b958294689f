"""COCO, LVIS, Objects365 and Open Images from the official download to samples: the miniatures go
through the prepare scripts, the catalogs and the mapper as the real ones do."""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.lvis import load_lvis_json
from PIL import Image
from pycocotools.coco import COCO

from gppf_d2.data.catalog import coco, lvis, objects365, open_images
from gppf_d2.data.mappers import DetectionMapper
from gppf_d2.data.registration import is_builtin, register_coco_json
from tests.conftest import MAKE_MINI, make_mini

SETS = {
    "coco_2017": (16, 6, 80, True),
    "lvis_v1": (13, 9, 1203, True),
    "objects365_v2": (16, 6, 365, False),
    "openimages_challenge_2019": (15, 6, 500, False),
}
MODULES = (
    "downloads", "json_stream", "preparing",
    "prepare_coco", "prepare_objects365", "prepare_open_images",
)  # fmt: skip


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The modules of ``datasets/``, which the package never imports."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    try:
        found = {name: importlib.import_module(name) for name in MODULES}
        yield SimpleNamespace(**found, official=importlib.import_module("miniworld.official"))
    finally:
        sys.path.remove(str(MAKE_MINI.parent))


def run(module: object, root: Path, *options: str) -> int:
    """A prepare script's main, as its command line."""
    parser = module.allow_partial(module.options(module.__doc__))
    arguments = ["--root", str(root), "--workers", "1", *options]
    return module.command(module.prepare, parser, arguments)


@pytest.mark.parametrize("name", SETS)
def test_records_pass_the_mapper_with_all_objects_that_are_no_crowds(
    name: str, official_root: Path
) -> None:
    train, val, classes, masks = SETS[name]
    assert len(MetadataCatalog.get(f"{name}_train").thing_classes) == classes
    assert len(DatasetCatalog.get(f"{name}_val")) == val
    records = DatasetCatalog.get(f"{name}_train")
    assert len(records) == train
    mapper = DetectionMapper(True, augmentations=[], use_instance_mask=masks, num_classes=classes)
    seen = 0
    for record in records:
        assert record["file_name"].startswith(str(official_root))
        instances = mapper(record)["instances"]
        objects = [entry for entry in record["annotations"] if not entry.get("iscrowd", 0)]
        assert len(instances) == len(objects)
        assert instances.image_size == (record["height"], record["width"])
        seen += len(objects)
        if masks and objects:
            assert (instances.gt_masks.tensor.flatten(1).sum(1) > 0).all()
    assert seen > 2 * train


def test_coco_equals_detectron2s_reader_with_crowds_gaps_and_an_empty_image(
    official_root: Path,
) -> None:
    metadata = MetadataCatalog.get("coco_2017_train")
    records = DatasetCatalog.get("coco_2017_train")
    # into the metadata of another name: the reader fills them
    assert records == load_coco_json(metadata.json_file, metadata.image_root, "coco_like_test")
    like = MetadataCatalog.get("coco_like_test")
    MetadataCatalog.remove("coco_like_test")
    assert like.thing_classes == metadata.thing_classes
    mapping = metadata.thing_dataset_id_to_contiguous_id
    assert max(mapping) == 90 and sorted(mapping.values()) == list(range(80))
    assert len(metadata.thing_colors) == 80 and metadata.evaluator_type == "coco"
    crowds = [a for r in records for a in r["annotations"] if a["iscrowd"]]
    assert crowds and all(isinstance(crowd["segmentation"], dict) for crowd in crowds)
    assert sum(not record["annotations"] for record in records) == 1
    ids = [record["image_id"] for record in records]
    assert ids == sorted(ids) and max(np.diff(ids)) > 1
    truth = COCO(metadata.json_file)
    for annotation in truth.anns.values():
        assert abs(truth.annToMask(annotation).sum() - annotation["area"]) <= 3


def test_lvis_says_what_is_verified_in_contiguous_ids(official_root: Path) -> None:
    metadata = MetadataCatalog.get("lvis_v1_val")
    assert len(metadata.class_image_count) == 1203 and metadata.evaluator_type == "lvis"
    with open(metadata.json_file) as file:
        content = json.load(file)
    listed = {entry["id"]: entry for entry in content["images"]}
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    vague = 0
    folders = set()
    for record in DatasetCatalog.get("lvis_v1_val"):
        raw = listed[record["image_id"]]
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            assert record[key] == [number - 1 for number in raw[key]]
            assert [metadata.thing_classes[k] for k in record[key]] == [names[k] for k in raw[key]]
        present = {annotation["category_id"] for annotation in record["annotations"]}
        assert not present & set(record["neg_category_ids"])
        vague += len(record["not_exhaustive_category_ids"])
        folders.add(Path(record["file_name"]).parent.name)
        assert os.path.isfile(record["file_name"])
    assert folders == {"train2017", "val2017"}, "the validation images lie in both"
    assert vague > 0


def test_lvis_equals_detectron2s_reader_but_for_the_ids_of_verified_classes(
    official_root: Path,
) -> None:
    pytest.importorskip("lvis")
    metadata = MetadataCatalog.get("lvis_v1_train")
    expected = load_lvis_json(metadata.json_file, metadata.image_root, "lvis_v1_train")
    for record in expected:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            record[key] = [number - 1 for number in record[key]]
    assert DatasetCatalog.get("lvis_v1_train") == expected


def test_objects365_is_clipped_and_named_as_on_the_disk_and_the_original_is_kept(
    official_root: Path,
) -> None:
    folder = official_root / "objects365_v2" / "annotations"
    with open(folder / "zhiyuan_objv2_train.json") as file:
        original = json.load(file)
    records = DatasetCatalog.get("objects365_v2_train")
    assert len(original["images"]) == len(records) + 1, "one image is in no patch"
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in original["images"]}
    expected: dict[int, list] = {record["image_id"]: [] for record in records}
    outside = 0
    for entry in original["annotations"]:
        if entry["image_id"] not in expected:
            continue
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
        outside += x + w > width
        if h > 0:
            box = [*corners[:2], *(corners[2:] - corners[:2])]
            expected[entry["image_id"]].append([entry["category_id"] - 1, *box])
    assert outside > 3, "the miniature has boxes that leave their image"
    for record in records:
        found = [[a["category_id"], *a["bbox"]] for a in record["annotations"]]
        assert np.allclose(sorted(found), sorted(expected[record["image_id"]]), atol=1e-9)
        assert Path(record["file_name"]).is_file()
    assert sum(len(boxes) for boxes in expected.values()) == len(original["annotations"]) - 2


def test_open_images_keeps_groups_and_verified_classes(official_root: Path) -> None:
    metadata = MetadataCatalog.get("openimages_challenge_2019_val")
    number = {label: index for index, label in enumerate(metadata.thing_mids)}
    prefix = official_root / "openimages_challenge_2019" / "annotations" / "challenge-2019-"
    with open(f"{prefix}validation-detection-human-imagelabels.csv") as file:
        labels = list(csv.DictReader(file))
    with open(f"{prefix}validation-detection-bbox.csv") as file:
        boxes = list(csv.DictReader(file))
    records = DatasetCatalog.get("openimages_challenge_2019_val")
    groups = 0
    for record in records:
        image = Path(record["file_name"]).stem
        for key, confidence in (("pos_category_ids", "1"), ("neg_category_ids", "0")):
            verified = {
                number[row["LabelName"]]
                for row in labels
                if row["ImageID"] == image and row["Confidence"] == confidence
            }
            assert verified == set(record[key])
        mine = [row for row in boxes if row["ImageID"] == image]
        assert len(mine) == len(record["annotations"])
        for row, annotation in zip(mine, record["annotations"]):
            assert annotation["category_id"] == number[row["LabelName"]]
            assert annotation["isgroupof"] == annotation["iscrowd"] == int(row["IsGroupOf"])
            x, y, w, h = annotation["bbox"]
            size = [record["width"], record["width"], record["height"], record["height"]]
            sides = [float(row[key]) for key in ("XMin", "XMax", "YMin", "YMax")]
            assert np.allclose([x, x + w, y, y + h], np.multiply(sides, size), atol=0.011)
            groups += annotation["isgroupof"]
    assert groups > 0 and sum(not record["annotations"] for record in records) == 1
    train = DatasetCatalog.get("openimages_challenge_2019_train")
    assert all(record["annotations"] for record in train), "training takes images with boxes"
    assert any(Path(record["file_name"]).parent.name.startswith("train_") for record in train)


def test_class_lists_are_those_of_the_official_files(official_root: Path) -> None:
    def names(name: str) -> list[str]:
        with open(MetadataCatalog.get(name).json_file) as file:
            listed = json.load(file)["categories"]
        return [entry["name"] for entry in sorted(listed, key=lambda entry: entry["id"])]

    assert names("objects365_v2_val") == list(objects365.CLASSES)
    assert names("coco_2017_val") == MetadataCatalog.get("coco_2017_val").thing_classes
    assert names("openimages_challenge_2019_val") == [name for _, name in open_images.LABELS]
    known = MetadataCatalog.get("lvis_v1_val").thing_classes
    differ = [pair for pair in zip(names("lvis_v1_val"), known) if pair[0] != pair[1]]
    assert differ == [("bull", "horned_cow")]
    with open(MetadataCatalog.get("openimages_challenge_2019_val").hierarchy_file) as file:
        tree = json.load(file)

    def labels(node: dict) -> Iterator[str]:
        for child in node.get("Subcategory", ()):
            yield child["LabelName"]
            yield from labels(child)

    found = list(labels(tree))
    assert set(found) == {label for label, _ in open_images.LABELS}
    assert len(found) > len(set(found)), "a class hangs in two places, as in the official tree"


def test_detectron2s_own_entry_follows_the_root_and_a_users_entry_stays(tmp_path: Path) -> None:
    name = "coco_2017_val_100"  # builtin, and not one that the catalog takes over
    entry, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    classes = {key: str(key) for key in range(1, 4)}
    paths = ("json", "images")

    def forget() -> None:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)

    try:
        assert is_builtin(name)
        for root in (tmp_path / "a", tmp_path / "b", tmp_path / "b"):
            register_coco_json(name, str(root), str(root / "x.json"), str(root), classes)
            assert MetadataCatalog.get(name).json_file == str(root / "x.json")
            assert MetadataCatalog.get(name).thing_classes == ["1", "2", "3"]
        with pytest.raises(FileNotFoundError, match="--data-root"):
            DatasetCatalog.get(name)
        forget()
        register_coco_instances(name, {}, *paths)  # through Detectron2's own function
        theirs = DatasetCatalog[name]
        assert not is_builtin(name)
        register_coco_json(name, str(tmp_path), "x.json", "x", classes)
        assert DatasetCatalog[name] is theirs
        assert MetadataCatalog.get(name).json_file == "json"
    finally:
        forget()
        DatasetCatalog.register(name, entry)
        MetadataCatalog.get(name).set(**metadata.as_dict())


def test_builtin_names_follow_the_folder_of_the_datasets(
    official_root: Path, tmp_path: Path
) -> None:
    modules = (coco, lvis, objects365, open_images)
    try:
        for module in modules:
            module.register(str(tmp_path))
        for name in SETS:
            metadata = MetadataCatalog.get(f"{name}_val")
            assert metadata.json_file.startswith(str(tmp_path))
            with pytest.raises(FileNotFoundError, match=str(tmp_path)):
                DatasetCatalog.get(f"{name}_val")
    finally:
        for module in modules:
            module.register(str(official_root))
    assert len(DatasetCatalog.get("coco_2017_val")) == 6


def test_a_second_preparation_changes_nothing_and_a_new_image_is_noticed(
    scripts: SimpleNamespace, tmp_path: Path, official_root: Path, capsys: pytest.CaptureFixture
) -> None:
    source = official_root / "objects365_v2"
    (tmp_path / "objects365_v2" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "objects365_v2" / split).symlink_to(source / split)
        name = f"annotations/zhiyuan_objv2_{split}.json"
        (tmp_path / "objects365_v2" / name).symlink_to(source / name)
    assert run(scripts.prepare_objects365, tmp_path) == 0
    target = tmp_path / "objects365_v2" / "annotations" / "objects365_v2_val.json"
    assert target.read_bytes() == (source / "annotations" / target.name).read_bytes()
    first = target.stat().st_mtime_ns
    assert run(scripts.prepare_objects365, tmp_path) == 0
    assert target.stat().st_mtime_ns == first and "left alone" in capsys.readouterr().out
    # an older file than the folder of the images stands for a patch that was unpacked later
    os.utime(target, ns=(1, 1))
    assert run(scripts.prepare_objects365, tmp_path) == 0
    assert target.stat().st_mtime_ns > 1
    names = sorted(path.name for path in target.parent.iterdir())
    assert not [name for name in names if name.startswith(".")], "temporary files are left"


@pytest.mark.parametrize("name", ["objects365", "open_images"])
def test_a_missing_image_is_an_error_unless_a_part_is_meant(
    name: str,
    scripts: SimpleNamespace,
    tmp_path: Path,
    official_root: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = {"objects365": "objects365_v2", "open_images": "openimages_challenge_2019"}[name]
    for path in sorted((official_root / folder).rglob("*")):
        link = tmp_path / path.relative_to(official_root)
        if path.is_file() and "openimages_challenge" not in path.name:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    lost = sorted((tmp_path / folder / "train").rglob("*.jpg"))[3]
    lost.unlink()
    script = getattr(scripts, f"prepare_{name}")
    assert run(script, tmp_path) == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert lost.stem in text and "--partial" in text
    assert run(script, tmp_path, "--partial") == 0
    dataset = "objects365_v2" if name == "objects365" else folder
    content = json.loads((tmp_path / folder / "annotations" / f"{dataset}_train.json").read_text())
    assert not [e for e in content["images"] if lost.name in e["file_name"]]
    known = {entry["id"] for entry in content["images"]}
    assert {entry["image_id"] for entry in content["annotations"]} <= known


def test_sizes_are_those_of_the_image_as_it_is_shown(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [str(tmp_path / f"{name}.jpg") for name in ("turned", "plain", "broken")]
    assert scripts.prepare_open_images.image_sizes(paths) == [(20, 30), (30, 20), None]


def test_archives_of_coco_are_unpacked_and_missing_ones_named(
    scripts: SimpleNamespace, tmp_path: Path, official_root: Path, capsys: pytest.CaptureFixture
) -> None:
    source, target = official_root / "coco", tmp_path / "coco"
    target.mkdir()
    assert run(scripts.prepare_coco, tmp_path) == 2
    assert "download train2017.zip" in capsys.readouterr().err
    for archive, folder in (
        ("train2017", "train2017"),
        ("val2017", "val2017"),
        ("annotations_trainval2017", "annotations"),
    ):
        with zipfile.ZipFile(target / f"{archive}.zip", "w") as content:
            for path in sorted(source.glob(f"{folder}/*.jp*g")) + sorted(
                source.glob(f"{folder}/instances_*.json")
            ):
                content.write(path, f"{folder}/{path.name}")
    assert run(scripts.prepare_coco, tmp_path) == 0
    assert len(list((target / "train2017").iterdir())) == 16
    assert (target / "annotations" / "instances_val2017.json").is_file()
    (target / "val2017.zip").write_bytes(b"PK cut off")
    for path in (target / "val2017").iterdir():
        path.unlink()
    (target / "val2017").rmdir()
    assert run(scripts.prepare_coco, tmp_path) == 2
    assert "damaged" in capsys.readouterr().err and not (target / "val2017").exists()


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_streamed_elements_are_those_of_the_whole_file(
    piece: int, scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.json_stream, "PIECE", piece)
    content = {
        "info": {"x": [1, 2], "text": 'a "] } , {'},
        "count": 12345,
        "a": [{"id": 1, "name": "}, {"}, {"id": 2, "nested": [[1.5e-3], {}]}, 17, "ä", None],
        "none": [],
        "b": [{"id": 123456789}],
    }
    path = tmp_path / "x.json"
    for indent in (None, 2):
        path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
        found = list(scripts.json_stream.elements(path, "a", "none", "b"))
        assert found == [("a", e) for e in content["a"]] + [("b", e) for e in content["b"]]
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ValueError, match="ends in the middle"):
        list(scripts.json_stream.elements(path, "b"))


def test_a_real_dataset_is_never_replaced_by_a_miniature(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = scripts.official
    monkeypatch.setattr(official, "modules", lambda: ["coco"])
    for split in ("train", "val"):
        monkeypatch.setitem(official.world.COUNTS, split, 1)
    said: list[str] = []
    official.build(tmp_path, say=said.append)
    image = tmp_path / "coco" / "val2017" / "000000000139.jpg"
    first = image.read_bytes()
    official.build(tmp_path, say=said.append)
    assert "left alone" in said[-1]
    official.build(tmp_path, seed=1, say=said.append)
    assert image.read_bytes() != first, "another seed is another world"
    kept, truth = image.read_bytes(), tmp_path / "coco/annotations/instances_val2017.json"
    made = truth.read_bytes()
    truth.write_bytes(made + b"the real one, put in the place of the miniature")
    with pytest.raises(ValueError, match="is no official miniature"):
        official.build(tmp_path, say=said.append)
    truth.write_bytes(made)
    (tmp_path / official.MANIFEST).unlink()
    with pytest.raises(ValueError, match="is no official miniature"):
        official.build(tmp_path, say=said.append)
    assert image.read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco"], "temporary folders"


def test_options_of_the_other_miniature_are_refused(tmp_path: Path) -> None:
    made = make_mini(tmp_path, "--official", "--size", "64")
    assert made.returncode == 2 and "are not for --official" in made.stderr
    assert not list(tmp_path.iterdir())
