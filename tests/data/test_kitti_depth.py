"""KITTI depth: lists and preparation, BTS' augmentations, and what a mapper says about crops."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from PIL import Image

from gppf_d2.data.catalog.kitti_depth import load_list
from gppf_d2.data.depth_augmentations import BottomCenterCrop, GammaAndColor
from gppf_d2.data.mappers import DepthMapper
from gppf_d2.data.mappers.measurements import seen_window
from gppf_d2.engine.config import load_config
from gppf_d2.evaluation import DepthEvaluator
from tests.conftest import MAKE_MINI

CONFIG = MAKE_MINI.parent.parent / "configs/finetune/kitti_depth.py"
SPLITS = "kitti_depth/splits"


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def changed(augmentation: T.Augmentation, image: np.ndarray, seed: int = 0) -> np.ndarray:
    np.random.seed(seed)
    return augmentation(T.AugInput(image)).apply_image(image)


@pytest.fixture(scope="module")
def copy(official_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The downloads alone, to be changed."""
    root = tmp_path_factory.mktemp("kitti")
    shutil.copytree(official_root / "kitti_depth", root / "kitti_depth")
    return root


# the dataset


def test_records_are_the_images_that_have_a_depth_map(official_root: Path) -> None:
    records = {split: DatasetCatalog.get(f"kitti_eigen_{split}") for split in ("train", "test")}
    assert {split: len(found) for split, found in records.items()} == {"train": 16, "test": 5}
    assert MetadataCatalog.get("kitti_eigen_test").depth_range == (1e-3, 80.0)
    suffixes = {Path(record["file_name"]).suffix for record in records["train"]}
    parts = {record["depth_file_name"].split("/")[-6] for record in records["train"]}
    assert suffixes == {".png", ".jpg"} and parts == {"train", "val"}
    lines = (official_root / SPLITS / "eigen_test_files_with_gt.txt").read_text().splitlines()
    with_truth = [line.split() for line in lines if "None" not in line]
    assert len(lines) == 6 and len(with_truth) == 5
    for record, (image, depth, focal) in zip(records["test"], with_truth):
        assert record["file_name"].endswith(image) and record["depth_file_name"].endswith(depth)
        assert record["focal_length"] == float(focal) and record["depth_scale"] == 256.0
        sample = DepthMapper(True, augmentations=[])(record)
        known = sample["depth"] > 0
        assert float(known.double().mean()) > 0.2 and 0 < float(sample["depth"].max()) < 80


@pytest.mark.parametrize("line", ["a.png b.png", "a.png b.png 7 8", "a.png b.png wide"])
def test_a_list_with_another_line_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"a.png b.png 721.5\n{line}\n")
    with pytest.raises(ValueError, match="line 2 of .*an image, a depth map and a focal length"):
        load_list(str(tmp_path / "list.txt"), "", "")


def test_preparing_says_what_is_missing(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(MAKE_MINI.parent))
    script = importlib.import_module("prepare_kitti_depth")

    def prepare() -> tuple[int, str, str]:
        return script.main(["--root", str(copy)]), *capsys.readouterr()

    source = copy / SPLITS / "eigen_train_files_with_gt.txt"
    lines = source.read_text()
    source.write_text(f"{lines}\n\n", encoding="utf-8-sig")
    status, told, _ = prepare()
    assert status == 0 and "16 of 16 images" in told and "5 of 6 images have a depth map" in told
    assert "the complete split has 652" in told
    annotated = copy / "kitti_depth/data_depth_annotated"
    (annotated / "val/2011_09_26_drive_0002_sync").rename(annotated / "2011_09_26_drive_0002_sync")
    assert prepare()[0] == 0, "maps may lie in neither part"
    shutil.rmtree(annotated / "2011_09_26_drive_0002_sync")
    status, _, error = prepare()
    assert status == 2 and "one of 5 files" in error and "data_depth_annotated.zip" in error
    source.write_text(lines.replace("\n", "m\n", 1))
    assert "line 1 of" in prepare()[2], "a focal length with a unit"
    source.write_text("2011_09_26/0000000001.png 2011_09_26/0000000001.png 721.5\n")
    assert "line 1 of" in prepare()[2]
    source.unlink()
    assert "train_test_inputs" in prepare()[2]


# augmentations


@pytest.mark.parametrize("size", [(375, 1242), (370, 1224), (376, 1241), (300, 1000)])
def test_the_window_is_the_bottom_in_the_middle(size: tuple[int, int]) -> None:
    image = image_of(*size)
    found = changed(BottomCenterCrop(), image)
    tall, wide = min(352, size[0]), min(1216, size[1])
    left = (size[1] - wide) // 2
    assert np.array_equal(found, image[size[0] - tall :, left : left + wide])


def test_gamma_and_colour_follow_their_formula() -> None:
    image = image_of(8, 9)
    found = changed(GammaAndColor(1.0, (2.0, 2.0), (0.5, 0.5), (1.5, 1.5)), image)
    wanted = (255 * (image / 255.0) ** 2 * 0.5 * 1.5).round().clip(0, 255)
    assert np.array_equal(found, wanted.astype(np.uint8))
    bright = changed(GammaAndColor(1.0, (1, 1), (9, 9), (1, 1)), image)
    assert bright.max() == 255 and (bright[image > 30] == 255).all()
    one = changed(GammaAndColor(1.0, (1, 1), (1, 1), (0.5, 1.5)), np.full((2, 2, 3), 100, np.uint8))
    assert len(set(one[0, 0].tolist())) == 3 and (one == one[0, 0]).all()


def test_gamma_and_colour_come_with_their_probability() -> None:
    image = np.full((1, 1, 3), 200, np.uint8)
    augmentation = GammaAndColor(0.5)
    same = [np.array_equal(changed(augmentation, image, seed), image) for seed in range(300)]
    assert 0.4 < np.mean(same) < 0.6


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A picture of KITTI's size whose colours say where a pixel came from, and its depth map too.

    Red is the column / 8, green the row / 2; depth is 200 green + red + 256, a third is unknown.
    """
    folder = tmp_path_factory.mktemp("picture")
    rows, columns = np.mgrid[:375, :1242]
    image = np.stack([columns // 8, rows // 2, rows * 0], 2).astype(np.uint8)
    depth = (rows // 2 * 200 + columns // 8 + 256).astype(np.uint16)
    depth[(rows + columns) % 3 == 0] = 0
    Image.fromarray(image).save(folder / "image.png")
    Image.fromarray(depth).save(folder / "depth.png")
    return {
        "file_name": str(folder / "image.png"), "depth_file_name": str(folder / "depth.png"),
        "depth_scale": 256.0, "focal_length": 721.5377, "image_id": 3,
    }  # fmt: skip


def test_the_training_recipe_cuts_turns_and_never_invents_a_depth(record: dict) -> None:
    mapper = instantiate(load_config(str(CONFIG)).tasks.kitti.mapper)
    *geometry, colors = mapper.augmentations.augs
    assert isinstance(colors, GammaAndColor)
    mapper.augmentations = T.AugmentationList(geometry)
    np.random.seed(1)
    known = set(np.asarray(Image.open(record["depth_file_name"])).ravel().tolist()) - {0}
    flips = 0
    for _ in range(6):
        sample = mapper(dict(record))
        assert sample["image"].shape == (3, 352, 704) and sample["depth"].shape == (352, 704)
        assert sample["focal_length"] == pytest.approx(721.5377) and "window" not in sample
        values = (sample["depth"] * 256).round().long()
        assert set(values.unique().tolist()) - {0} <= known
        valid = values > 0
        assert 0.6 < float(valid.double().mean()) < 0.7
        red, green = sample["image"][:2].long()
        wrong = ((values - 256) % 200 - red).abs() + ((values - 256) // 200 - green).abs() > 2
        assert float(wrong[valid & (red + green > 0)].double().mean()) < 0.01
        flips += int(red[100, 100] > red[100, -100])
    assert 0 < flips < 6


def test_a_cropped_evaluation_image_knows_its_window(record: dict) -> None:
    mapper = instantiate(load_config(str(CONFIG)).tasks.kitti.evaluators[0]["mapper"])
    sample = mapper(dict(record))
    assert sample["image"].shape == (3, 352, 1216) and sample["depth"].shape == (375, 1242)
    assert sample["window"] == (13, 23, 1229, 375)
    whole = DepthMapper(False, augmentations=[T.ResizeShortestEdge(100, 1000)])(dict(record))
    assert "window" not in whole and whole["image"].shape[1] == 100
    assert whole["focal_length"] == pytest.approx(721.5377 * whole["image"].shape[2] / 1242)


def test_windows_of_crops_resizes_and_paddings() -> None:
    crop, resize = T.CropTransform(10, 20, 40, 30), T.ResizeTransform(30, 40, 60, 80)
    chain = T.TransformList([crop, resize])
    assert seen_window(chain, (60, 80), (100, 200)) == (10, 20, 50, 50)
    padded = T.TransformList([T.PadTransform(0, 0, 6, 4, 200, 100)])
    assert seen_window(padded, (104, 206), (100, 200)) == (0, 0, 206, 104)
    assert seen_window(T.TransformList([]), (100, 200), (100, 200)) == (0, 0, 200, 100)


def test_a_pasted_prediction_is_judged_as_bts_does(record: dict) -> None:
    """Garg's crop lies inside the window, so what is unknown outside does not count."""
    config = load_config(str(CONFIG)).tasks.kitti.evaluators[0]
    sample = instantiate(config["mapper"])(dict(record))
    x0, y0, x1, y1 = sample["window"]
    perfect = torch.zeros(375, 1242)
    perfect[y0:y1, x0:x1] = sample["depth"][y0:y1, x0:x1]
    evaluator = DepthEvaluator(min_depth=1e-3, max_depth=80.0, crop="garg")
    evaluator.process([sample], [{"depth": perfect}])
    found = evaluator.evaluate()["depth"]
    assert found["delta1"] == 1 and found["rmse"] == 0
