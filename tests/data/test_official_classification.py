"""ImageNet-1K, -21K-P and -21K from miniatures of the official downloads to samples of the mapper.

The names of classes, the coding of file names and the reading from tars are tested here too.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scipy.io import loadmat

from gppf_d2.analysis.predictions.predictor import Predictor
from gppf_d2.data.catalog import imagenet, imagenet_21k
from gppf_d2.data.catalog.imagenet import classes_of
from gppf_d2.data.index import open_records, open_source
from gppf_d2.data.index.image_folder import ImageFolderSource, code_names
from gppf_d2.data.loader import TaskSource
from gppf_d2.data.mappers import ClassificationMapper
from gppf_d2.data.mappers.reading import read_image
from gppf_d2.data.samples import BatchKey, Samples
from gppf_d2.tasks.stream import Position, Stream
from tests.conftest import MAKE_MINI

SETS = {
    "imagenet_1k_train": ("imagenet/train", "1"),
    "imagenet_1k_val": ("imagenet/val", "1"),
    "imagenet_21k_p_train": ("imagenet21k_p/imagenet21k_train", "P"),
    "imagenet_21k_p_val": ("imagenet21k_p/imagenet21k_val", "P"),
    "imagenet_21k_train": ("imagenet21k", "F"),
}


def script(name: str) -> ModuleType:
    """A prepare script as a module."""
    spec = importlib.util.spec_from_file_location(name, MAKE_MINI.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(MAKE_MINI.parent))
    names = ("prepare_imagenet", "prepare_imagenet_21k")
    try:
        yield {name: script(name) for name in names}
    finally:
        sys.path.remove(str(MAKE_MINI.parent))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture
def downloads(official_root: Path, tmp_path: Path) -> Iterator[Path]:
    """The downloads alone, as if nothing had been prepared; a test may register them."""
    for name in ("imagenet", "imagenet21k_p"):
        (tmp_path / name).mkdir()
        for path in (official_root / name).iterdir():
            if path.is_file():
                shutil.copy(path, tmp_path / name)
    shutil.copytree(official_root / "imagenet21k", tmp_path / "imagenet21k")
    yield tmp_path
    imagenet.register(str(official_root))
    imagenet_21k.register(str(official_root))


def class_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


# classes


@pytest.mark.parametrize(("release", "count"), [("1", 1000), ("P", 10_450), ("F", 21_841)])
def test_classes_are_known_without_a_dataset(release: str, count: int) -> None:
    wordnet_ids, names = classes_of(release)
    assert len(wordnet_ids) == len(set(wordnet_ids)) == len(names) == count
    assert list(wordnet_ids) == sorted(wordnet_ids)
    assert dict(zip(wordnet_ids, names))["n03249569"] == "drum"


def test_the_labels_of_imagenet_1k_are_the_usual_ones() -> None:
    wordnet_ids, names = classes_of("1")
    assert (wordnet_ids[0], names[0]) == ("n01440764", "tench")
    assert (wordnet_ids[207], names[207]) == ("n02099601", "golden retriever")
    assert (wordnet_ids[999], names[999]) == ("n15075141", "toilet tissue")


def test_the_processed_classes_are_among_all() -> None:
    assert set(classes_of("P")[0]) < set(classes_of("F")[0])


# from the download to samples


@pytest.mark.parametrize("name", SETS)
def test_records_are_the_images_of_the_download(name: str, official_root: Path) -> None:
    folder, release = SETS[name]
    wordnet_ids, _ = classes_of(release)
    metadata = MetadataCatalog.get(name)
    assert len(metadata.classes) == len(wordnet_ids)
    records = open_records(name)
    assert len(records) > 10
    for index, record in enumerate(records):
        assert record["image_id"] == index
        wnid = wordnet_ids[record["label"]]
        if name == "imagenet_21k_train":
            member = record["file_name"].removeprefix(f"{official_root / folder / wnid}.tar:")
            assert member.startswith(wnid)
        else:
            assert Path(record["file_name"]).parent == official_root / folder / wnid
        sample = ClassificationMapper(False, image_size=32, num_classes=len(wordnet_ids))(record)
        assert sample["image"].shape == (3, 32, 32) and sample["label"] == record["label"]
    assert [dict(record) for record in DatasetCatalog.get(name)] == list(records)


def test_validation_images_go_where_the_devkit_says(official_root: Path) -> None:
    with tarfile.open(official_root / "imagenet" / "ILSVRC2012_devkit_t12.tar.gz") as tar:
        kit = {Path(member.name).name: tar.extractfile(member).read() for member in tar}
    synsets = loadmat(io.BytesIO(kit["meta.mat"]), squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    assert sorted(wnids.values()) != [wnids[number] for number in sorted(wnids)]
    content = class_tar(official_root / "imagenet" / "ILSVRC2012_img_val.tar")
    truth = [int(line) for line in kit["ILSVRC2012_validation_ground_truth.txt"].split()]
    folder = official_root / "imagenet" / "val"
    expected = {
        folder / wnids[number] / name: content[name] for number, name in zip(truth, sorted(content))
    }
    assert {path: path.read_bytes() for path in folder.rglob("*.JPEG")} == expected


def test_training_folders_hold_what_the_tars_in_the_tar_hold(official_root: Path) -> None:
    outer = class_tar(official_root / "imagenet" / "ILSVRC2012_img_train.tar")
    for name, content in outer.items():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            expected = {member.name: tar.extractfile(member).read() for member in tar}
        folder = official_root / "imagenet" / "train" / name.removesuffix(".tar")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_a_flat_validation_folder_is_sorted_in_place(
    downloads: Path, official_root: Path, scripts: dict[str, ModuleType]
) -> None:
    folder = downloads / "imagenet" / "val"
    folder.mkdir()
    for name, content in class_tar(folder.with_name("ILSVRC2012_img_val.tar")).items():
        (folder / name).write_bytes(content)
    # the training tar was deleted after an earlier preparation
    (downloads / "imagenet" / "ILSVRC2012_img_train.tar").unlink()
    shutil.copytree(official_root / "imagenet" / "train", folder.with_name("train"))
    arguments = ["--root", str(downloads), "--workers", "1"]
    for _ in range(2):
        assert scripts["prepare_imagenet"].main(arguments) == 0
        expected = official_root / "imagenet" / "val"
        names = sorted(path.relative_to(expected) for path in expected.rglob("*"))
        assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == names


@pytest.mark.parametrize(
    ("file", "say"),
    [
        ("imagenet/ILSVRC2012_img_train.tar", "n0.*tar' is damaged|img_train.tar' is damaged"),
        ("imagenet/ILSVRC2012_img_val.tar", "ILSVRC2012_img_val.tar' is damaged"),
        ("imagenet21k_p/imagenet21k_resized.tar.gz", "imagenet21k_resized.tar.gz' is damaged"),
        ("imagenet21k/n03249569.tar", "1 tars are damaged.*n03249569.tar"),
    ],
)
def test_a_truncated_download_is_named_and_nothing_half_is_left(
    file: str, say: str, downloads: Path, scripts: dict[str, ModuleType], capfd
) -> None:
    path = downloads / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    whole = "imagenet/" in file
    name = "prepare_imagenet" if whole else "prepare_imagenet_21k"
    assert scripts[name].main(["--root", str(downloads), "--workers", "1"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert re.search(say, error), error
    for split in ("val", "imagenet21k_train", "imagenet21k_val"):
        assert not (path.parent / split).exists()


def test_a_missing_download_says_where_it_comes_from(
    tmp_path: Path, scripts: dict[str, ModuleType], capsys
) -> None:
    for name in scripts:
        assert scripts[name].main(["--root", str(tmp_path)]) == 2
        assert "image-net.org" in capsys.readouterr().err


@pytest.mark.parametrize("name", SETS)
def test_a_missing_dataset_says_what_to_run(name: str, official_root: Path, tmp_path: Path) -> None:
    for module in (imagenet, imagenet_21k):
        module.register(str(tmp_path))
    try:
        with pytest.raises(FileNotFoundError, match=r"run `python datasets/prepare_imagenet.*py"):
            open_records(name)
    finally:
        for module in (imagenet, imagenet_21k):
            module.register(str(official_root))


# tars and folders


def test_tars_and_folders_give_identical_samples(
    downloads: Path, scripts: dict[str, ModuleType]
) -> None:
    imagenet_21k.register(str(downloads))
    from_tars = list(open_records("imagenet_21k_train"))
    arguments = ["--root", str(downloads), "--part", "whole", "--extract", "--workers", "1"]
    for _ in range(2):
        assert scripts["prepare_imagenet_21k"].main(arguments) == 0
    from_folders = list(open_records("imagenet_21k_train"))
    mapper = ClassificationMapper(True, image_size=24)
    assert len(from_tars) == len(from_folders) > 10
    for one, other in zip(from_tars, from_folders):
        assert "tar_file" in one and "tar_file" not in other
        assert (one["image_id"], one["label"]) == (other["image_id"], other["label"])
        assert os.path.basename(other["file_name"]) == one["file_name"].split(":")[-1]
        samples = []
        for record in (one, other):
            torch.manual_seed(0)
            samples.append(mapper(record)["image"])
        assert torch.equal(*samples)
    # some of the classes extracted only: the order and the labels stay
    for path in sorted((downloads / "imagenet21k").iterdir())[:4]:
        shutil.rmtree(path) if path.is_dir() else None
    mixed = list(open_records("imagenet_21k_train"))
    assert [r["label"] for r in mixed] == [r["label"] for r in from_tars]
    assert {"tar_file" in r for r in mixed} == {True, False}


def test_extracted_images_are_resized_if_asked_for(
    downloads: Path, scripts: dict[str, ModuleType]
) -> None:
    tar_file = downloads / "imagenet21k" / "n03249569.tar"
    good = Image.fromarray(np.zeros((90, 120, 3), np.uint8))
    with tarfile.open(tar_file, "w") as tar:
        for name, damaged in (("n03249569_1.JPEG", False), ("n03249569_2.JPEG", True)):
            buffer = io.BytesIO()
            good.save(buffer, "JPEG")
            content = buffer.getvalue()[: 300 if damaged else None]
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    arguments = ["--part", "whole", "--extract", "--shorter-side", "48", "--workers", "1"]
    assert scripts["prepare_imagenet_21k"].main(["--root", str(downloads), *arguments]) == 0
    assert [path.name for path in tar_file.with_suffix("").iterdir()] == ["n03249569_1.JPEG"]
    with Image.open(tar_file.with_suffix("") / "n03249569_1.JPEG") as image:
        assert image.size == (64, 48)
    sizes = [Image.open(p).size for p in (downloads / "imagenet21k").rglob("n0*/*.JPEG")]
    assert max(min(size) for size in sizes) == 48


def test_a_changed_tar_or_folder_is_indexed_anew(
    downloads: Path, scripts: dict[str, ModuleType]
) -> None:
    imagenet_21k.register(str(downloads))
    before = len(open_records("imagenet_21k_train"))
    with tarfile.open(downloads / "imagenet21k" / "n03249569.tar", "a") as tar:
        member = tarfile.TarInfo("n03249569_99999.JPEG")
        member.size = 700
        tar.addfile(member, io.BytesIO(bytes(700)))
    assert len(open_records("imagenet_21k_train")) == before + 1
    scripts["prepare_imagenet_21k"].main(["--root", str(downloads), "--workers", "1"])
    before = len(open_records("imagenet_21k_p_train"))
    folder = downloads / "imagenet21k_p" / "imagenet21k_train" / "n03249569"
    (folder / "n03249569_99999.JPEG").write_bytes(b"")
    assert len(open_records("imagenet_21k_p_train")) == before + 1


def test_reading_from_a_cut_tar_is_an_oserror_that_names_tar_and_member(
    downloads: Path,
) -> None:
    imagenet_21k.register(str(downloads))
    record = open_records("imagenet_21k_train")[-1]
    whole = Path(record["tar_file"]).read_bytes()
    assert read_image(record, "RGB").shape == (64, 64, 3)
    label = f"{os.path.basename(record['tar_file'])}:n"
    start = record["tar_offset"]
    for content in (whole[: start + 100], whole[: start - 300], whole[:start] + bytes(len(whole))):
        Path(record["tar_file"]).write_bytes(content)
        with pytest.raises(OSError, match=label):
            read_image(record, "RGB")
    # another tar of the same name, in which something else lies there
    Path(record["tar_file"]).write_bytes(b"x" * len(whole))
    with pytest.raises(OSError, match=label):
        read_image(record, "RGB")
    Path(record["tar_file"]).unlink()
    with pytest.raises(FileNotFoundError, match=os.path.basename(record["tar_file"])):
        read_image(record, "RGB")


def test_a_damaged_member_of_a_tar_is_replaced_by_another_sample(downloads: Path) -> None:
    imagenet_21k.register(str(downloads))
    records = open_records("imagenet_21k_train")
    bad = records[3]
    with open(bad["tar_file"], "r+b") as file:
        file.seek(bad["tar_offset"])
        file.write(bytes(200))
    stream = Stream("in21k", len(records), 0)
    position = next(
        Position(0, offset)
        for offset in range(len(records))
        if stream.index(Position(0, offset)) == 3
    )
    source = TaskSource(records, ClassificationMapper(True, image_size=16))
    batch = Samples({"in21k": source}, {"in21k": stream}, seed=0)[
        BatchKey("in21k", 0, 0, 0, [position])
    ]
    assert batch.replaced == [bad["file_name"]] and len(batch.samples) == 1
    assert batch.samples[0]["file_name"] != bad["file_name"]


class Guess:
    """A model that gives every class the same probability."""

    def inference(self, task: str, samples: list[dict]) -> list[dict]:
        return [{"classes": torch.full((21_841,), 1 / 21_841)} for _ in samples]


def test_a_contact_sheet_shows_images_that_lie_in_tars(official_root: Path) -> None:
    mapper = ClassificationMapper(False, image_size=16)
    predictor = Predictor(Guess(), "in21k", mapper, MetadataCatalog.get("imagenet_21k_train"))
    sheet = predictor.sheet(open_records("imagenet_21k_train"), count=2)
    assert sum(len(axes.images) for axes in sheet.axes) == 2 and len(sheet.axes) == 4, "and bars"


# the coded index


@pytest.mark.parametrize(
    "names",
    [
        ["n1_0.JPEG", "n1_10.JPEG", "n1_9.JPEG"],
        ["v_0001.JPEG", "v_0010.JPEG", "v_9999.JPEG"],
        ["v_01.JPEG", "v_100.JPEG"],
        ["n1_7.JPEG", "n1_70000.JPEG"],
        ["7.jpg", "8.jpg"],
        ["deep/er/a_1.png", "deep/er/a_2.png"],
    ],
)
def test_names_of_one_template_are_coded_as_numbers(names: list[str]) -> None:
    coded = code_names(names)
    assert coded.numbers is not None and len(coded) == len(names)
    assert [f"{coded.head}{n:0{coded.digits}d}{coded.tail}" for n in coded.numbers] == names
    assert coded.numbers.dtype == (np.uint32 if "n1_70000.JPEG" in names else np.uint16)


@pytest.mark.parametrize(
    "names",
    [
        ["n1_1.JPEG", "n1_01.JPEG"],
        ["v_01.JPEG", "v_1.JPEG"],
        ["n1_1.JPEG", "n2_1.JPEG"],
        ["n1_1.JPEG", "n1_1.jpg"],
        ["n1_1.JPEG", "n1_+2.JPEG"],
        ["n1_1.JPEG", "n1_1_2.JPEG"],
        ["n1_1.JPEG", "n1_\u0662.JPEG"],
        ["n1_1.JPEG", "n1_4294967296.JPEG"],
        ["cat.jpg", "dog.jpg"],
        [],
    ],
)
def test_other_names_are_stored_as_they_are(names: list[str]) -> None:
    coded = code_names(names)
    assert coded.numbers is None and list(coded.names) == names


def fake_class(path: Path, names: list[str]) -> None:
    path.mkdir(parents=True)
    for name in names:
        (path / name).touch()


def test_every_name_comes_back_whatever_its_form(tmp_path: Path) -> None:
    names = {
        "a": ["a_3.JPEG", "a_12.JPEG", ".hidden.JPEG", "notes.txt"],
        "b": ["b_70000.JPEG", "b_1.JPEG"],
        "c": ["cat \u00e9.png", "c_1.JPEG"],
        "e": ["val_00000007.JPEG", "val_00000100.JPEG"],
    }
    for name, files in names.items():
        fake_class(tmp_path / "set" / name, files)
    fake_class(tmp_path / "set" / "d", [])
    source = ImageFolderSource(str(tmp_path / "set"), tuple("abcdefg"), "letters")
    expected = [
        (str(tmp_path / "set" / name / file), "abcdefg".index(name))
        for name in sorted(names)
        for file in sorted(names[name])
        if not file.startswith(".") and not file.endswith(".txt")
    ]
    records = open_source(source)
    assert [(record["file_name"], record["label"]) for record in records] == expected


def test_a_part_of_the_classes_keeps_their_labels_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake_class(tmp_path / "set" / "b", ["b_1.JPEG"])
    source = ImageFolderSource(str(tmp_path / "set"), ("a", "b", "c"), "letters")
    with caplog.at_level("WARNING"):
        assert [record["label"] for record in open_source(source)] == [1]
    assert "letters" in caplog.text and "1 of the 3 classes" in caplog.text


def test_folders_of_other_classes_are_refused(tmp_path: Path) -> None:
    fake_class(tmp_path / "set" / "b", ["b_1.JPEG"])
    fake_class(tmp_path / "set" / "x", ["x_1.JPEG"])
    source = ImageFolderSource(str(tmp_path / "set"), ("a", "b", "c"), "letters")
    with pytest.raises(ValueError, match="holds 'x', which is none of the 3 classes of letters"):
        open_source(source)
    shutil.rmtree(tmp_path / "set" / "x")
    shutil.rmtree(tmp_path / "set" / "b")
    with pytest.raises(ValueError, match="holds no class folder"):
        open_source(source)


def test_a_broken_tar_is_named_when_it_is_indexed(downloads: Path) -> None:
    path = downloads / "imagenet21k" / "n03249569.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    imagenet_21k.register(str(downloads))
    for content in (
        whole[: second + 700],
        whole[:second] + b"x" * 512 + whole[second + 512 :],
        b"no tar",
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="n03249569.tar' is damaged"):
            open_records("imagenet_21k_train")


def test_eleven_million_records_fit_into_100_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on as many class tars as ImageNet-21K-P has classes, with 20 images each."""
    wordnet_ids, _ = classes_of("P")
    each, total = 20, 11_060_223
    rng = np.random.default_rng(0)

    def fake(path: str) -> object:
        wnid = os.path.basename(path).removesuffix(".tar")
        # one class in ten has numbers of more than 16 bits
        numbers = rng.choice(60_000 if rng.random() > 0.1 else 120_000, each, replace=False)
        names = sorted(f"{wnid}_{number}.JPEG" for number in numbers)
        return code_names(names, np.arange(each, dtype=np.uint32))

    monkeypatch.setattr("gppf_d2.data.index.image_folder._code", fake)
    entries = {wnid: f"{wnid}.tar" for wnid in wordnet_ids}
    monkeypatch.setattr(ImageFolderSource, "entries", lambda self: entries)
    monkeypatch.setattr(ImageFolderSource, "files", lambda self: [])
    monkeypatch.delenv("GPPF_D2_INDEX_DIR")
    records = open_source(ImageFolderSource(str(tmp_path), wordnet_ids, "fake"))
    size = sum(p.stat().st_size for p in Path(f"{tmp_path}.index").iterdir())
    columns = records.columns
    per_record = ("label", "number2", "number4", "block")
    image_bytes = sum(columns[name].nbytes for name in per_record) / len(records)
    class_bytes = size - image_bytes * len(records)
    assert image_bytes < 8.5
    assert class_bytes + image_bytes * total < 100e6
    assert records[each]["file_name"].startswith(f"{tmp_path}/{wordnet_ids[1]}.tar:")
