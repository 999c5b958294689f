"""The page of pseudo labels: every kind beside its image, self-contained, whatever is there."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gppf_d2.analysis.label_page import pick_images, shown_labels, write_label_page
from gppf_d2.analysis.label_summary import counts_figure, per_class
from gppf_d2.data.pseudo_labels import StoredLabel, read_manifest
from gppf_d2.tools.view_labels import main
from tests.analysis.test_report import Page
from tests.pseudo.made_labels import make_labels, values

H, W = 40, 64
NAMES = [f"{index}.png" for index in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of six images; the fourth cannot be read."""
    root = tmp_path_factory.mktemp("labels")
    (root / "images").mkdir()
    for index, name in enumerate(NAMES):
        pixels = np.random.default_rng(index).integers(0, 255, (H, W, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
    (root / "images" / NAMES[3]).write_bytes(b"no image")
    said = [values(index, H, W) for index in range(len(NAMES))]
    return make_labels(root / "some labels", root / "images", NAMES, said)


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[str, Page]:
    text = write_label_page(folder, folder.parent / "page.html", count=3).read_text()
    return text, Page(text)


def titles(page: Page) -> list[str]:
    """Names of the images that a page shows."""
    return [word for word in page.words if word in NAMES]


def test_page_shows_the_manifest_and_every_label_of_every_image(made) -> None:
    text, page = made
    anchors = [part["id"] for part in page.all("section")]
    assert anchors == ["labels", "teachers", "counts", "unreadable", "images"]
    assert {a["href"] for a in page.all("a")} >= {f"#{anchor}" for anchor in anchors}
    expected = (
        "some labels", "5 images labelled", "1 without labels", "b" * 32, "d" * 32, "≥ 0.5",
        "10 objects, 2.0 an image, 10 masks", "75.0% of the pixels", "cannot be read", "midas",
        "3 of 5 labelled images, spread evenly", f"{W} × {H} pixels", "not labelled 25%",
        "1 to 8 m, median 4.5 m", "relative: bright is near", "nothing found", "cat 3, dog 2",
    )  # fmt: skip
    for words in expected:
        assert words in page.text, words
    assert titles(page)[:1] == ["3.png"], "the table of unreadable images"
    assert titles(page)[1:] == ["0.png", "2.png", "5.png"]
    assert "dog" in page.text and "90.0%" in page.text, "bars of classes"
    assert page.text.count("classes") >= 3 and "&lt;b&gt;" in text


def test_page_needs_no_network_no_script_and_its_pictures_have_words(made, tmp_path: Path) -> None:
    text, page = made
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert page.all("script") == []
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style", f"<{tag} {name}>"
            assert name not in ("src", "srcset") or value.startswith("data:image/")
    pictures = page.all("img")
    # two charts of counts, then the image and four labels of each of three images
    assert len(pictures) == 2 + 3 * 5
    for place, picture in enumerate(pictures):
        assert len(picture["alt"]) > 10
        file = tmp_path / str(place)
        file.write_bytes(base64.b64decode(picture["src"].split(",", 1)[1]))
        with Image.open(file) as image:
            ratio = image.width / image.height
        assert int(picture["width"]) / int(picture["height"]) == pytest.approx(ratio, rel=0.01)
    assert "boxes of 5.png: cat 3, dog 2" in {picture["alt"] for picture in pictures}


def test_orders_choose_images_by_what_is_stored(folder: Path) -> None:
    manifest = read_manifest(folder)
    labels = shown_labels(manifest, None)

    def pick(order: str, count: int = 3, names: list[str] | None = None) -> list[int]:
        found = pick_images(manifest, count, order, shown_labels(manifest, names), seed=1)
        return manifest.labelled()[found].tolist()

    assert pick("even", 9) == [0, 1, 2, 4, 5] and pick("even", 2) == [0, 5]
    assert pick("many") == [5, 4, 2] and pick("few") == [0, 1, 2]
    assert pick("sure") == [0, 1, 2] and pick("unsure") == [4, 5, 2]
    drawn = pick("random")
    assert drawn == pick("random") == sorted(set(drawn)) and 3 not in drawn
    with pytest.raises(ValueError, match=r"'many' needs a label of kind 'instances'.*depth"):
        pick("many", names=["depth"])
    with pytest.raises(ValueError, match="order is 'best'"):
        pick("best")
    with pytest.raises(ValueError, match="count of images is 0"):
        pick_images(manifest, 0, "even", labels)


def test_tool_shows_chosen_labels_and_says_what_is_wrong(folder: Path, capsys) -> None:
    output = folder.parent / "chosen.html"
    call = [str(folder), "--output", str(output), "--count", "1", "--order", "many"]
    assert main([*call, "--label", "boxes"]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    page = Page(output.read_text())
    assert titles(page) == ["3.png", "5.png"] and len(page.all("img")) == 1 + 2
    assert "relative" not in page.text
    for wrong, words in (
        ([*call, "--label", "normals"], "no label 'normals' in"),
        ([str(folder.parent), "--output", str(output)], "no manifest of pseudo labels"),
    ):
        assert main(wrong) == 2
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1


def test_image_that_has_gone_becomes_a_sentence(folder: Path) -> None:
    gone = folder.parent / "images" / "2.png"
    content = gone.read_bytes()
    gone.write_bytes(b"")
    try:
        path = write_label_page(folder, folder.parent / "gone.html", count=3, labels=["segments"])
        page = Page(path.read_text())
    finally:
        gone.write_bytes(content)
    assert "2.png" in page.text and "replace the file or leave it out" in page.text
    assert len(page.all("img")) == 2 * 2


def test_counts_are_sorted_and_rare_classes_are_summed() -> None:
    counts = {str(index): 100 - index for index in range(30)}
    label = StoredLabel(kind="sem_seg", counts={"per_class": {"a": 0.5, "b": 0.0, "c": 0.25}})
    assert list(per_class(label)) == ["a", "c", "b"]
    axes = counts_figure("segments", per_class(label)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["50.0%", "25.0%", "0.0%"]
    assert per_class(StoredLabel(kind="depth")) == {}
    axes = counts_figure("boxes", counts).axes[0]
    assert len(axes.patches) == 21 and axes.get_yticklabels()[-1].get_text() == "10 more classes"
    assert axes.patches[-1].get_width() == sum(range(71, 81))
