"""Contact sheets: layout, keys, errors, and which images are shown, with a stub for the model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from matplotlib.figure import Figure
from PIL import Image

from gppf_d2.analysis import Predictor, SheetRow, contact_sheet, draw
from gppf_d2.analysis.figures import save_png, to_array
from gppf_d2.analysis.predictions.error_maps import MISSED, RIGHT, WRONG, draw_errors, error_scales
from gppf_d2.analysis.predictions.keys import UNKNOWN, pixels_of
from gppf_d2.analysis.predictions.pictures import TITLE, fit
from gppf_d2.analysis.predictions.prediction_sheets import comparable, told_apart
from tests.analysis.made_outputs import (
    STUFF,
    THINGS,
    H,
    StubModel,
    W,
    instances,
    mapper,
    outputs,
    picture,
    several,
)


def words(sheet: Figure) -> list[str]:
    """All that is written on a sheet."""
    return [text.get_text() for text in sheet.texts]


def places(sheet: Figure) -> list[tuple[float, float, float, float]]:
    """Left, bottom, right, top in inches of every picture."""
    width, height = sheet.get_size_inches()
    boxes = [axes.get_position(original=True) for axes in sheet.axes if axes.images]
    return [(b.x0 * width, b.y0 * height, b.x1 * width, b.y1 * height) for b in boxes]


@pytest.fixture
def files(tmp_path: Path) -> list[dict]:
    """Records of five images."""
    for index in range(5):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    return [
        {"file_name": str(tmp_path / f"{index}.png"), "height": H, "width": W} for index in range(5)
    ]


@pytest.mark.parametrize("kind", ["instances", "sem_seg", "classes", "depth"])
def test_standalone_picture_and_sheet_of_every_kind(kind: str, files: list[dict]) -> None:
    output, metadata = outputs()[kind]
    for record in files:
        if kind == "classes":
            record["label"] = 0
        if kind == "instances":
            record["annotations"] = []
    predictor = Predictor(StubModel(output), "a_task", mapper, metadata, min_score=0.05)
    alone = predictor.draw(picture(), output)
    plain = fit(picture())
    beside = kind in ("classes", "depth")
    assert alone.shape[0] == plain.shape[0] + TITLE * beside
    assert (alone.shape[1] > plain.shape[1]) == beside
    sheet = predictor.sheet(files, count=3)
    names = [Path(sample["file_name"]).stem for _, sample in predictor.model.asked]
    assert names == ["0", "2", "4"]
    assert sheet.get_label().startswith(
        "Predictions of a_task. 3 of 5 images, spread evenly. 0.png"
    )
    # image, prediction, truth, errors and one strip of keys; image and bars; two pictures, a key
    pictures = {"instances": 3 * 4 + 1, "sem_seg": 3 * 2, "classes": 3, "depth": 3 * 2 + 1}
    assert len(places(sheet)) == pictures[kind]
    assert any("rank 5 of 6, 5.0%" in text for text in words(sheet)) == (kind == "classes")
    assert to_array(sheet, dpi=40).std() > 10


def test_sheet_names_task_columns_and_images() -> None:
    image = picture()
    rows = [
        SheetRow(image, image, image, "first.jpg", remark="F1 0.50"),
        (image, image, None, "second.jpg"),
    ]
    sheet = contact_sheet("scenes", rows, subtitle="2 of 2 images")
    assert words(sheet) == [
        "scenes", "2 of 2 images", "image", "prediction", "truth",
        "first.jpg", "F1 0.50", "second.jpg", "",
    ]  # fmt: skip
    assert len(places(sheet)) == 5
    long = contact_sheet("scenes", [SheetRow(image, None, None, "0123456789" * 9 + ".png")])
    name = next(text for text in words(long) if "…" in text)
    assert len(name) < 40 and name.startswith("0123") and name.endswith("789.png")
    odd = contact_sheet("$x^{$", [SheetRow(image, None, None, "$\\frac$.png")])
    assert to_array(odd, dpi=30).std() > 10, "a name is no formula"
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet("scenes", [])


def test_captions_stand_below_their_pictures_and_rows_do_not_overlap() -> None:
    shapes = [(40, 60), (60, 40), (50, 50)]
    images = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    rows = [SheetRow(image, image, image, "name", image, "one\ntwo") for image in images]
    sheet = contact_sheet("scenes", rows)
    tops = [(box[3], box[1]) for box in places(sheet)[::4]]
    height = sheet.get_size_inches()[1]
    captions = [text.get_position()[1] * height for text in sheet.texts if "one" in text.get_text()]
    for (_, bottom), caption, (below, _) in zip(tops, captions, [*tops[1:], (0, 0)]):
        assert bottom > caption > below + 0.25, "two lines fit"


def test_wide_pictures_are_put_below_one_another() -> None:
    image = np.zeros((375, 1242, 3), np.uint8)
    plain = fit(image)
    assert plain.shape == (338, 1120, 3)
    depth = np.zeros((375, 1242))
    depth[100:] = 5.0
    alone = Predictor(StubModel({}), "a_task", mapper).draw(image, {"depth": depth})
    assert alone.shape == (2 * (338 + TITLE) + 12, 1120, 3)
    assert not alone[TITLE : TITLE + 338].any()
    rows = [SheetRow(image, image, image, f"{index}.png") for index in range(3)]
    sheet = contact_sheet("depth", rows)
    found = places(sheet)
    assert len(found) == 9 and len({round(box[0], 2) for box in found}) == 2, "two side by side"
    first, second, third = found[:3]
    assert first[0] == second[0] == third[0] and first[1] > second[3] > second[1] > third[3]
    assert "image, prediction, truth" in words(sheet)


def test_prediction_and_truth_of_a_sheet_show_the_kinds_that_both_have(files: list[dict]) -> None:
    output, names = several()
    shown, truth = comparable(output, {"label": 3, "sem_seg": np.zeros((H, W)), "other": 1})
    assert list(shown) == ["sem_seg", "classes"] and list(truth) == ["label", "sem_seg"]
    shown, truth = comparable({"inverse_depth": 1}, {"depth": 2, "label": 3})
    assert shown == {"inverse_depth": 1} and truth == {"depth": 2}
    assert comparable({"normals": 1}, {"label": 2}) == ({"normals": 1}, {"label": 2})
    predictor = Predictor(StubModel(output), "student", mapper, names)
    sheet = predictor.sheet([{**files[0], "label": 2}])
    assert words(sheet)[0] == "student" and len(sheet.axes) == 2, "one image beside its bars"
    labels = Path(files[1]["file_name"]).with_name("labels.png")
    Image.fromarray(np.ones((H, W), np.uint8)).save(labels)
    both = {**files[1], "label": 2, "sem_seg_file_name": str(labels)}
    sheet = predictor.sheet([both], errors=False)
    cells = [axes.images[0].get_array() for axes in sheet.axes]
    assert len(cells) == 3 and cells[1].shape[1] > 1.5 * fit(picture()).shape[1], "two kinds"
    assert "mean IoU 0.75" in words(sheet)


class Teller(torch.nn.Module):
    """Says of image i that its true class has probability i / 10."""

    def inference(self, task: str, samples: list[dict]) -> list[dict]:
        index = int(Path(samples[0]["file_name"]).stem)
        return [{"classes": torch.tensor([index / 10, 1 - index / 10])}]


def test_worst_and_best_images_come_first_and_the_heading_says_which(
    files: list[dict], capsys: pytest.CaptureFixture
) -> None:
    Path(files[3]["file_name"]).write_bytes(b"no image")
    records = [{**record, "label": 0} for record in files]
    del records[1]["label"]
    predictor = Predictor(Teller(), "objects", mapper)

    def shown(**options) -> tuple[list[str], str]:
        sheet = predictor.sheet(records, 2, **options)
        return [text[:5] for text in words(sheet) if ".png" in text], words(sheet)[1]

    names, heading = shown(order="worst", progress=True)
    assert names == ["0.png", "2.png"] and "objects" in capsys.readouterr().err
    assert heading == (
        "The 2 worst of 5 images by probability of the true class; left out: 1 cannot be read, "
        "1 without a truth"
    )
    assert shown(order="best", among=0)[0] == ["4.png", "2.png"]
    names, heading = shown(order="best", among=3)
    assert names == ["4.png", "2.png"] and "of 3 images (spread evenly over all 5)" in heading
    assert capsys.readouterr().err == ""
    for options, sentence in (
        ({"order": "worse"}, "order is 'worse'; choose one of even, worst, best"),
        ({"count": 0}, "count of images is 0; show at least 1"),
        ({"among": -3}, "among -3; look at 1 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            predictor.sheet(records, **options)
    with pytest.raises(ValueError, match="None of 1 images .* choose the order 'even'"):
        predictor.sheet(records[1:2], order="worst")
    with pytest.raises(ValueError, match="no image to show"):
        predictor.sheet([])


def colors_in(drawn: np.ndarray, color: str) -> int:
    """How many pixels have a colour, nearly."""
    return int((np.abs(drawn.astype(int) - pixels_of(color)).max(2) < 12).sum())


def test_boxes_that_are_right_wrong_and_missed_have_three_colours() -> None:
    found, truth = instances(), instances()
    truth.remove("scores")
    found.pred_classes[1] = 1  # of another class than the object there
    image = np.full((H, W, 3), 128, np.uint8)
    drawn = draw_errors(image, {"instances": found}, {"instances": truth}, THINGS, min_score=0.05)
    assert [swatch.text for swatch in drawn.key] == ["right", "wrong", "missed"]
    assert all(colors_in(drawn.picture, color) > 50 for color in (RIGHT, WRONG, MISSED))
    drawn = draw_errors(image, {"instances": found}, {"instances": truth}, THINGS, min_score=0.5)
    counts = [colors_in(drawn.picture, color) for color in (RIGHT, WRONG, MISSED)]
    assert counts[0] > 50 and counts[1] == 0 and counts[2] > 50
    drawn = draw_errors(image, {"instances": found[:1]}, {"instances": truth[:1]}, THINGS)
    counts = [colors_in(drawn.picture, color) for color in (RIGHT, WRONG, MISSED)]
    assert counts[0] > 50 and counts[1:] == [0, 0]


def test_wrong_pixels_are_marked_and_ignored_ones_hatched() -> None:
    labels, truth = np.zeros((H, W), np.uint8), np.zeros((H, W), np.uint8)
    labels[:, W // 2 :] = 1
    truth[: H // 2] = 255
    image = np.full((H, W, 3), 200, np.uint8)
    drawn = draw_errors(image, {"sem_seg": labels}, {"sem_seg": truth}, STUFF)
    height, width = drawn.picture.shape[:2]
    right, wrong = drawn.picture[height - 9, 9].astype(int), drawn.picture[-9, -9].astype(int)
    assert len(set(right.tolist())) == 1 and wrong[0] > wrong[2] + 100
    ignored = drawn.picture[: height // 2 - 20].reshape(-1, 3)
    assert len(np.unique(ignored, axis=0)) == 2 and ignored.max() < 170
    assert "hatched: not labelled" in drawn.key
    middle = drawn.picture[height // 2 + 20 : -20, width // 2 :]
    assert (middle == 0).all(2).sum() > 100, "what was taken for what, on black"
    drawn = draw_errors(image, {"sem_seg": labels}, {"sem_seg": labels}, STUFF)
    assert len(np.unique(drawn.picture)) == 1, "nothing is wrong"


def test_depth_errors_diverge_from_too_near_to_too_far_on_one_scale() -> None:
    truth = np.full((H, W), 2.0)
    truth[:, :9] = 0
    prediction = truth * 1.3
    prediction[H // 2 :] = 1.0
    given = ({"depth": prediction}, {"depth": truth})
    drawn = draw_errors(picture(), *given)
    assert drawn.key.words == ("50% too near", "50% too far")
    height, width = drawn.picture.shape[:2]
    far, near, unknown = (
        drawn.picture[y, x].astype(int)
        for y, x in ((9, width - 9), (height - 9, width - 9), (9, 9))
    )
    assert far[0] > far[2] + 30 and near[2] > near[0] + 30 and unknown.tolist() == [185, 190, 199]
    scales = error_scales([{"depth": np.array([0.01])}, {"depth": np.full(9, 0.15)}])
    assert (
        scales["depth"].high == 0.2
        and error_scales([{"depth": np.array([9.0])}])["depth"].high == 1
    )
    assert error_scales([{"normals": np.array([20.0, np.nan])}])["normals"].words == ("0°", "30°")
    relative = {"inverse_depth": 1 / np.where(truth > 0, np.linspace(1, 3, W) * truth, 1.0)}
    fit_to = {"depth": np.linspace(1, 3, W) * truth}
    assert draw_errors(picture(), relative, fit_to).key.high == 0.1, "fitted, then right"


def test_normal_errors_are_angles_and_what_cannot_be_compared_has_no_errors() -> None:
    up, right = np.zeros((3, H, W)), np.zeros((3, H, W))
    up[1], right[0] = 1, 1
    drawn = draw_errors(picture(), {"normals": up}, {"normals": right})
    assert drawn.key.words == ("0°", "90°") and drawn.picture.std() > 10
    assert draw_errors(picture(), {"classes": np.ones(2)}, {"label": 1}) is None
    both = draw_errors(
        picture(), {"normals": up, "depth": up[1]}, {"normals": right, "depth": up[1]}
    )
    assert both.picture.shape[1] > 1.9 * fit(picture()).shape[1] and both.key is None


def test_sheet_file_says_in_words_what_it_shows(files: list[dict], tmp_path: Path) -> None:
    maps = tmp_path / "depth.png"
    cv2.imwrite(str(maps), np.full((H, W), 512, np.uint16))
    record = {**files[0], "depth_file_name": str(maps), "depth_scale": 256.0}
    predictor = Predictor(StubModel({"depth": torch.full((H, W), 3.0)}), "depth", mapper)
    sheet = predictor.sheet([record])
    assert len(places(sheet)) == 4 + 1, "errors and keys"
    path = save_png(sheet, tmp_path / "sheet.png", dpi=40)
    with Image.open(path) as file:
        assert file.info["Description"] == (
            "Predictions of depth. 1 of 1 images, spread evenly. 0.png: relative error 50.0%."
        )
    assert len(places(predictor.sheet([record], errors=False))) == 3 + 1
    assert draw(picture(), {"depth": np.zeros((H, W))}, Metadata()).shape[2] == 3


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    assert told_apart(["x/a.png", "y/b.png"]) == ["a.png", "b.png"]
    assert told_apart(["r/x/d/a.png", "r/y/d/a.png", "r/y/d/b.png", "a.png"]) == [
        "x/d/a.png", "y/d/a.png", "b.png", "a.png",
    ]  # fmt: skip
    assert told_apart(["p/x/a.png", "p/y/a.png", "p/x/a.png"]) == ["x/a.png", "y/a.png", "x/a.png"]
    drives = [f"2011_09_26_drive_00{number}_sync/image_02/data" for number in ("01", "11")]
    records = []
    for drive in drives:
        (tmp_path / drive).mkdir(parents=True)
        Image.fromarray(picture()).save(tmp_path / drive / "0000000001.png")
        file = tmp_path / drive / "0000000001.png"
        records.append({"file_name": str(file), "height": H, "width": W})
    for kind in ("depth", "classes"):
        output, metadata = outputs()[kind]
        sheet = Predictor(StubModel(output), "a_task", mapper, metadata).sheet(records)
        for drive in drives:
            assert f"{drive}/0000000001.png" in sheet.get_label()
            shown = [text for text in words(sheet) if drive.split("/")[0] in text]
            assert len(shown) == 1 and shown[0].count("1.png") == 1
    wide = np.zeros((40, 120, 3), np.uint8)
    rows = [SheetRow(wide, wide, None, f"{drives[0]}/more/of/it/0000000001.png", remark="error 5%")]
    caption = f"{drives[0].split('/')[0]}/…/0000000001.png · error 5%"
    assert caption in words(contact_sheet("depth", rows))


def test_heading_says_which_checkpoint_and_fits_on_narrow_sheets(files: list[dict]) -> None:
    output, metadata = outputs()["classes"]
    predictor = Predictor(StubModel(output), "a_task_of_a_long_name", mapper, metadata)
    sheet = predictor.sheet(files, count=1, when="after 1,234,567 iterations")
    heading = "a_task_of_a_long_name · after 1,234,567 iterations"
    assert words(sheet)[0] == heading and f"Predictions of {heading}. 1 of 5" in sheet.get_label()
    assert sheet.texts[0].get_window_extent().x1 < sheet.bbox.x1


@pytest.mark.parametrize(("kind", "explained"), [("depth", True), ("sem_seg", False)])
def test_key_of_maps_explains_what_has_no_truth(
    kind: str, explained: bool, files: list[dict]
) -> None:
    truth = Path(files[0]["file_name"]).with_name("truth.png")
    cv2.imwrite(str(truth), np.ones((H, W), np.uint16 if kind == "depth" else np.uint8))
    record = {**files[0], f"{kind}_file_name": str(truth), "depth_scale": 256.0}
    output, metadata = outputs()[kind]
    sheet = Predictor(StubModel(output), "a_task", mapper, metadata).sheet([record])
    strip = sheet.axes[0].images[0].get_array()
    assert ((strip == UNKNOWN).all(-1).sum() > 100) == explained
