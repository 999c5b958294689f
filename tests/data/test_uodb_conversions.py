"""UODB: the sets whose images or lists have to be made (DOTA, the three art sets, GMU Kitchens,
DeepLesion): boxes, patches and windows computed by hand, damaged downloads, miniatures."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gppf_d2.data.catalog import uodb
from gppf_d2.data.index import open_records
from tests.conftest import MAKE_MINI
from tests.data.test_uodb import XML, chosen, put, read

HEAD = "imagesource:GoogleEarth\ngsd:0.146343590398\n"
COLUMNS = (
    "File_name,Key_slice_index,Bounding_boxes,Possibly_noisy,Spacing_mm_px_,DICOM_windows,"
    "Train_Val_Test"
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The modules of ``datasets/``, which the package never imports."""
    sys.path.insert(0, str(MAKE_MINI.parent))
    try:
        names = ("dota", "watercolor", "clipart", "comic", "kitchen", "deeplesion")
        yield SimpleNamespace(**{name: importlib.import_module(f"uodb.{name}") for name in names})
    finally:
        sys.path.remove(str(MAKE_MINI.parent))


# ------------------------------------------------------------------------------- art and kitchens


@pytest.mark.parametrize("name", ["watercolor", "clipart", "comic"])
def test_art_sets_take_the_official_lists_and_not_the_dummies_of_extra(
    name: str, scripts: SimpleNamespace, tmp_path: Path
) -> None:
    for split, numbers in (("train", "12 7"), ("test", "9"), ("extra", "8")):
        put(tmp_path / name / "ImageSets" / "Main" / f"{split}.txt", numbers.replace(" ", "\n"))
        for number in numbers.split():
            put(tmp_path / name / "JPEGImages" / f"{number}.jpg", (50, 40))
            text = XML.format(size=(50, 40), name="person")
            put(tmp_path / name / "Annotations" / f"{number}.xml", text)
    getattr(scripts, name).prepare(chosen(tmp_path))
    names, boxes = read(tmp_path, name, "train")
    assert names == [f"{name}/JPEGImages/{number}.jpg" for number in (12, 7)]
    one = [("person", [0, 1, 10, 19.4], 1), ("dog", [20, 10, 20, 20], 0)]
    assert boxes == [(index, *box) for index in (0, 1) for box in one]
    assert read(tmp_path, name, "test")[0] == [f"{name}/JPEGImages/9.jpg"]
    (tmp_path / name / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=rf"test.txt' does not exist; unpack {name}.zip"):
        getattr(scripts, name).prepare(chosen(tmp_path))


def kitchens(root: Path) -> None:
    """Nine scenes, a frame each."""
    for number in range(1, 10):
        scene = root / "gmu_kitchens" / f"gmu_scene_{number:03d}"
        put(scene / "Images" / f"rgb_{number}.png", (50, 40))
        text = XML.format(size=(50, 40), name="red_bull")
        put(scene / "Annotations" / f"rgb_{number}.xml", text)


def test_kitchens_are_divided_and_other_products_left_out(
    scripts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kitchens(tmp_path)
    scripts.kitchen.prepare(chosen(tmp_path))
    tests, boxes = read(tmp_path, "kitchen", "test")
    assert tests == [f"gmu_kitchens/gmu_scene_00{k}/Images/rgb_{k}.png" for k in (2, 4, 5)]
    assert boxes == [(k, "red_bull", [0, 1, 10, 19.4], 1) for k in range(3)]
    assert "3 objects of other classes left out" in capsys.readouterr().out
    trained = read(tmp_path, "kitchen", "train")[0]
    assert len(trained) == 6 and not set(trained) & set(tests)


def test_a_kitchen_that_is_missing_is_an_error_or_left_out(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    kitchens(tmp_path)
    scene = tmp_path / "gmu_kitchens" / "gmu_scene_006"
    (scene / "Annotations").rename(scene / "elsewhere")
    with pytest.raises(FileNotFoundError, match="gmu_scene_006/Annotations' does not exist; down"):
        scripts.kitchen.prepare(chosen(tmp_path))
    scripts.kitchen.prepare(chosen(tmp_path, partial=True))
    assert len(read(tmp_path, "kitchen", "train")[0]) == 5


# ------------------------------------------------------------------------------------------- DOTA


def corners(*values: float) -> np.ndarray:
    return np.array(values, dtype=float).reshape(4, 2)


def test_lines_of_dota_with_a_flag_without_one_crossed_and_without_area(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    lines = [
        "10 20 30.5 20 30.5 40 10 40 plane 1",
        "1.0 2.0 5.0 2.0 5.0 8.0 1.0 8.0 small-vehicle",
        "0 0 10 10 10 0 0 10 harbor 0",  # crosses itself
        "5 5 9 9 9 9 5 5 bridge 0",  # a line
    ]
    put(tmp_path / "P1.txt", HEAD + "\n".join(lines) + "\n")
    objects = scripts.dota.read_labels(tmp_path / "P1.txt")
    found = [(scripts.dota.CLASSES[k], scripts.dota.area(c), hard) for k, c, hard in objects]
    assert found == [("plane", 410, True), ("small-vehicle", 24, False), ("harbor", 100, False)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 2 3 4 5 6 7 8 container-crane 0", "class 'container-crane', DOTA v1.0 has plane"),
        ("1 2 3 4 5 6 7 plane 0", "line 3 of .*P1.txt' is no object of DOTA"),
        ("1 2 3 4 5 6 7 8", "line 3 of .*P1.txt' is no object of DOTA"),
        ("1 2 3 4 5 6 7 8 plane yes", "line 3 of .*P1.txt' is no object of DOTA"),
    ],
)
def test_a_line_that_is_no_object_of_dota_is_named(
    line: str, said: str, scripts: SimpleNamespace, tmp_path: Path
) -> None:
    put(tmp_path / "P1.txt", HEAD + line)
    with pytest.raises(ValueError, match=said):
        scripts.dota.read_labels(tmp_path / "P1.txt")


def test_patches_overlap_and_the_last_one_ends_with_the_image(scripts: SimpleNamespace) -> None:
    starts = {600: [0], 1024: [0], 1025: [0, 1], 1300: [0, 276], 1948: [0, 924]}
    starts |= {1949: [0, 924, 925], 2900: [0, 924, 1848, 1876]}
    assert {length: scripts.dota.starts(length) for length in starts} == starts
    assert scripts.dota.windows(1100, 600) == [(0, 0, 1024, 600), (76, 0, 1100, 600)]


def test_the_part_of_a_polygon_in_a_window_is_exact(scripts: SimpleNamespace) -> None:
    diamond = corners(0, 10, 10, 0, 20, 10, 10, 20)
    part = scripts.dota.inside(diamond, (10, 0, 40, 40))
    assert scripts.dota.area(part) == 100 and part.min(0).tolist() == [10, 0]
    tip = scripts.dota.inside(diamond, (16, 0, 40, 40))
    assert scripts.dota.area(tip) == 16 and tip.min(0).tolist() == [16, 6]
    assert len(scripts.dota.inside(diamond, (0, 0, 4, 4))) == 0  # the boxes meet, they do not
    rng = np.random.default_rng(3)
    for _ in range(50):
        quad = rng.uniform(0, 60, (4, 2))
        x, y = (quad - quad.mean(0)).T
        quad = quad[np.argsort(np.arctan2(y, x))]
        tiles = [(20 * a, 20 * b, 20 * a + 20, 20 * b + 20) for a in range(3) for b in range(3)]
        areas = [scripts.dota.area(scripts.dota.inside(quad, tile)) for tile in tiles]
        assert sum(areas) == pytest.approx(scripts.dota.area(quad), abs=1e-9)


def test_what_a_patch_cuts_is_difficult_from_seven_tenths_down(scripts: SimpleNamespace) -> None:
    def boxes(*quad: float, hard: bool = False) -> list:
        shape = scripts.dota.Quad(3, corners(*quad), hard)
        return scripts.dota.boxes_in([shape], (100, 50, 200, 150), 400, 180)

    def upright(x0: float, y0: float, x1: float, y1: float, hard: bool = False) -> list:
        return boxes(x0, y0, x1, y0, x1, y1, x0, y1, hard=hard)

    assert upright(110, 60, 130, 90) == [(3, (10, 10, 30, 40), False)]
    assert upright(110, 60, 130, 90, hard=True) == [(3, (10, 10, 30, 40), True)]
    assert upright(93, 60, 193, 90) == [(3, (0, 10, 93, 40), False)]
    assert upright(70, 60, 170, 90) == [(3, (0, 10, 70, 40), True)], "exactly seven tenths"
    assert upright(99.5, 60, 100.5, 90) == [], "thinner than a pixel"
    assert upright(0, 0, 100, 50) == [], "touches the patch"
    # 60 of 100 rows are in the image, all of them in the patch
    (box,) = scripts.dota.boxes_in(
        [scripts.dota.Quad(0, corners(110, 120, 130, 120, 130, 220, 110, 220), False)],
        (100, 80, 200, 180), 400, 180,
    )  # fmt: skip
    assert box == (0, (10, 40, 30, 100), False)


@pytest.fixture(scope="module")
def aerial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DOTA with one training image of 2,000 x 1,100 pixels, whose colours tell where a pixel is,
    and a small grey one; objects of up to 90 pixels stand everywhere."""
    root = tmp_path_factory.mktemp("aerial")
    x, y = np.meshgrid(np.arange(2000), np.arange(1100))
    place = np.stack([x // 8, y // 8, np.zeros_like(x)], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(300):
        middle, turn = rng.uniform((0, 0), (2000, 1100)), rng.uniform(0, np.pi)
        half = rng.uniform(3, 30, 2)
        axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        quad = middle + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ axes
        numbers = " ".join(f"{value:.1f}" for value in quad.reshape(-1))
        lines.append(f"{numbers} {rng.choice(uodb.CLASSES['dota'])} 0")
    for split, name, pixels in (("train", "P0", place), ("train", "P2", place[:300, :400, 0])):
        put(root / "dota" / split / "labelTxt" / f"{name}.txt", HEAD + "\n".join(lines))
        (root / "dota" / split / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "dota" / split / "images" / f"{name}.png")
    put(root / "dota" / "val" / "labelTxt-v1.0" / "labelTxt" / "P1.txt", HEAD)
    put(root / "dota" / "val" / "images" / "P1.png", (64, 48))
    return root


def test_every_object_is_found_again_in_the_patches_at_its_place(
    scripts: SimpleNamespace, aerial: Path
) -> None:
    scripts.dota.prepare(chosen(aerial))
    names, boxes = read(aerial, "dota", "train")
    places = [(x, y) for y in (0, 76) for x in (0, 924, 976)]
    large = [f"uodb/dota/train/P0__{x}_{y}.jpg" for x, y in places]
    assert names == [*large, "uodb/dota/train/P2__0_0.jpg"]
    for (left, top), name in zip(places, large):
        picture = np.asarray(Image.open(aerial / name)).astype(int)
        assert picture.shape == (1024, 1024, 3)
        expected = [(left + 500) // 8, (top + 500) // 8]
        assert np.abs(picture[500, 500, :2] - expected).max() <= 3
    whole: Counter = Counter()
    for index, label, (x, y, width, height), difficult in boxes:
        if index < len(places) and not difficult:
            left, top = places[index]
            corner = (x + left, y + top, x + left + width, y + top + height)
            whole[label, *(round(value, 1) for value in corner)] += 1
    objects = scripts.dota.read_labels(aerial / "dota" / "train" / "labelTxt" / "P0.txt")
    for category, quad, _ in objects:
        edges = np.clip([*quad.min(0), *quad.max(0)], 0, (2000, 1100, 2000, 1100))
        found = whole[scripts.dota.CLASSES[category], *np.round(edges, 1)]
        if quad.min() >= 0 and quad[:, 0].max() <= 2000 and quad[:, 1].max() <= 1100:
            assert found >= 1, "smaller than the overlap: whole in some patch"
    assert len(objects) == 300 and max(whole.values()) > 1
    assert any(difficult for *_, difficult in boxes), "cut by a border"


def test_images_of_one_channel_get_three_and_another_folder_of_labels_serves(
    scripts: SimpleNamespace, aerial: Path
) -> None:
    scripts.dota.prepare(chosen(aerial))
    grey = Image.open(aerial / "uodb" / "dota" / "train" / "P2__0_0.jpg")
    assert grey.mode == "RGB" and grey.size == (400, 300)
    assert read(aerial, "dota", "test") == (["uodb/dota/val/P1__0_0.jpg"], [])


def test_a_second_call_writes_only_what_is_older_than_its_source(
    scripts: SimpleNamespace, aerial: Path
) -> None:
    def written() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (aerial / "uodb").rglob("*.*")}

    scripts.dota.prepare(chosen(aerial))
    before = written()
    scripts.dota.prepare(chosen(aerial))
    assert written() == before
    (aerial / "dota" / "train" / "images" / "P2.png").touch()
    scripts.dota.prepare(chosen(aerial))
    after = written()
    assert {name for name in after if after[name] != before.get(name)} == {"P2__0_0.jpg"}


def test_dota_lacks_an_image_or_its_labels_or_has_a_damaged_image(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    for split, name in itertools.product(("train", "val"), ("P0", "P1")):
        put(tmp_path / "dota" / split / "images" / f"{name}.png", (30, 20))
        put(tmp_path / "dota" / split / "labelTxt" / f"{name}.txt", HEAD)
    train = tmp_path / "dota" / "train"
    for path in (train / "images" / "P1.png", train / "labelTxt" / "P0.txt"):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(ValueError, match=rf"lacks 1 of 2 images .*'{path.name}'"):
            scripts.dota.prepare(chosen(tmp_path))
        scripts.dota.prepare(chosen(tmp_path, partial=True))
        assert len(read(tmp_path, "dota", "train")[0]) == 1
        path.write_bytes(content)
    path = train / "images" / "P1.png"
    path.write_bytes(path.read_bytes()[:-30])
    (tmp_path / "uodb" / "dota" / "train" / "P1__0_0.jpg").unlink()
    with pytest.raises(ValueError, match=r"P1.png' is damaged \(.*\); restore the original"):
        scripts.dota.prepare(chosen(tmp_path))
    assert not list((tmp_path / "uodb" / "dota" / "train").glob("*P1*")), "no part of a file"


# ------------------------------------------------------------------------------------- DeepLesion


def slices(root: Path, series: str, units: dict[int, float]) -> None:
    """16-bit slices of 8 x 6 pixels, each of one value in Hounsfield units."""
    folder = root / "DeepLesion" / "Images_png" / series
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in units.items():
        values = np.full((6, 8), value + 32768, dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{number:03d}.png")


def table(root: Path, *rows: str) -> Path:
    path = root / "DeepLesion" / "DL_info.csv"
    put(path, "\n".join([COLUMNS, *rows]) + "\n")
    return path


def row(
    name: str, part: int, box: str = "2.5, 1, 5, 4.25", noisy: int = 0, distance: str = "2"
) -> str:
    return f'{name},9,"{box}",{noisy},"0.7, 0.7, {distance}","-175, 275",{part}'


def test_the_window_of_hounsfield_units_becomes_eight_bits(scripts: SimpleNamespace) -> None:
    units = np.array([-3000, -1024, -1000, 0, 1023.5, 3071, 9000], dtype=np.float32)
    # 24 / 4095 x 255 = 1.49; 1024 / 4095 x 255 = 63.77; the middle is 127.5, to the even one
    assert scripts.deeplesion.windowed(units).tolist() == [0, 0, 1, 64, 128, 255, 255]


@pytest.mark.parametrize(
    ("distance", "below", "above"),
    [
        (1.0, 8, 12),  # two slices away
        (2.0, 9, 11),
        (5.0, 9.6, 10.4),  # 0.4 of a slice away
        (1.25, 8.4, 11.6),
        (0.0, 10, 10),
        (-1.0, 10, 10),
        (float("nan"), 10, 10),
    ],
)
def test_channels_are_two_millimetres_from_the_key_slice(
    distance: float, below: float, above: float, scripts: SimpleNamespace
) -> None:
    def read_slice(offset: int) -> np.ndarray:
        return np.full((2, 2), 10.0 + offset)

    found = [scripts.deeplesion.beside(read_slice, distance, side)[0, 0] for side in (-1, 1)]
    assert found == pytest.approx([below, above])


def test_slices_beyond_the_end_of_a_series_are_replaced_by_the_nearest(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    slices(tmp_path, "000001_01_01", {9: 600, 10: 1000, 12: 2000})
    key = tmp_path / "DeepLesion" / "Images_png" / "000001_01_01" / "010.png"
    target = tmp_path / "made.png"

    def channels(distance: float) -> list[int]:
        target.unlink(missing_ok=True)
        assert scripts.deeplesion.convert((key, distance, target)) == (8, 6)
        return np.asarray(Image.open(target))[3, 4].tolist()

    values = {units: round((units + 1024) / 4095 * 255) for units in (600, 1000, 2000)}
    assert channels(1) == [values[600], values[1000], values[2000]], "008 is not there, 009 is"
    assert channels(2) == [values[600], values[1000], values[1000]], "011 is not there"


def test_deeplesion_takes_the_official_split_and_noisy_lesions_are_difficult(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    for series in ("000001_01_01", "000002_03_01", "000004_01_02", "000005_01_01"):
        slices(tmp_path, series, {9: 100, 10: 200, 11: 300})
    table(
        tmp_path,
        row("000004_01_02_010.png", 3),
        row("000002_03_01_010.png", 1, box="-1, 2, 20, 3.5"),
        row("000005_01_01_010.png", 2),
        row("000001_01_01_010.png", 1),
        row("000002_03_01_010.png", 1, noisy=1),
    )
    scripts.deeplesion.prepare(chosen(tmp_path))
    names, boxes = read(tmp_path, "deeplesion", "train")
    assert names == [f"uodb/deeplesion/00000{k}_010.png" for k in ("1_01_01", "2_03_01")]
    assert boxes == [
        (0, "lesion", [1.5, 0, 3.5, 4.25], 0),
        (1, "lesion", [0, 1, 8, 2.5], 0),
        (1, "lesion", [1.5, 0, 3.5, 4.25], 1),
    ]
    assert read(tmp_path, "deeplesion", "test")[0] == ["uodb/deeplesion/000004_01_02_010.png"]
    made = {path.name: path.stat().st_ino for path in (tmp_path / "uodb").rglob("*.*")}
    assert len(made) == 3 + 2, "the validation slice is not converted"
    scripts.deeplesion.prepare(chosen(tmp_path))
    assert {path.name: path.stat().st_ino for path in (tmp_path / "uodb").rglob("*.*")} == made


def test_a_slice_is_converted_again_where_others_of_its_series_came_later(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    slices(tmp_path, "000001_01_01", {10: 1000})
    key = tmp_path / "DeepLesion" / "Images_png" / "000001_01_01" / "010.png"
    target = tmp_path / "made.png"
    scripts.deeplesion.convert((key, 2.0, target))
    assert len(set(np.asarray(Image.open(target))[0, 0])) == 1
    slices(tmp_path, "000001_01_01", {9: 0, 11: 2000})
    scripts.deeplesion.convert((key, 2.0, target))
    assert len(set(np.asarray(Image.open(target))[0, 0])) == 3


def test_a_damaged_deeplesion_is_named_in_one_sentence(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    slices(tmp_path, "000001_01_01", {9: 0, 10: 1000})
    good = [row("000001_01_01_010.png", part) for part in (1, 3)]
    path = table(tmp_path, *good)
    text = path.read_text()
    for bad, said in (
        (text.replace("Possibly_noisy", "Noisy"), "lacks the columns Possibly_noisy; download"),
        (text[:-9], "line 3 of .*csv' is damaged"),
        (text.replace("2.5, 1,", "2.5,"), "line 2 of .*csv' is damaged"),
        (text.replace("010.png", "010"), "line 2 of .*'000001_01_01_010' is no name of a slice"),
        (text.replace(",3\n", ",4\n"), "line 3 of .*csv' is damaged"),
        (text.replace("010.png", "011.png"), "lacks 1 of 1 images .*'000001_01_01/011.png'"),
    ):
        path.write_text(bad)
        with pytest.raises(ValueError, match=said) as caught:
            scripts.deeplesion.prepare(chosen(tmp_path))
        assert "\n" not in str(caught.value)
    path.write_text(text)
    beside = tmp_path / "DeepLesion" / "Images_png" / "000001_01_01" / "009.png"
    for values, said in (
        (np.zeros((6, 8), np.uint8), "holds uint8 .*expected one channel of 16 bit"),
        (np.zeros((5, 8), np.uint16), r"009.png' holds \[5, 8\] pixels, .*010.png' \[6, 8\]"),
    ):
        Image.fromarray(values).save(beside)
        with pytest.raises(ValueError, match=said):
            scripts.deeplesion.prepare(chosen(tmp_path))


# ------------------------------------------------------------------------------------- miniatures


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("dota", 17, 7), ("watercolor", 16, 6), ("clipart", 16, 6), ("comic", 16, 6),
        ("kitchen", 16, 6), ("deeplesion", 12, 6),
    ],
)  # fmt: skip
def test_prepared_miniatures_are_read_as_records(
    name: str, train: int, test: int, official_root: Path
) -> None:
    seen: Counter = Counter()
    classes = set()
    for split, count in (("train", train), ("test", test)):
        records = open_records(f"uodb_{name}_{split}")
        assert len(records) == count
        for record in records:
            size = record["width"], record["height"]
            assert Image.open(record["file_name"]).size == size
            for entry in record["annotations"]:
                x, y, width, height = entry["bbox"]
                assert x >= 0 and y >= 0 and width > 0 and height > 0
                assert x + width <= size[0] + 0.01 and y + height <= size[1] + 0.01
                assert entry["iscrowd"] == entry["difficult"]
                seen[entry["difficult"]] += 1
                classes.add(entry["category_id"])
    assert seen[0] > train and seen[1] > 0
    assert max(classes) < len(uodb.CLASSES[name])
    assert len(classes) >= min(len(uodb.CLASSES[name]), 5)
