"""The sets that MuST transfers to: NYU Depth v2, DIODE's normals, plain VOC; sizes of Table 1."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from gppf_d2.data.catalog import diode, nyu_depth, voc_2012_aug
from gppf_d2.data.check import OFFICIAL_SIZES, check_dataset
from gppf_d2.data.mappers import DepthMapper, NormalsMapper, SemanticMapper
from gppf_d2.evaluation import DepthEvaluator, NormalsEvaluator
from tests.conftest import MAKE_MINI

SCRIPTS = ("prepare_nyu_depth", "prepare_diode")


@pytest.fixture(scope="module")
def code() -> Iterator[dict[str, ModuleType]]:
    """Prepare scripts and the miniature's module of NYU Depth."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    names = (*SCRIPTS, "miniworld.official.nyu_depth")
    try:
        yield {name.split(".")[-1]: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(MAKE_MINI.parent))
        for name in [n for n in sys.modules if n in SCRIPTS or n.split(".")[0] == "miniworld"]:
            del sys.modules[name]


@pytest.fixture
def run(code: dict[str, ModuleType], capsys: pytest.CaptureFixture) -> Callable:
    """Runs a prepare script in this process: (root, script) -> status, output, errors."""

    def prepare(root: Path, script: str) -> tuple[int, str, str]:
        status = code[script].main(["--root", str(root), "--workers", "1"])
        return status, *capsys.readouterr()

    return prepare


# NYU Depth v2


@pytest.mark.parametrize(("split", "count"), [("train", 16), ("test", 6)])
def test_nyu_samples_are_the_pictures_and_depths_of_the_download(
    split: str, count: int, official_root: Path
) -> None:
    folder = official_root / "nyudepthv2" / {"train": "train", "test": "val/official"}[split]
    files, records = sorted(folder.rglob("*.h5")), DatasetCatalog.get(f"nyu_depth_{split}")
    assert len(files) == len(records) == count
    assert MetadataCatalog.get(f"nyu_depth_{split}").depth_range == (1e-3, 10.0)
    mapper, unknown = DepthMapper(True, augmentations=[]), 0
    for record, path in zip(records, files):
        with h5py.File(path) as file:
            pixels, wanted = file["rgb"][()], file["depth"][()]
        unknown += np.count_nonzero(np.isnan(wanted))
        sample, wanted = mapper(record), np.nan_to_num(wanted)
        assert np.array_equal(sample["image"].numpy(), pixels)
        depth = sample["depth"].numpy()
        assert np.array_equal(depth > 0, wanted > 0) and 1 < depth.max() <= 10
        assert np.abs(depth - wanted).max() < 0.00051 and sample["focal_length"] == 518.8579
    assert (unknown > 0) == (split == "test")


@pytest.fixture
def tiny_nyu(tmp_path: Path) -> Callable[..., Path]:
    """Writes one HDF5 file of a root of its own; without datasets, two sound ones by default."""

    def write(name: str, **datasets: np.ndarray) -> Path:
        path = tmp_path / "nyudepthv2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = {"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.ones((4, 5), np.float32)}
        with h5py.File(path, "w") as file:
            for key, values in (datasets or sound).items():
                file[key] = values
        return path

    return write


def test_what_is_no_depth_becomes_zero_and_the_rest_millimetres(
    tiny_nyu: Callable, tmp_path: Path, run: Callable
) -> None:
    depth = np.array([[0.7134, np.nan, np.inf], [-1.0, 70.0, 9.9996]], np.float32)
    pixels = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    source = tiny_nyu("train/den_0001/00001.h5", rgb=pixels, depth=depth)
    tiny_nyu("val/official/00002.h5")
    status, told, _ = run(tmp_path, "prepare_nyu_depth")
    assert status == 0 and "1 images" in told and "the complete split has 47584" in told
    folder = tmp_path / "nyudepthv2"
    made = folder / "depth/train/den_0001/00001.png"
    assert np.asarray(Image.open(made)).tolist() == [[713, 0, 0], [0, 0, 10_000]]
    image = np.asarray(Image.open(folder / "images/train/den_0001/00001.png"))
    assert np.array_equal(image, pixels.transpose(1, 2, 0))
    before = made.stat().st_mtime_ns
    assert run(tmp_path, "prepare_nyu_depth")[0] == 0 and made.stat().st_mtime_ns == before
    source.unlink()
    assert "holds no HDF5 file" in run(tmp_path, "prepare_nyu_depth")[2]


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ({"rgb": np.zeros((3, 4, 5), np.uint8)}, "no HDF5 file with 'rgb' and 'depth'"),
        (
            {"rgb": np.zeros((3, 4, 6), np.uint8), "depth": np.ones((4, 5), np.float32)},
            "rgb uint8 [3, 4, 6] and depth float32 [4, 5], expected",
        ),
        (
            {"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.ones((4, 5), np.uint16)},
            "depth uint16 [4, 5], expected",
        ),
        (None, "no HDF5 file with"),
    ],
)
def test_a_damaged_hdf5_file_is_named(
    datasets: dict | None, words: str, tiny_nyu: Callable, tmp_path: Path, run: Callable
) -> None:
    path = tiny_nyu("train/den_0001/00001.h5", **(datasets or {}))
    if datasets is None:
        path.write_bytes(path.read_bytes()[:900])
    status, _, error = run(tmp_path, "prepare_nyu_depth")
    assert status == 2 and str(path) in error and words in error
    assert "restore the original" in error and not (tmp_path / "nyudepthv2/train.txt").exists()


def test_without_h5py_both_programs_say_how_to_get_it(
    code: dict[str, ModuleType], run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code["prepare_nyu_depth"], "h5py", None)
    assert "run `pip install h5py`" in run(tmp_path, "prepare_nyu_depth")[2]
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match="run `pip install h5py`"):
        code["nyu_depth"].h5_bytes(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2)))


def test_the_crop_of_nyu_is_the_usual_one() -> None:
    rows, columns = np.mgrid[:480, :640]
    inside = torch.as_tensor((rows >= 45) & (rows < 471) & (columns >= 41) & (columns < 601))
    truth = torch.full((480, 640), 2.0)
    for shown, wanted in ((inside, 1.0), (~inside, 0.0)):
        evaluator = DepthEvaluator(min_depth=1e-3, max_depth=10.0, crop="nyu_eigen")
        evaluator.process([{"depth": truth}], [{"depth": torch.where(shown, truth, 9.0)}])
        assert evaluator.evaluate()["depth"]["delta1"] == wanted


# DIODE


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("diode_normals_train", 15),
        ("diode_normals_val", 6),
        ("diode_indoors_normals_train", 2),
        ("diode_indoors_normals_val", 2),
    ],
)
def test_diode_samples_are_the_vectors_of_the_download(
    name: str, count: int, official_root: Path
) -> None:
    part, split = "indoors" if "indoors" in name else "outdoor", name.split("_")[-1]
    folder = official_root / "diode" / split / part
    files, records = sorted(folder.rglob("*_normal.npy")), DatasetCatalog.get(name)
    assert len(files) == len(records) == count
    mapper, evaluator = NormalsMapper(True, augmentations=[]), NormalsEvaluator()
    for record, path in zip(records, files):
        assert record["file_name"] == str(path).replace("_normal.npy", ".png")
        wanted, sample = np.load(path).transpose(2, 0, 1), mapper(record)
        assert np.abs(sample["normals"].numpy() - wanted).max() < 1e-6
        evaluator.process([sample], [{"normals": torch.as_tensor(wanted)}])
    found = evaluator.evaluate()["normals"]
    assert found["within_11.25"] == 100 and found["mean"] < 0.01


def test_diode_axes_agree_with_depth(official_root: Path) -> None:
    """Where a surface faces right, it gets further to the right; where it faces up, upwards."""
    agreed: dict[str, list[np.ndarray]] = {"x": [], "y": []}
    for record in DatasetCatalog.get("diode_normals_train"):
        normals = NormalsMapper(True, augmentations=[])(record)["normals"].numpy()
        depth = np.load(record["file_name"].replace(".png", "_depth.npy"))[..., 0]
        for key, axis, sign in (("x", 1, 1), ("y", 0, -1)):
            change = np.diff(depth, axis=axis)
            near, far = (np.delete(depth, at, axis) for at in (-1, 0))
            values = [np.delete(n, -1, axis) for n in normals]
            facing = values[{"x": 0, "y": 1}[key]] * sign
            smooth = (np.minimum(near, far) > 0) & (np.abs(change) < 0.05 * near)
            chosen = smooth & (np.abs(facing) > 0.3) & (change != 0)
            agreed[key].append(np.sign(facing[chosen]) == np.sign(change[chosen]))
    for key, shares in agreed.items():
        found = np.concatenate(shares)
        assert found.size > 5_000 and found.mean() > 0.95, (key, found.mean())


@pytest.fixture
def tiny_diode(official_root: Path, tmp_path: Path) -> Path:
    """Two training pictures and a validation one, in a root of its own."""
    for split, scan, kept in (("train", "scene_00007/scan_00082", 2), ("val", "*/*", 1)):
        source = official_root / "diode" / split / "outdoor"
        for image in sorted(source.glob(f"{scan}/*.png"))[:kept]:
            target = tmp_path / "diode" / image.relative_to(official_root / "diode")
            target.parent.mkdir(parents=True, exist_ok=True)
            for suffix in (".png", "_normal.npy"):
                name = f"{image.stem}{suffix}"
                shutil.copy(image.with_name(name), target.with_name(name))
    return tmp_path


def test_pictures_without_normals_are_left_out_and_counted(tiny_diode: Path, run: Callable) -> None:
    first, second = sorted(tiny_diode.glob("diode/train/*/*/*/*_normal.npy"))
    second.unlink()
    status, told, _ = run(tiny_diode, "prepare_diode")
    assert status == 0 and "1 of 2 pictures have normals" in told
    assert "the complete split has 16884 pictures" in told
    folder = tiny_diode / "diode"
    (record,) = diode.load_list(str(folder / "outdoor_train.txt"), str(folder))
    assert record["normals_file_name"] == str(first)
    assert not (folder / "indoors_train.txt").exists(), "that part is not there"
    first.unlink()
    status, _, error = run(tiny_diode, "prepare_diode")
    assert status == 2 and first.name in error and "unpack train_normals.tar.gz" in error
    shutil.rmtree(folder / "val")
    shutil.rmtree(folder / "train")
    assert "unpack train.tar.gz" in run(tiny_diode, "prepare_diode")[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda normals: normals * [1, 1, -1], "look away from the camera"),
        (lambda normals: normals * [1, -1, 1], "the ground looks down"),
        (lambda normals: normals[:-1], "expected normals float"),
        (lambda normals: (normals * 127).astype(np.int8), "holds int8"),
        (None, "is damaged"),
    ],
)
def test_normals_of_another_kind_are_refused(
    change: Callable | None, words: str, tiny_diode: Path, run: Callable
) -> None:
    for path in tiny_diode.glob("diode/train/*/*/*/*_normal.npy"):
        if change is None:
            path.write_bytes(path.read_bytes()[:-100])
        else:
            np.save(path, change(np.load(path)))
    status, _, error = run(tiny_diode, "prepare_diode")
    assert status == 2 and words in error and "restore the original" in error


# plain VOC 2012


def test_voc_without_sbd_is_voc_s_own_train(official_root: Path) -> None:
    folder = official_root / "VOC2012"
    names = (folder / "ImageSets/Segmentation/train.txt").read_text().split()
    records = DatasetCatalog.get("voc_2012_sem_seg_train")
    assert [Path(record["file_name"]).stem for record in records] == names
    mapper, borders = SemanticMapper(True, augmentations=[], num_classes=21), 0
    for record, name in zip(records, names):
        with Image.open(folder / "SegmentationClass" / f"{name}.png") as image:
            labels = np.asarray(image).astype(np.int64)
        assert np.array_equal(mapper(record)["sem_seg"].numpy(), labels)
        borders += np.count_nonzero(labels == 255)
    assert borders, "VOC's own maps mark the borders of objects"
    aug = MetadataCatalog.get("voc_2012_aug_sem_seg_train")
    assert MetadataCatalog.get("voc_2012_sem_seg_train").stuff_classes == aug.stuff_classes


def test_voc_without_sbd_needs_no_script(official_root: Path, tmp_path: Path) -> None:
    try:
        voc_2012_aug.register(str(tmp_path))
        with pytest.raises(FileNotFoundError, match="unpack VOCtrainval_11-May-2012.tar"):
            DatasetCatalog.get("voc_2012_sem_seg_train")
        with pytest.raises(FileNotFoundError, match="prepare_voc_2012_aug.py"):
            DatasetCatalog.get("voc_2012_aug_sem_seg_train")
    finally:
        voc_2012_aug.register(str(official_root))


# all of them


def test_the_checker_knows_the_sets(official_root: Path) -> None:
    names = ["nyu_depth_train", "nyu_depth_test", "diode_normals_train", "diode_normals_val"]
    for name in (*names, "voc_2012_sem_seg_train"):
        assert list(check_dataset(name, partial=True, quiet=True)) == [], name
    (problem,) = check_dataset("nyu_depth_train", sample=1, quiet=True)
    assert "16 images, the official number is 47,584" in str(problem)


def test_the_checker_finds_maps_that_do_not_fit(official_root: Path) -> None:
    record = DatasetCatalog.get("diode_normals_val")[0]
    path = Path(record["normals_file_name"])
    whole = path.read_bytes()
    try:
        np.save(path, np.load(path)[1:])
        (problem,) = check_dataset("diode_normals_val", partial=True, quiet=True)
        assert problem.kind == "labels" and path.name in problem.text
        path.write_bytes(whole[:-8])
        (problem,) = check_dataset("diode_normals_val", partial=True, quiet=True)
        assert problem.kind == "unreadable" and path.name in problem.text
    finally:
        path.write_bytes(whole)


def test_sizes_are_those_of_table_1(official_root: Path) -> None:
    def size(name: str) -> int:
        return OFFICIAL_SIZES.get(name) or MetadataCatalog.get(name).official_size

    assert [size("cifar100_trainval"), size("uodb_pascal_voc_train")] == [50_000, 16_551]
    assert [size("voc_2012_sem_seg_train"), size("voc_2012_sem_seg_val")] == [1_464, 1_449]
    assert [size("ade20k_sem_seg_train"), size("diode_normals_val")] == [20_210, 446]
    assert {split: size(f"nyu_depth_{split}") for split in nyu_depth.SIZES} == nyu_depth.SIZES
    assert nyu_depth.SIZES["train"] == 47_584
