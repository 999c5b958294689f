"""The ten classification sets, from miniatures of their downloads to records and samples.

torchvision reads the same folders: wherever it knows a split, paths and labels are compared.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torchvision.datasets as reference
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from gppf_d2.data.catalog import classification
from gppf_d2.data.catalog.classification import METRICS, SETS, SPLITS, classes_of, load, lowest
from gppf_d2.data.check import check_dataset
from gppf_d2.data.class_folders import list_class_folders
from gppf_d2.data.index import open_records
from gppf_d2.data.mappers import ClassificationMapper
from gppf_d2.tools import check_dataset as checker
from tests.conftest import MAKE_MINI

pytestmark = pytest.mark.usefixtures("official_root")
NAMES = [f"{name}_{split}" for name in SETS for split in SPLITS]
COUNTS = {
    "food101": 101, "cifar10": 10, "cifar100": 100, "sun397": 397, "cars": 196, "aircraft": 100,
    "dtd": 47, "pets": 37, "caltech101": 102, "flowers": 102,
}  # fmt: skip


@pytest.fixture(scope="module")
def prepare() -> Iterator[ModuleType]:
    """The prepare script as a module."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    try:
        yield importlib.import_module("prepare_classification")
    finally:
        sys.path.remove(str(MAKE_MINI.parent))
        for name in ("prepare_classification", "downloads", "preparing"):
            sys.modules.pop(name, None)


@pytest.fixture
def copy(official_root: Path, tmp_path: Path):
    """Copies the folder of a set: all of it, or only what was downloaded."""

    def make(name: str, downloads: bool = False) -> Path:
        source = official_root / SETS[name].folder.split("/")[0]
        shutil.copytree(source, tmp_path / source.name)
        for path in (tmp_path / source.name).iterdir() if downloads else ():
            if not path.name.endswith(("gz", ".zip", "labels.mat", "setid.mat")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return tmp_path / source.name

    return make


def records(name: str, *splits: str) -> list[dict]:
    return [record for split in splits for record in open_records(f"{name}_{split}")]


def named(name: str, *splits: str) -> dict[str, str]:
    """Path -> class of the records of some splits."""
    return {r["file_name"]: classes_of(name)[r["label"]] for r in records(name, *splits)}


# what is known without files


@pytest.mark.parametrize("name", SETS)
def test_classes_and_metric_are_known_without_files(name: str) -> None:
    classes = classes_of(name)
    assert len(classes) == len(set(classes)) == COUNTS[name]
    for split in SPLITS:
        metadata = MetadataCatalog.get(f"{name}_{split}")
        assert metadata.classes == list(classes)
        assert metadata.classification_metric == METRICS[name]


def test_the_metrics_are_those_of_table_7() -> None:
    per_class = {name for name, metric in METRICS.items() if metric == "mean_per_class"}
    assert per_class == {"aircraft", "pets", "caltech101", "flowers"}
    assert set(METRICS.values()) == {"mean_per_class", "top1"}


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("food101", 16, "cheesecake"),  # the order of classes.txt, which is not sorted here
        ("food101", 17, "cheese_plate"),
        ("cifar10", 9, "truck"),
        ("cifar100", 70, "rose"),
        ("sun397", 8, "apartment_building/outdoor"),
        ("cars", 0, "AM General Hummer SUV 2000"),
        ("cars", 195, "smart fortwo Convertible 2012"),
        ("aircraft", 73, "F/A-18"),
        ("dtd", 46, "zigzagged"),
        ("pets", 1, "american_bulldog"),
        ("pets", 11, "Egyptian_Mau"),
        ("caltech101", 0, "BACKGROUND_Google"),
        ("flowers", 0, "pink primrose"),
        ("flowers", 101, "blackberry lily"),
    ],
)
def test_labels_follow_the_official_lists(name: str, label: int, expected: str) -> None:
    assert classes_of(name)[label] == expected


def test_sizes_add_up() -> None:
    for name, official in SETS.items():
        sizes = official.sizes
        if "val" in sizes:
            assert sizes["train"] + sizes["val"] == sizes["trainval"], name
        assert MetadataCatalog.get(f"{name}_test").official_size == sizes["test"]
    assert SETS["food101"].sizes["val"] == 7_575 and SETS["caltech101"].sizes["trainval"] == 3_060


# records, against torchvision


def expected_of(name: str, root: Path, train: bool) -> dict[str, str]:
    """Path -> class, as torchvision reads an official part (all images of SUN397 and Caltech)."""
    part = "train" if train else "test"
    if name == "food101":
        data = reference.Food101(root, part)
    elif name == "sun397":
        data = reference.SUN397(root)
    elif name == "cars":
        data = reference.StanfordCars(root, part)
        return {path: data.classes[label] for path, label in data._samples}
    elif name == "aircraft":
        data = reference.FGVCAircraft(root, "trainval" if train else "test")
    elif name == "dtd":
        parts = [reference.DTD(root, p) for p in (("train", "val") if train else ("test",))]
        return {
            str(path): data.classes[label]
            for data in parts
            for path, label in zip(data._image_files, data._labels)
        }
    elif name == "pets":
        data = reference.OxfordIIITPet(root, "trainval" if train else "test")
        names = classes_of("pets")
        return {str(p): names[label] for p, label in zip(data._images, data._labels)}
    elif name == "flowers":
        parts = [reference.Flowers102(root, p) for p in (("train", "val") if train else ("test",))]
        names = [text.rstrip("?") for text in reference.Flowers102.classes]
        return {
            str(path): names[label]
            for data in parts
            for path, label in zip(data._image_files, data._labels)
        }
    return {str(p): data.classes[label] for p, label in zip(data._image_files, data._labels)}


@pytest.mark.parametrize(
    "name", [name for name in SETS if not name.startswith(("ci", "caltech", "sun"))]
)
def test_records_are_those_of_torchvision(
    name: str, official_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the hashes of the real files
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
    for train, splits in ((True, ("trainval",)), (False, ("test",))):
        expected = expected_of(name, official_root, train)
        assert len(expected) == (24 if train else 8)
        assert named(name, *splits) == expected


def test_aircraft_and_flowers_keep_their_validation_sets(
    official_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda *_: True)
    for name, kind in (("aircraft", "FGVCAircraft"), ("dtd", "DTD"), ("flowers", "Flowers102")):
        for split in ("train", "val"):
            data = getattr(reference, kind)(official_root, split)
            assert list(map(str, data._image_files)) == [
                record["file_name"] for record in records(name, split)
            ]


def test_sun397_takes_the_images_of_its_first_split(official_root: Path) -> None:
    everything = expected_of("sun397", official_root, True)
    own = named("sun397", "trainval", "test")
    assert own.items() < everything.items() and len(own) == 32 and len(everything) == 40
    assert reference.SUN397(official_root).classes == list(classes_of("sun397"))
    assert [len(records("sun397", split)) for split in ("trainval", "test")] == [24, 8]


def test_caltech_counts_the_background_and_trains_on_thirty_images_a_class(
    official_root: Path,
) -> None:
    own = named("caltech101", "trainval", "test")
    data = reference.Caltech101(official_root)
    folder = official_root / "caltech101" / "101_ObjectCategories"
    expected = {
        str(folder / data.categories[label] / f"image_{index:04d}.jpg"): data.categories[label]
        for index, label in zip(data.index, data.y)
    }
    background = {path: name for path, name in own.items() if name == "BACKGROUND_Google"}
    assert len(background) == 32 and own == {**expected, **background}
    for split, count in (("train", 25), ("val", 5), ("trainval", 30), ("test", 2)):
        assert set(Counter(named("caltech101", split).values()).values()) == {count}


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_has_the_pixels_and_labels_of_the_pickles(
    name: str, kind: str, official_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for train, splits in ((True, ("train", "val")), (False, ("test",))):
        data = getattr(reference, kind)(official_root, train)
        assert data.classes == list(classes_of(name))
        found = {int(Path(r["file_name"]).stem): r for r in records(name, *splits)}
        assert sorted(found) == list(range(len(data)))
        for index, record in found.items():
            assert record["label"] == data.targets[index]
            assert np.array_equal(np.asarray(Image.open(record["file_name"])), data.data[index])


# splits


@pytest.mark.parametrize("name", SETS)
def test_splits_are_disjoint_and_trainval_is_train_and_val(name: str, official_root: Path) -> None:
    files = {split: [record["file_name"] for record in records(name, split)] for split in SPLITS}
    assert files["trainval"] == files["train"] + files["val"]
    everything = files["trainval"] + files["test"]
    assert len(set(everything)) == len(everything) and all(files.values())
    for split in SPLITS:
        own = open_records(f"{name}_{split}")
        assert [record["image_id"] for record in own] == list(range(len(own)))
        assert [dict(record) for record in DatasetCatalog.get(f"{name}_{split}")] == list(own)
        labels = Counter(record["label"] for record in own)
        assert len(labels) == 8 and max(labels) < COUNTS[name]


def write_food(root: Path, per_class: int, order: int = 1) -> None:
    meta = root / "food-101" / "meta"
    meta.mkdir(parents=True)
    names = [f"{c}/{i}" for c in ("waffles", "sushi") for i in range(per_class)]
    (meta / "train.txt").write_text("\n".join(names[::order]) + "\n")


def test_the_held_out_part_is_a_share_of_each_class_whatever_the_order(tmp_path: Path) -> None:
    write_food(tmp_path / "a", 40)
    write_food(tmp_path / "b", 40, order=-1)
    found = []
    for root in (tmp_path / "a", tmp_path / "b"):
        val = load(str(root), "food101", "val")
        assert Counter(r["label"] for r in val) == {100: 4, 95: 4}
        assert len(load(str(root), "food101", "train")) == 72
        found.append({os.path.relpath(r["file_name"], root) for r in val})
    assert found[0] == found[1]
    # fixed for good: results on a validation set are comparable for as long as it is the same one
    assert sorted(Path(name).stem for name in found[0] if "sushi" in name) == EXPECTED


EXPECTED = ["12", "31", "5", "8"]


def test_a_class_of_two_images_has_one_for_validation_and_a_class_of_one_has_none(
    tmp_path: Path,
) -> None:
    write_food(tmp_path / "two", 2)
    assert len(load(str(tmp_path / "two"), "food101", "val")) == 2
    write_food(tmp_path / "one", 1)
    assert load(str(tmp_path / "one"), "food101", "val") == []


def test_lowest_takes_by_class() -> None:
    samples = [(f"{label}/{index}", label) for label in (0, 1) for index in range(10)]
    chosen = lowest(samples, lambda size: 3)
    assert Counter(label for _, label in chosen) == {0: 3, 1: 3}
    assert chosen == lowest(samples[::-1], lambda size: 3)


# images


def test_grey_cmyk_and_gif_images_become_samples(official_root: Path) -> None:
    odd = {}
    for name in ("sun397", "cars", "caltech101", "pets"):
        for record in records(name, "trainval", "test"):
            image = Image.open(record["file_name"])
            odd.setdefault(f"{image.format} {image.mode}", record)
    assert set(odd) >= {"JPEG RGB", "JPEG L", "JPEG CMYK", "GIF P", "PNG RGBA"}
    for record in odd.values():
        sample = ClassificationMapper(True, image_size=32)(record)
        assert sample["image"].shape == (3, 32, 32)


def test_the_checker_finds_nothing_and_knows_the_official_sizes(
    official_root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "register_all", lambda: None)  # the fixture did
    assert checker.main([*NAMES, "--partial", "--full"]) == 0
    assert capsys.readouterr().out.count("nothing is missing or broken") == len(NAMES) == 40
    found = list(check_dataset("food101_val", quiet=True))
    assert [str(problem) for problem in found] == [
        "dataset: 8 images, the official number is 7,575"
    ]


# faults


def broken(folder: Path, name: str) -> str:
    """What reading the training set says."""
    with pytest.raises(ValueError, match="does not hold") as caught:
        load(str(folder.parents[SETS[name].folder.count("/")]), name, "train")
    text = str(caught.value)
    assert "\n" not in text and name in text and "restore the original" in text
    return text


@pytest.mark.parametrize(
    ("name", "file", "content", "say"),
    [
        ("food101", "meta/train.txt", "waffels/12\n", "the class 'waffels'"),
        ("sun397", "Training_01.txt", "/k/kitchens/sun_a.jpg\n", "the class 'kitchens'"),
        ("aircraft", "data/images_variant_train.txt", "1025794\n", "not enough values"),
        ("pets", "annotations/trainval.txt", "pug_1 38 1 1\n", "the class 37"),
        ("pets", "annotations/trainval.txt", "pug_1 x 1 1\n", "invalid literal"),
        ("cars", "devkit/cars_train_annos.mat", "no matrix", "cars_train_annos.mat' is no MATLAB"),
        ("flowers", "imagelabels.mat", "", "is no MATLAB"),
    ],
)
def test_a_damaged_list_is_one_sentence(name: str, file: str, content: str, say: str, copy) -> None:
    folder = copy(name)
    (folder / file).write_text(content)
    assert say in broken(folder, name)


def test_a_mat_file_without_the_variable_is_one_sentence(copy) -> None:
    folder = copy("flowers")
    shutil.copy(folder / "setid.mat", folder / "imagelabels.mat")
    assert "'labels'" in broken(folder, "flowers")
    (folder / "imagelabels.mat").write_bytes((folder / "setid.mat").read_bytes()[:132])
    assert "imagelabels.mat' is no MATLAB file" in broken(folder, "flowers")


def test_a_byte_order_mark_and_spaces_at_the_end_of_lines_change_nothing(copy) -> None:
    for name, file in (("pets", "annotations/trainval.txt"), ("dtd", "dtd/labels/train1.txt")):
        folder = copy(name)
        before = load(str(folder.parent), name, "train")
        text = (folder / file).read_text().replace("\n", " \r\n")
        (folder / file).write_text(text, encoding="utf-8-sig")
        assert load(str(folder.parent), name, "train") == before


def test_a_strange_class_folder_is_named(copy) -> None:
    folder = copy("caltech101")
    (folder / "101_ObjectCategories" / "unicorn").mkdir()
    assert "holds 'unicorn', which is none of the 102" in broken(folder, "caltech101")


@pytest.mark.parametrize("name", SETS)
def test_a_missing_set_says_what_to_run(name: str, official_root: Path, tmp_path: Path) -> None:
    classification.register(str(tmp_path))
    try:
        with pytest.raises(FileNotFoundError, match=f"prepare_classification.py --part {name} "):
            open_records(f"{name}_trainval")
    finally:
        classification.register(str(official_root))


def test_class_folders_are_complete_unless_parts_are_allowed(tmp_path: Path) -> None:
    for name in ("b", "a", ".cache"):
        (tmp_path / name).mkdir()
    for name in ("2.jpg", "1.jpg", "tmp", "._1.jpg"):
        (tmp_path / "b" / name).write_bytes(b"")
    found = list_class_folders(str(tmp_path), ("b", "a"), ".jpg", "mend it")
    assert found == [(str(tmp_path / "b" / f"{number}.jpg"), 0) for number in (1, 2)]
    with pytest.raises(ValueError, match=r"holds 'a', which is none of the 1 class .*; mend it"):
        list_class_folders(str(tmp_path), ("b",), ".jpg", "mend it", partly=True)
    with pytest.raises(ValueError, match="lacks 'c' of the 3 class folders; mend it"):
        list_class_folders(str(tmp_path), ("a", "b", "c"), ".jpg", "mend it")
    assert list_class_folders(str(tmp_path), ("a", "b", "c"), ".jpg", "", partly=True)[0][1] == 1


# preparation


def run(prepare: ModuleType, folder: Path, name: str) -> int:
    return prepare.main(["--root", str(folder.parent), "--part", name, "--workers", "1"])


@pytest.mark.parametrize("name", SETS)
def test_a_truncated_archive_is_named_and_nothing_half_is_left(
    name: str, prepare: ModuleType, copy, capfd: pytest.CaptureFixture
) -> None:
    folder = copy(name, downloads=True)
    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    if name == "caltech101":  # as downloaded in former times: the tar without the zip around it
        largest.unlink()
        largest = folder / "101_ObjectCategories.tar.gz"
    before = sorted(path.name for path in folder.iterdir())
    whole = largest.read_bytes()
    largest.write_bytes(whole[: len(whole) // 2])
    assert run(prepare, folder, name) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert largest.name in error and "download it again" in error
    kept = {*before, "devkit", "annotations", "Training_01.txt", "Testing_01.txt"}
    assert {path.name for path in folder.iterdir()} <= kept
    largest.write_bytes(whole)
    assert run(prepare, folder, name) == 0
    assert load(str(folder.parent), name, "test")


def test_what_is_prepared_is_left_alone_and_needs_no_archives(
    prepare: ModuleType, copy, capfd: pytest.CaptureFixture
) -> None:
    for name in SETS:
        folder = copy(name)
        for archive in [*folder.glob("*gz"), *folder.glob("*.zip")]:
            archive.unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    assert prepare.main(["--root", str(folder.parent), "--workers", "1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == times
    printed = capfd.readouterr().out.splitlines()
    assert len(printed) == 10 and printed[0].endswith("32 images: a part, the whole has 101,000")


def test_without_parts_what_is_there_is_prepared_and_the_rest_is_named(
    prepare: ModuleType, copy, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert prepare.main(["--root", str(tmp_path)]) == 2
    assert "holds none of the downloads food101 ('food-101')" in capfd.readouterr().err
    copy("dtd", downloads=True)
    assert prepare.main(["--root", str(tmp_path), "--workers", "1"]) == 0
    printed = capfd.readouterr().out
    assert "left out: food101 ('food-101')" in printed and "dtd (" not in printed
    assert run(prepare, tmp_path / "SUN397", "sun397") == 2
    assert "download it from https://vision.princeton.edu" in capfd.readouterr().err


def test_a_zip_that_leaves_its_folder_or_is_damaged_is_refused(
    prepare: ModuleType, tmp_path: Path
) -> None:
    archive, outside = tmp_path / "set.zip", tmp_path / "outside"
    for name in (f"set/{outside}", "set/../outside"):
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr(name, "out")
        with pytest.raises(ValueError, match="set.zip' is no archive of 'set'"):
            prepare.unzip(archive, tmp_path / "set", "set", "")
        assert not outside.exists()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("list.txt", " ".join(map(str, range(999))))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:50] + b"\xff" * 99 + whole[149:])
    with pytest.raises(ValueError, match=r"set.zip' is damaged \(.*\); download it again"):
        prepare.unzip(archive, tmp_path / "list.txt", "list.txt", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.zip"]


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


def test_a_pickle_that_calls_something_is_refused(
    prepare: ModuleType,
    copy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    folder = copy("cifar10")
    shutil.rmtree(folder / "images")
    monkeypatch.chdir(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Bomb(), "labels": []}, 2))
    assert run(prepare, folder, "cifar10") == 2
    assert "data_batch_3' is no official file" in capfd.readouterr().err
    assert not (tmp_path / "exploded").exists() and not (folder / "images").exists()


IMAGES = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("data_batch_3", {"data": IMAGES[:, :9], "labels": [1, 2]}),
        ("data_batch_3", {"data": IMAGES, "labels": [1]}),
        ("data_batch_3", {"data": IMAGES, "labels": [1, 10]}),
        ("data_batch_3", {"data": IMAGES, "labels": ["a", "b"]}),
        ("data_batch_3", {"data": IMAGES}),
        ("data_batch_3", [1, 2]),
        ("batches.meta", {"label_names": ["bird", "../../somewhere"]}),
        ("batches.meta", {}),
    ],
)
def test_files_of_cifar_that_do_not_fit_are_named(
    file: str, content: object, prepare: ModuleType, copy, capfd: pytest.CaptureFixture
) -> None:
    folder = copy("cifar10")
    shutil.rmtree(folder / "images")
    (folder / file).write_bytes(pickle.dumps(content, 2))
    assert run(prepare, folder, "cifar10") == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert f"{file}'" in error and "download it again" in error
    assert not (folder / "images").exists()


def test_pickles_of_python_3_are_read_too(prepare: ModuleType, tmp_path: Path) -> None:
    content = {"labels": [1, 2], "data": np.arange(6144, dtype=np.uint8).reshape(2, 3072)}
    (tmp_path / "batch").write_bytes(pickle.dumps(content))
    images = list(prepare.cifar_images([tmp_path / "batch"], "labels", 3))
    assert [(number, label) for number, label, _ in images] == [(0, 1), (1, 2)]
    assert images[1][2][0, 0].tolist() == content["data"][1][[0, 1024, 2048]].tolist()
