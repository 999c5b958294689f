"""The miniature world: the same bytes for a seed, the layouts of the real datasets, a truth that
agrees with itself, and catalogs that load it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools.coco import COCO

from gppf_d2.data.catalog import kitti_depth, mini
from tests.conftest import MAKE_MINI, make_mini

KINDS = ("objects", "scenes", "parsing", "depth", "voc")
NAMES = [f"mini_{kind}_{split}" for kind in KINDS for split in ("train", "val")]
TINY = ("--scenes", "8", "--size", "48", "--objects", "1")


@pytest.fixture(scope="module")
def world():
    """The generator's own modules, which the package never imports."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    try:
        from miniworld import formats, render, scene, shapes

        yield {"formats": formats, "render": render, "scene": scene, "shapes": shapes}
    finally:
        sys.path.remove(str(MAKE_MINI.parent))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in (root / "mini").rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_a_seed_fixes_every_byte_and_another_seed_changes_the_pictures(tmp_path: Path) -> None:
    for folder, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        made = make_mini(tmp_path / folder, "--seed", seed, *TINY)
        assert made.returncode == 0, made.stderr
    first, second, other = (digests(tmp_path / folder) for folder in "abc")
    assert first == second
    pictures = [name for name in first if name.lower().endswith((".jpg", ".jpeg"))]
    assert len(pictures) == 4 * (8 + 4) + 8 * 2 + 2 * 8
    assert not [name for name in pictures if other.get(name) == first[name]]
    noted = json.loads((tmp_path / "a" / "mini" / "manifest.json").read_text())["files"]
    assert {f"mini/{name}": digest for name, digest in noted.items()} == {
        name: digest for name, digest in first.items() if name != "mini/manifest.json"
    }


def test_a_complete_world_is_left_alone_and_a_damaged_or_other_one_made_anew(
    tmp_path: Path,
) -> None:
    assert make_mini(tmp_path, *TINY).returncode == 0
    manifest = tmp_path / "mini" / "manifest.json"
    lost = tmp_path / "mini" / "VOC2012" / "ImageSets" / "Main" / "train.txt"
    written = manifest.stat().st_mtime_ns
    again = make_mini(tmp_path, *TINY)
    assert "left alone" in again.stdout and manifest.stat().st_mtime_ns == written
    lost.unlink()
    assert "is ready" in make_mini(tmp_path, *TINY).stdout and lost.is_file()
    assert "is ready" in make_mini(tmp_path, *TINY, "--seed", "1").stdout
    assert json.loads(manifest.read_text())["settings"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mini"], "temporary folders are left"


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "thesis.txt").write_text("mine")
    made = make_mini(tmp_path, *TINY)
    assert made.returncode == 2 and "is no miniature world" in made.stderr
    assert (tmp_path / "mini" / "thesis.txt").read_text() == "mine"
    wrong = make_mini(tmp_path / "new", "--size", "7")
    assert wrong.returncode == 2 and "--size is 7" in wrong.stderr


@pytest.mark.parametrize("name", NAMES)
def test_records_name_readable_files_of_the_stated_size(name: str, mini_root: Path) -> None:
    records = DatasetCatalog.get(name)
    per_class = 2 if name.endswith("train") else 1
    scenes = 12 if name.endswith("train") else 4
    assert len(records) == (8 * per_class if "objects" in name else scenes)
    assert len({record["image_id"] for record in records}) == len(records)
    for record in records:
        assert record["file_name"].startswith(str(mini_root))
        assert cv2.imread(record["file_name"]).shape == (record["height"], record["width"], 3)


def test_train_and_val_share_no_picture(mini_root: Path) -> None:
    found = digests(mini_root)
    pictures = [found[name] for name in found if name.lower().endswith((".jpg", ".jpeg"))]
    assert len(set(pictures)) == len(pictures)


def test_metadata_is_known_before_a_file_exists(tmp_path: Path, mini_root: Path) -> None:
    try:
        mini.register(str(tmp_path / "nowhere"))
        assert MetadataCatalog.get("mini_scenes_train").thing_classes == list(mini.CLASSES)
        assert MetadataCatalog.get("mini_objects_val").classes == list(mini.CLASSES)
        assert MetadataCatalog.get("mini_parsing_val").stuff_classes == list(mini.STUFF_CLASSES)
        assert MetadataCatalog.get("mini_parsing_val").ignore_label == 255
        assert MetadataCatalog.get("mini_depth_train").depth_range == (0.5, 20.0)
        for name in NAMES:
            with pytest.raises(FileNotFoundError) as caught:
                DatasetCatalog.get(name)
            text = str(caught.value)
            assert str(tmp_path / "nowhere" / "mini") in text and name in text
            assert "python datasets/make_mini.py --root" in text
    finally:
        mini.register(str(mini_root))
    assert len(DatasetCatalog.get("mini_voc_val")) == 4


REGISTER_ALL = """
import os, sys
from detectron2.data import DatasetCatalog, MetadataCatalog
from gppf_d2.data.catalog import register_all

os.environ["DETECTRON2_DATASETS"] = sys.argv[1]
register_all()
names = DatasetCatalog.list()
register_all()
assert DatasetCatalog.list() == names
roots = {name: MetadataCatalog.get(name).get("data_root") for name in names}
ours = [name for name in names if roots[name] is not None]
assert {roots[name] for name in ours} == {sys.argv[1]}
for name in ("mini_voc_val", "camvid_test", "coco128_train", "seven_scenes_val"):
    assert name in ours, name
before = len(DatasetCatalog.get("mini_voc_val"))
register_all("elsewhere")
assert {MetadataCatalog.get(name).data_root for name in ours} == {os.path.abspath("elsewhere")}
register_all(sys.argv[1])
assert len(DatasetCatalog.get("mini_voc_val")) == before == 4
"""


def test_register_all_follows_the_environment_and_can_be_repeated(mini_root: Path) -> None:
    # In a process of its own: the catalogs of this one belong to all tests.
    command = [sys.executable, "-c", REGISTER_ALL, str(mini_root)]
    done = subprocess.run(command, cwd=MAKE_MINI.parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_class_lists_are_those_of_the_generator(world: dict, mini_root: Path) -> None:
    assert mini.CLASSES == world["scene"].CLASSES == tuple(sorted(world["shapes"].SHAPES))
    assert mini.STUFF_CLASSES == world["scene"].STUFF
    assert kitti_depth.DEPTH_SCALE == world["formats"].DEPTH_UNITS
    assert mini.DEPTH_RANGE[1] == world["scene"].FURTHEST
    labels = [record["label"] for record in DatasetCatalog.get("mini_objects_train")]
    assert sorted(set(labels)) == list(range(8))


def test_the_hidden_truth_belongs_to_the_pictures_without_labels(mini_root: Path) -> None:
    pictures = {r["file_name"]: r for r in DatasetCatalog.get("mini_unlabelled")}
    assert len(pictures) == 24
    allowed = {"file_name", "image_id", "height", "width"}
    assert all(set(record) == allowed for record in pictures.values())
    hidden = {
        kind: {r["file_name"]: r for r in DatasetCatalog.get(f"mini_hidden_{kind}")}
        for kind in ("objects", "scenes", "parsing", "depth")
    }
    assert set(hidden["scenes"]) == set(hidden["parsing"]) == set(hidden["depth"]) == set(pictures)
    assert len(hidden["objects"]) == 6, "a quarter shows one toy"
    for name, record in hidden["objects"].items():
        (only,) = hidden["scenes"][name]["annotations"]
        assert only["category_id"] == record["label"]
        labels = np.asarray(Image.open(hidden["parsing"][name]["sem_seg_file_name"]))
        assert set(np.unique(labels)) & set(range(3, 11)) == {3 + record["label"]}
    for name, record in hidden["depth"].items():
        values = np.asarray(Image.open(record["depth_file_name"]))
        assert values.shape == (record["height"], record["width"]) == (
            pictures[name]["height"], pictures[name]["width"],
        ) and (values > 0).mean() > 0.4  # fmt: skip


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_masks_fill_their_boxes(split: str, mini_root: Path) -> None:
    coco = COCO(MetadataCatalog.get(f"mini_scenes_{split}").json_file)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(mini.CLASSES)
    crowds = 0
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = annotation["bbox"]
        tight = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert np.abs(np.array(tight) - [x, y, width, height]).max() <= 1
        assert abs(mask.sum() - annotation["area"]) <= 0.02 * annotation["area"] + 2
        crowds += annotation["iscrowd"]
        assert isinstance(annotation["segmentation"], dict) == bool(annotation["iscrowd"])
    assert crowds >= 1
    assert any(not coco.imgToAnns[image] for image in coco.getImgIds()), "no picture without object"


def test_polygons_trace_a_mask_exactly_and_cut_through_holes(world: dict) -> None:
    import pycocotools.mask as mask_util

    y, x = np.indices((48, 64))
    distance = np.hypot(x - 30.2, y - 22.7)
    masks = [distance < 15, (distance < 18) & (distance > 7), (distance < 3) | (x > 60)]
    masks.append(np.eye(48, 64, dtype=bool) | (y == 5))
    for mask in masks:
        polygons = world["formats"].polygons(mask)
        drawn = mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, 48, 64)))
        assert (drawn.astype(bool) ^ mask).sum() <= 0.02 * mask.sum()
        rle = mask_util.frPyObjects(world["formats"].run_lengths(mask), 48, 64)
        assert (mask_util.decode(rle).astype(bool) == mask).all()


def test_ade20k_labels_are_valid_and_the_official_ones_count_from_one(mini_root: Path) -> None:
    seen = set()
    for record in DatasetCatalog.get("mini_parsing_train") + DatasetCatalog.get("mini_parsing_val"):
        labels = np.asarray(Image.open(record["sem_seg_file_name"]))
        official = record["sem_seg_file_name"].replace("annotations_detectron2", "annotations")
        assert labels.shape == (record["height"], record["width"])
        expected = np.where(labels == 255, 0, labels.astype(int) + 1)
        assert (np.asarray(Image.open(official)) == expected).all()
        seen |= set(np.unique(labels).tolist())
    assert seen <= {*range(len(mini.STUFF_CLASSES)), 255} and {0, 1, 2, 255} <= seen
    assert len(seen) >= 10


def test_depth_is_in_range_and_normals_have_unit_length(mini_root: Path) -> None:
    low, high = MetadataCatalog.get("mini_depth_train").depth_range
    for record in DatasetCatalog.get("mini_depth_train"):
        values = np.asarray(Image.open(record["depth_file_name"]))
        assert values.dtype == np.uint16 and values.shape == (record["height"], record["width"])
        depth = values / record["depth_scale"]
        valid = values > 0
        assert 0.3 < valid.mean() < 0.9
        assert low <= depth[valid].min() and depth[valid].max() <= high
        file_name = record["depth_file_name"].replace("proj_depth/groundtruth", "normals")
        colors = np.asarray(Image.open(file_name)).astype(float)
        solid = colors.any(-1)
        assert solid[valid].all(), "depth without a normal"
        length = np.linalg.norm(colors[solid] / 255 * 2 - 1, axis=-1)
        assert np.abs(length - 1).max() < 0.01


def test_depth_and_normals_belong_to_the_same_surface(world: dict) -> None:
    """Normals estimated from the depth of neighbouring pixels equal those of the geometry."""
    scene, render = world["scene"], world["render"]
    for seed in range(3):
        rng = np.random.Generator(np.random.PCG64(seed))
        drawn = scene.draw_scene(rng, "road", 96, 72, ["ball", "house", "ring", "mushroom"])
        truth, camera = render.truth(drawn), drawn.camera
        v, u = np.indices(truth.depth.shape) + 0.5
        right = (u - camera.width / 2) / camera.focal * truth.depth
        up = (camera.height_px / 2 - v) / camera.focal * truth.depth
        points = np.stack([right, up, -truth.depth], axis=-1)
        across, down = points[:, 2:] - points[:, :-2], points[2:] - points[:-2]
        normal = np.cross(down[:, 1:-1], across[1:-1])
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
        cosine = (normal * truth.normal[1:-1, 1:-1]).sum(-1)
        surface = truth.surface
        inside = surface[1:-1, 1:-1] > -3
        for part in (surface[2:, 1:-1], surface[:-2, 1:-1], surface[1:-1, 2:], surface[1:-1, :-2]):
            inside &= part == surface[1:-1, 1:-1]
        assert inside.mean() > 0.5
        # Creases of a toy (eaves, rims) are the few pixels where neighbours do not help.
        assert (cosine[inside] > 0.97).mean() > 0.95


def test_every_shape_is_closed_and_its_normals_look_outwards(world: dict) -> None:
    shapes = world["shapes"]
    rng = np.random.Generator(np.random.PCG64(0))
    start = rng.normal(size=(3, 4000))
    start = 3 * start / np.linalg.norm(start, axis=0)
    target = np.array([0.0, 0.0, 0.5])[:, None] + rng.uniform(-0.3, 0.3, (3, 4000))
    for name, shape in shapes.SHAPES.items():
        direction = target - start
        hit = shape(start, direction)
        met = hit.t < shapes.FAR
        assert met.mean() > 0.6, name
        assert (shapes.dot(hit.normal, direction)[met] < 1e-6).all(), name
        points = start + np.where(met, hit.t, 0.0) * direction
        half, tall = shapes.EXTENT[name]
        assert np.hypot(points[0], points[1])[met].max() < half * 1.2, name
        assert points[2][met].min() > -1e-3 and points[2][met].max() < tall + 1e-3, name
        # Just outside the surface, on the way back, there is no surface at once.
        behind = shape(points[:, met] + 1e-2 * hit.normal[:, met], -direction[:, met])
        assert (behind.t > 1e-3).all(), name


def test_voc_boxes_are_one_based_and_difficult_ones_marked(mini_root: Path) -> None:
    folder = mini_root / "mini" / "VOC2012"
    records = DatasetCatalog.get("mini_voc_train") + DatasetCatalog.get("mini_voc_val")
    flags = []
    for record in records:
        tree = ET.parse(folder / "Annotations" / f"{record['image_id']}.xml")
        flags += [entry.text for entry in tree.findall("object/difficult")]
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            assert annotation["bbox_mode"] == BoxMode.XYXY_ABS
            assert 0 <= x0 < x1 <= record["width"] and 0 <= y0 < y1 <= record["height"]
            assert 0 <= annotation["category_id"] < len(mini.CLASSES)
    assert set(flags) == {"0", "1"}
    assert all(record["annotations"] for record in records)
