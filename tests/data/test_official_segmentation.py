"""ADE20K, Pascal VOC with SBD and COCO-Stuff from miniatures of the official downloads to samples.

What a sample must hold is known from the classes that the miniature world painted.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from scipy.io import loadmat, savemat

from gppf_d2.analysis.predictions.predictor import Predictor
from gppf_d2.data.catalog import ade20k, coco_stuff, voc_2012_aug
from gppf_d2.data.index import open_records
from gppf_d2.data.mappers import SemanticMapper
from tests.conftest import MAKE_MINI

# dataset -> official number of classes
CLASSES = {
    "ade20k_sem_seg_train": 150,
    "ade20k_sem_seg_val": 150,
    "voc_2012_aug_sem_seg_train": 21,
    "voc_2012_sem_seg_val": 21,
    "coco_stuff_164k_sem_seg_train": 171,
    "coco_stuff_164k_sem_seg_val": 171,
    "coco_stuff_10k_sem_seg_train": 171,
    "coco_stuff_10k_sem_seg_test": 171,
}
SCRIPTS = ("prepare_ade20k", "prepare_voc_2012_aug", "prepare_coco_stuff")


@pytest.fixture(scope="module")
def code() -> Iterator[dict[str, ModuleType]]:
    """Prepare scripts and the miniature world's own modules."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    names = (*SCRIPTS, "miniworld.scene", "miniworld.official.world", "miniworld.official.coco")
    try:
        yield {name.split(".")[-1]: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(MAKE_MINI.parent))
        for name in [n for n in sys.modules if n in SCRIPTS or n.split(".")[0] == "miniworld"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def painted(code: dict[str, ModuleType]) -> Callable[[str, str], list[np.ndarray]]:
    """(name of a set of pictures, split) -> names of the classes of every pixel, "" for none."""
    world = code["world"].World(0)
    names = np.array([*code["scene"].STUFF, *[""] * (256 - len(code["scene"].STUFF))], dtype=object)

    def pictures(dataset: str, split: str) -> list[np.ndarray]:
        return [names[picture.semantic] for picture in world.scenes(dataset, split)]

    return pictures


@pytest.fixture
def copy(official_root: Path, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Copies folders of the miniatures, as downloaded, to a root of their own, which a test may
    register."""

    def copied(*names: str) -> Path:
        for name in names:
            made = shutil.ignore_patterns("*detectron2", "SegmentationClassAug", "trainaug.txt")
            shutil.copytree(official_root / name, tmp_path / name, ignore=made)
        return tmp_path

    yield copied
    for module in (ade20k, coco_stuff, voc_2012_aug):
        module.register(str(official_root))


def samples(name: str, num_classes: int) -> list[np.ndarray]:
    """The label maps that the mapper hands out, in the order of the records."""
    mapper = SemanticMapper(True, augmentations=[], num_classes=num_classes)
    return [mapper(record)["sem_seg"].numpy() for record in open_records(name)]


def expected(name: str, painted: np.ndarray, meaning: dict[str, str]) -> np.ndarray:
    """Labels of a picture by the names of the dataset's classes."""
    classes = MetadataCatalog.get(name).stuff_classes
    labels = np.full(painted.shape, 255)
    for own, official in meaning.items():
        labels[painted == own] = classes.index(official)
    return labels


@pytest.mark.parametrize(("name", "count"), CLASSES.items())
def test_records_are_complete_and_classes_known(name: str, count: int, official_root: Path) -> None:
    metadata = MetadataCatalog.get(name)
    assert len(set(metadata.stuff_classes)) == count and metadata.ignore_label == 255
    records = open_records(name)
    assert len(records) == (16 if name.endswith("train") else 6)
    assert [record["image_id"] for record in records] == list(range(len(records)))
    assert list(records) == DatasetCatalog.get(name)
    for record, labels in zip(records, samples(name, count)):
        assert Path(record["file_name"]).is_relative_to(official_root)
        assert Path(record["file_name"]).stem == Path(record["sem_seg_file_name"]).stem
        with Image.open(record["file_name"]) as image:
            assert labels.shape == image.size[::-1]


class Background:
    """A model that sees class 0 everywhere."""

    def inference(self, task: str, samples: list[dict]) -> list[dict]:
        return [{"sem_seg": torch.eye(150)[0, :, None, None].expand(-1, *s["sem_seg"].shape)}
                for s in samples]  # fmt: skip


def test_a_contact_sheet_needs_no_sizes_in_the_records(official_root: Path) -> None:
    records = open_records("ade20k_sem_seg_val")
    assert "height" not in records[0]

    def mapper(record: dict) -> dict:
        sample = SemanticMapper(False, augmentations=[])(record)
        return {**sample, "sem_seg": torch.zeros(sample["height"], sample["width"])}

    metadata = MetadataCatalog.get("ade20k_sem_seg_val")
    sheet = Predictor(Background(), "ade20k", mapper, metadata).sheet(records, count=2)
    assert sum(len(axes.images) for axes in sheet.axes) >= 4


# ADE20K


@pytest.mark.parametrize("split", ["train", "val"])
def test_ade20k_labels_are_those_painted(split: str, official_root: Path, painted) -> None:
    meaning = {
        "ground": "earth, ground",
        "sky": "sky",
        "wall": "wall",
        "ball": "ball",
        "cone": "lamp",
        "crate": "box",
        "drum": "barrel, cask",
        "gem": "flag",
        "house": "house",
        "mushroom": "plant",
        "ring": "food, solid food",
    }
    name = f"ade20k_sem_seg_{split}"
    for picture, labels in zip(painted("ade20k", split), samples(name, 150), strict=True):
        assert np.array_equal(labels, expected(name, picture, meaning))


def test_ade20k_without_all_labels_is_refused(copy, code: dict[str, ModuleType], capsys) -> None:
    root = copy("ADEChallengeData2016")
    ade20k.register(str(root))
    with pytest.raises(FileNotFoundError, match="prepare_ade20k.py --root"):
        open_records("ade20k_sem_seg_train")
    arguments = ["--root", str(root), "--workers", "1"]
    assert code["prepare_ade20k"].main(arguments) == 0
    folder = root / "ADEChallengeData2016"
    (folder / "annotations_detectron2" / "training" / "ADE_train_00000003.png").unlink()
    with pytest.raises(ValueError, match="for 15 of the 16 images"):
        DatasetCatalog.get("ade20k_sem_seg_train")
    folder.joinpath("empty").mkdir()
    with pytest.raises(ValueError, match="for 0 of the 16 images"):
        ade20k.load_pairs(str(folder / "images" / "training"), str(folder / "empty"))
    # what is missing is made, what is there stays
    kept = folder / "annotations_detectron2" / "training" / "ADE_train_00000004.png"
    before = kept.stat().st_mtime_ns
    assert code["prepare_ade20k"].main(arguments) == 0
    assert kept.stat().st_mtime_ns == before and len(DatasetCatalog.get("ade20k_sem_seg_train"))
    (folder / "annotations" / "validation" / "ADE_val_00000002.png").unlink()
    assert code["prepare_ade20k"].main(arguments) == 2
    assert "'ADE_val_00000002'" in capsys.readouterr().err


def test_foreign_ade20k_labels_are_refused(copy, code: dict[str, ModuleType], capsys) -> None:
    root = copy("ADEChallengeData2016")
    path = root / "ADEChallengeData2016" / "annotations" / "training" / "ADE_train_00000001.png"
    Image.fromarray(np.full((64, 64), 151, np.uint8)).save(path)
    assert code["prepare_ade20k"].main(["--root", str(root), "--workers", "1"]) == 2
    assert "largest value 151" in capsys.readouterr().err


# Pascal VOC and SBD

VOC = {
    "ball": "bottle",
    "cone": "pottedplant",
    "crate": "tvmonitor",
    "drum": "chair",
    "gem": "boat",
    "house": "bus",
    "mushroom": "bird",
    "ring": "bicycle",
    "ground": "background",
    "sky": "background",
    "wall": "background",
    "": "background",
}


def lists(root: Path) -> dict[str, list[str]]:
    voc = root / "VOC2012" / "ImageSets" / "Segmentation"
    sbd = root / "benchmark_RELEASE" / "dataset"
    paths = {
        "train": [voc / "train.txt"],
        "val": [voc / "val.txt"],
        "aug": [voc / "trainaug.txt"],
        "sbd": [sbd / "train.txt", sbd / "val.txt"],
    }
    return {key: [n for p in some for n in p.read_text().split()] for key, some in paths.items()}


def test_the_augmented_list_is_the_union_without_val(official_root: Path) -> None:
    found = lists(official_root)
    assert set(found["sbd"]) & set(found["val"]) and set(found["sbd"]) & set(found["train"])
    assert found["aug"] == sorted((set(found["sbd"]) | set(found["train"])) - set(found["val"]))
    records = open_records("voc_2012_aug_sem_seg_train")
    assert [Path(record["file_name"]).stem for record in records] == found["aug"]


@pytest.mark.parametrize("name", ["voc_2012_aug_sem_seg_train", "voc_2012_sem_seg_val"])
def test_voc_labels_are_those_painted(name: str, official_root: Path, painted) -> None:
    found = lists(official_root)
    pictures = painted("voc_2012", "val" if name.endswith("val") else "train")
    own = set(found["train"]) | set(found["val"])
    kernel = np.ones((3, 3), np.uint8)
    kinds = {"VOC": 0, "SBD": 0}
    for record, picture, labels in zip(
        open_records(name), pictures, samples(name, 21), strict=True
    ):
        truth = expected(name, picture, VOC)
        if Path(record["file_name"]).stem in own:
            # VOC's own maps have borders, where two classes meet and nowhere else
            plain = truth.astype(np.uint8)
            border = cv2.dilate(plain, kernel) != cv2.erode(plain, kernel)
            truth[border] = 255
            kinds["VOC"] += np.count_nonzero(border)
        else:
            kinds["SBD"] += 1
        assert np.array_equal(labels, truth)
    assert kinds["VOC"] and kinds["SBD"] == (0 if name.endswith("val") else 10)


def test_maps_of_sbd_carry_vocs_palette(official_root: Path) -> None:
    folder = official_root / "VOC2012"
    only_sbd = next(
        n for n in lists(official_root)["aug"] if n not in lists(official_root)["train"]
    )
    with Image.open(folder / "SegmentationClassAug" / f"{only_sbd}.png") as image:
        colors = np.array(image.getpalette()).reshape(-1, 3)
    with Image.open(next((folder / "SegmentationClass").iterdir())) as image:
        assert np.array_equal(colors, np.array(image.getpalette()).reshape(-1, 3))
    assert colors[:21].tolist() == [list(color) for color in voc_2012_aug.COLORS]
    assert colors[255].tolist() == [224, 224, 192]


def test_damaged_sbd_files_are_named(copy, code: dict[str, ModuleType], capsys) -> None:
    root = copy("VOC2012", "benchmark_RELEASE")
    found = lists_before(root)
    path = root / "benchmark_RELEASE" / "dataset" / "cls" / f"{found[-1]}.mat"
    whole = path.read_bytes()
    arguments = ["--root", str(root), "--workers", "1"]
    for damage in ("cut", "other", "label"):
        if damage == "cut":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "other":
            savemat(path, {"GTinst": 1})
        else:
            savemat(path, {"GTcls": {"Segmentation": np.full((4, 4), 21, np.uint8)}})
        assert code["prepare_voc_2012_aug"].main(arguments) == 2
        assert path.name in capsys.readouterr().err
    assert not (root / "VOC2012" / "ImageSets" / "Segmentation" / "trainaug.txt").exists()
    path.write_bytes(whole)
    assert code["prepare_voc_2012_aug"].main(arguments) == 0
    assert "16 images, 6 with VOC's own labels" in capsys.readouterr().out
    shutil.rmtree(root / "benchmark_RELEASE")
    assert code["prepare_voc_2012_aug"].main(arguments) == 2
    assert "benchmark.tgz" in capsys.readouterr().err


def lists_before(root: Path) -> list[str]:
    """Images that SBD alone labels."""
    sbd = root / "benchmark_RELEASE" / "dataset"
    names = [n for split in ("train", "val") for n in (sbd / f"{split}.txt").read_text().split()]
    own = (root / "VOC2012" / "ImageSets" / "Segmentation" / "trainval.txt").read_text().split()
    return sorted(set(names) - set(own))


# COCO-Stuff


def stuff_meaning(code: dict[str, ModuleType]) -> dict[str, str]:
    names = {"ground": "ground-other", "sky": "sky-other", "wall": "wall-other"}
    return {**names, **code["coco"].MEANING}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("release", ["164k", "10k"])
def test_coco_stuff_labels_are_those_painted(
    release: str, split: str, official_root: Path, painted, code: dict[str, ModuleType]
) -> None:
    listed = "test" if (release, split) == ("10k", "val") else split
    name = f"coco_stuff_{release}_sem_seg_{listed}"
    pictures = painted("coco" if release == "164k" else "coco_stuff10k", split)
    ignored = 0
    for picture, labels in zip(pictures, samples(name, 171), strict=True):
        truth = expected(name, picture, stuff_meaning(code))
        assert np.array_equal(labels, truth)
        ignored += np.count_nonzero(truth == 255)
    assert ignored


def test_the_two_releases_of_coco_stuff_write_unlabeled_differently(official_root: Path) -> None:
    ten = official_root / "coco_stuff10k" / "annotations"
    ids = [loadmat(path)["S"] for path in ten.glob("*.mat")]
    maps = official_root / "coco" / "stuffthingmaps" / "train2017"
    values = [np.asarray(Image.open(path)) for path in maps.glob("*.png")]
    assert min(map(np.min, ids)) == 0 and max(map(np.max, ids)) == 173
    assert max(map(np.max, values)) == 255 and 172 in np.unique(np.concatenate(values, None))


def test_classes_of_coco_stuff_skip_the_unused_ids(code: dict[str, ModuleType]) -> None:
    table = code["prepare_coco_stuff"].classes_of_ids()
    things = [category for category in COCO_CATEGORIES if category["isthing"]]
    for category in things:
        assert coco_stuff.CLASSES[table[category["id"]]] == category["name"]
    assert [coco_stuff.CLASSES[table[number]] for number in (92, 126, 173, 182)] == [
        "banner",
        "ground-other",
        "wall-other",
        "wood",
    ]
    assert table[0] == 255 and sorted(set(table[:183])) == [*range(171), 255]
    assert len(coco_stuff.CLASSES) == 171


@pytest.mark.parametrize("value", [11, 182, 254])
def test_unused_ids_in_coco_stuff_are_refused(
    value: int, copy, code: dict[str, ModuleType], capsys
) -> None:
    root = copy("coco")
    path = next((root / "coco" / "stuffthingmaps" / "val2017").iterdir())
    Image.fromarray(np.full((64, 64), value, np.uint8)).save(path)
    arguments = ["--root", str(root), "--workers", "1"]
    assert code["prepare_coco_stuff"].main(arguments) == 2
    assert path.name in (error := capsys.readouterr().err) and str(value + 1) in error


def test_a_damaged_label_map_is_named(copy, code: dict[str, ModuleType], capsys) -> None:
    root = copy("coco", "ADEChallengeData2016")
    for script, folder in (
        ("prepare_coco_stuff", root / "coco" / "stuffthingmaps" / "val2017"),
        ("prepare_ade20k", root / "ADEChallengeData2016" / "annotations" / "validation"),
    ):
        path = next(folder.iterdir())
        path.write_bytes(path.read_bytes()[:-40])
        assert code[script].main(["--root", str(root), "--workers", "1"]) == 2
        assert path.name in capsys.readouterr().err.splitlines()[-1]


def test_a_release_that_is_not_there_is_not_asked_for(
    copy, code: dict[str, ModuleType], capsys
) -> None:
    root = copy("coco_stuff10k")
    arguments = ["--root", str(root), "--workers", "1"]
    assert code["prepare_coco_stuff"].main(arguments) == 0
    assert code["prepare_coco_stuff"].main([*arguments, "--part", "164k"]) == 2
    assert "stuffthingmaps_trainval2017.zip" in capsys.readouterr().err
    made = list((root / "coco_stuff10k" / "annotations_detectron2").iterdir())
    assert len(made) == 22 and not (root / "coco").exists()
