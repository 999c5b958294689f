"""UODB: KITTI and LISA, whose splits are rules of ours: by numbers and by tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.data.test_uodb import chosen, modules_of, put, read

KITTI_TAIL = "1.50 1.60 3.90 1.80 1.50 9.40 -1.56"
LISA_HEAD = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;"
    "Lower right corner Y;Occluded,On another road;Origin file"
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The modules of both sets."""
    with modules_of("kitti", "lisa") as modules:
        yield modules


def kitti(root: Path) -> Path:
    """Eleven labelled images, the tenth with every type of KITTI."""
    home = root / "kitti_object"
    rows = [("Car", "0.00 0 -1.57 4.25 5 30.5 20"), ("DontCare", "-1 -1 -10 1 2 3 4")]
    rows += [("Van", "0 0 0 5 5 9 9"), ("Person_sitting", "0 0 0 6 6 9 9")]
    rows += [
        ("Cyclist", "0 3 0 7 7 9 9"),
        ("Pedestrian", "0 0 0 8 8 9 99"),
        ("Misc", "0 0 0 1 1 9 9"),
    ]
    for number in range(11):
        put(home / "training" / "image_2" / f"{number:06d}.png", (40, 30))
        lines = [f"{kind} {rest} {KITTI_TAIL}\n" for kind, rest in (rows if number == 9 else [])]
        put(home / "training" / "label_2" / f"{number:06d}.txt", "".join(lines))
    return home


def test_kitti_ignores_dont_care_for_every_class_and_the_neighbours_of_a_class(
    scripts: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kitti(tmp_path)
    scripts.kitti.prepare(chosen(tmp_path))
    names, boxes = read(tmp_path, "kitti", "test")
    assert names == ["kitti_object/training/image_2/000009.png"]
    assert sorted(boxes) == sorted(
        [(0, name, [1, 2, 2, 2], 1) for name in ("pedestrian", "cyclist", "car")]
        + [
            (0, "car", [4.25, 5, 26.25, 15], 0),
            (0, "car", [5, 5, 4, 4], 1),
            (0, "pedestrian", [6, 6, 3, 3], 1),
            (0, "cyclist", [7, 7, 2, 2], 0),
            (0, "pedestrian", [8, 8, 1, 22], 0),
        ]
    )
    names, boxes = read(tmp_path, "kitti", "train")
    assert len(names) == 10 and not boxes, "images without objects stay"
    assert "number ends in 9" in capsys.readouterr().out


def test_kitti_is_divided_by_lists_where_they_are(scripts: SimpleNamespace, tmp_path: Path) -> None:
    home = kitti(tmp_path)
    put(home / "ImageSets" / "train.txt", "000009\n000003\n")
    with pytest.raises(FileNotFoundError, match="val.txt' does not exist; give both"):
        scripts.kitti.prepare(chosen(tmp_path))
    put(home / "ImageSets" / "val.txt", "000000\n")
    scripts.kitti.prepare(chosen(tmp_path))
    assert [name[-10:-4] for name in read(tmp_path, "kitti", "train")[0]] == ["000009", "000003"]
    put(home / "ImageSets" / "val.txt", "000011\n")
    with pytest.raises(ValueError, match="lists image '000011', which has no file"):
        scripts.kitti.prepare(chosen(tmp_path))


def test_kitti_names_a_damaged_line_and_a_damaged_image(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    home = kitti(tmp_path)
    put(home / "training" / "image_2" / "000004.png", "no image")
    with pytest.raises(ValueError, match="000004.png' is damaged"):
        scripts.kitti.prepare(chosen(tmp_path))
    put(home / "training" / "image_2" / "000004.png", (40, 30))
    put(home / "training" / "label_2" / "000004.txt", "Car 0.00 0 -1.57 4.25 5 30.5")
    with pytest.raises(ValueError, match="line 1 of .*000004.txt' is 'Car .*expected a type"):
        scripts.kitti.prepare(chosen(tmp_path))
    (home / "training" / "label_2" / "000004.txt").write_bytes(b"Car \xff")
    with pytest.raises(ValueError, match="000004.txt' is no text .*restore the original"):
        scripts.kitti.prepare(chosen(tmp_path))


def test_kitti_without_a_part_of_its_labels_is_an_error_or_a_part(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    home = kitti(tmp_path)
    (home / "training" / "label_2" / "000004.txt").unlink()
    with pytest.raises(ValueError, match="label_2' lacks 1 of 11 images .*000004.txt"):
        scripts.kitti.prepare(chosen(tmp_path))
    scripts.kitti.prepare(chosen(tmp_path, partial=True))
    assert len(read(tmp_path, "kitti", "train")[0]) == 9


def lisa(root: Path, extension: bool = True) -> None:
    """Ten tracks of two frames; the tenth is in the extension."""
    rows: dict[str, list[str]] = {"": [LISA_HEAD], "training/": [LISA_HEAD]}
    tags = ("stop", "yield", "roundAbout", "noLeftTurn", "speedLimit45", "speedLimitUrdbl")
    for track in range(10):
        prefix = "training/" if track == 9 else ""
        for frame in range(2):
            name = f"vid0/annotations/sign_{track}.avi_image{frame}.png"
            put(root / "lisa" / prefix / name, (40, 30))
            rows[prefix].append(f"{name};{tags[track % 6]};1;2;11;12;0,0;vid0")
    put(root / "lisa" / "allAnnotations.csv", "\n".join(rows[""]))
    if extension:
        put(root / "lisa" / "training" / "allTrainingAnnotations.csv", "\n".join(rows["training/"]))


def test_lisa_has_four_classes_and_never_divides_a_track(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    lisa(tmp_path)
    scripts.lisa.prepare(chosen(tmp_path))
    names, boxes = read(tmp_path, "lisa", "test")
    assert names == [
        *(f"lisa/training/vid0/annotations/sign_9.avi_image{k}.png" for k in (0, 1)),
        *(f"lisa/vid0/annotations/sign_4.avi_image{k}.png" for k in (0, 1)),
    ]
    kinds = ["noturn", "noturn", "speedlimit", "speedlimit"]
    assert boxes == [(k, kind, [1, 2, 10, 10], 0) for k, kind in enumerate(kinds)]
    names, boxes = read(tmp_path, "lisa", "train")
    assert len(names) == 16, "images stay whose signs have no class"
    assert Counter(kind for _, kind, _, _ in boxes) == {
        "stop": 4, "warning": 4, "noturn": 2, "speedlimit": 2,
    }  # fmt: skip


def test_lisa_reads_tables_that_a_spreadsheet_saved(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    lisa(tmp_path)
    table = tmp_path / "lisa" / "allAnnotations.csv"
    before = scripts.lisa.read_annotations(table, "")
    table.write_text(table.read_text().replace("\n", "\r\n") + "\r\n\r\n", encoding="utf-8-sig")
    assert scripts.lisa.read_annotations(table, "") == before and len(before) == 18


def test_lisa_without_its_extension_or_with_a_damaged_table(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    lisa(tmp_path, extension=False)
    with pytest.raises(
        FileNotFoundError, match="allTrainingAnnotations.csv' does not exist; .*--partial"
    ):
        scripts.lisa.prepare(chosen(tmp_path))
    scripts.lisa.prepare(chosen(tmp_path, partial=True))
    assert len(read(tmp_path, "lisa", "train")[0]) == 16
    table = tmp_path / "lisa" / "allAnnotations.csv"
    text = table.read_text()
    table.write_text(text[: text.rindex(";11;")])
    with pytest.raises(ValueError, match="line 19 of .*csv' is .*expected a file, a tag"):
        scripts.lisa.prepare(chosen(tmp_path, partial=True))
    table.write_text(text.replace("Annotation tag", "Tag"))
    with pytest.raises(ValueError, match="has no column 'Annotation tag'"):
        scripts.lisa.prepare(chosen(tmp_path, partial=True))
