"""Predictor, truth, JSON and drawings of the four kinds of task, with a stub for the model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from PIL import Image

from gppf_d2.analysis import Predictor, draw, find_images, truth_of
from gppf_d2.analysis.predictions.class_names import class_colors
from gppf_d2.analysis.predictions.drawing import draw_kinds
from gppf_d2.analysis.predictions.output_files import save_maps, to_json
from gppf_d2.analysis.predictions.pictures import TITLE, fit
from gppf_d2.analysis.predictions.pixel_maps import BALL, depth_limits, normal_colors, widened
from gppf_d2.analysis.predictions.predictor import (
    JointPredictor,
    UnreadableImageError,
    joined_metadata,
)
from tests.analysis.made_outputs import (
    CLASSES,
    STUFF,
    THINGS,
    H,
    StubModel,
    W,
    instances,
    inverse_depth,
    mapper,
    normals,
    outputs,
    picture,
    several,
)


def test_predictor_takes_paths_folders_pil_and_arrays(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    output, metadata = outputs()["classes"]
    model = StubModel(output)
    predictor = Predictor(model, "objects", mapper, metadata)
    array, grey = picture(5), picture(6)[..., 0]
    pil = Image.fromarray(picture(7))
    found = predictor([str(tmp_path), tmp_path / "0.png", array, grey, pil])
    assert len(found) == 7 and all("classes" in entry for entry in found)
    assert {task for task, _ in model.asked} == {"objects"}
    images = [sample["image"] for _, sample in model.asked]
    for image, seed in zip(images, (0, 1, 2, 0, 5)):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(seed))
    assert all((s["height"], s["width"]) == (H, W) for _, s in model.asked)
    assert len(predictor(array)) == 1


def test_unreadable_and_missing_images_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"this is not a JPEG")
    predictor = Predictor(StubModel({}), "objects", mapper)
    with pytest.raises(UnreadableImageError, match="broken.jpg"):
        predictor.predict(broken)
    with pytest.raises(ValueError, match="no file or folder .*nowhere"):
        find_images([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' has no image"):
        find_images([tmp_path / "empty"])


def test_images_of_folders_in_a_folder_are_found_but_not_what_was_made(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.JPG", "a/deep/1.png", ".hidden/x.png", "a/.x.png", "old/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "old/predictions.json").write_text("{}")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/x.png").write_bytes(b"")

    def names(**options) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in find_images([tmp_path], **options)]

    assert names(made=tmp_path / "new") == ["a/2.JPG", "a/deep/1.png", "b.png"]
    assert names() == ["a/2.JPG", "a/deep/1.png", "b.png", "new/x.png"]
    assert find_images([tmp_path / "old"]) == [tmp_path / "old/x.png"], "named by the user"


def test_json_of_instances_round_trips_masks() -> None:
    entries = json.loads(json.dumps(to_json({"instances": instances()}, THINGS)))["instances"]
    assert [entry["name"] for entry in entries] == ["dog", "cat"]
    assert entries[0]["box"] == [5, 5, 25, 20] and entries[1]["score"] == 0.1
    assert np.array_equal(mask_util.decode(entries[1]["mask"]), instances().pred_masks[1].numpy())


def test_json_of_the_other_kinds() -> None:
    found = {kind: to_json(output, md) for kind, (output, md) in outputs().items()}
    top = found["classes"]["top5"]
    assert len(top) == 5 and top[0] == {"class": 2, "name": "kind 2", "probability": 0.4}
    assert found["sem_seg"]["sem_seg"] == {"road": 0.75, "sky": 0.25}
    assert found["depth"]["depth"] == {"min": 1.0, "median": pytest.approx(3, abs=0.1), "max": 5.0}
    assert to_json({"embedding": torch.zeros(3)}) == {"embedding": "Tensor"}
    assert to_json({"classes": torch.tensor([1.0])})["top5"][0]["name"] == "class 0"


def test_maps_are_saved_so_that_they_can_be_read_back(tmp_path: Path) -> None:
    both = outputs()["sem_seg"][0] | outputs()["depth"][0] | outputs()["normals"][0]
    names = save_maps(both, tmp_path / "a")
    assert names == {
        "sem_seg_file": "a_labels.png",
        "depth_file": "a_depth.png",
        "normals_file": "a_normals.png",
    }
    record = {"height": H, "width": W, "normals_file_name": str(tmp_path / "a_normals.png")}
    vectors = truth_of(record)["normals"]
    assert np.abs(vectors - both["normals"].numpy()).max() < 0.01
    labels = cv2.imread(str(tmp_path / "a_labels.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, both["sem_seg"].argmax(0).numpy())
    depth = cv2.imread(str(tmp_path / "a_depth.png"), cv2.IMREAD_UNCHANGED) / 256
    assert np.allclose(depth, both["depth"].numpy(), atol=1 / 512)


@pytest.mark.parametrize("kind", ["instances", "sem_seg", "classes", "depth", "normals"])
def test_every_kind_is_drawn_and_the_drawing_depends_on_the_output(kind: str) -> None:
    output, metadata = outputs()[kind]
    image = picture()
    drawn = draw(image, output, metadata)
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3 and min(drawn.shape[:2]) >= 200
    assert drawn.std() > 10
    other = dict(output)
    if kind == "instances":
        other["instances"] = output["instances"][1:]
        plain = fit(image)
        assert drawn.shape == plain.shape and not np.array_equal(drawn, plain)
    else:
        other[kind] = output[kind].flip(-1 if kind == "normals" else 0)
    assert not np.array_equal(draw(image, other, metadata), drawn)
    assert np.array_equal(draw(image, output, metadata), drawn), "the same twice"


def test_regions_below_the_score_are_not_drawn() -> None:
    image = picture()
    both = draw(image, {"instances": instances()}, THINGS, min_score=0.05)
    one = draw(image, {"instances": instances()}, THINGS, min_score=0.5)
    none = draw(image, {"instances": instances()}, THINGS, min_score=0.95)
    height, width = one.shape[:2]
    right = (slice(int(height * 0.65), int(height * 0.85)), slice(int(width * 0.6), width - 40))
    assert not np.array_equal(both[right], one[right])
    assert np.array_equal(one[right], none[right])


def test_picture_without_a_region_tells_the_highest_score() -> None:
    found = draw_kinds(picture(), {"instances": instances()}, THINGS, min_score=0.95)
    assert found["instances"].note == "No score reaches 95%; the highest is 90.0%."
    alone = draw(picture(), {"instances": instances()}, THINGS, min_score=0.95)
    height = fit(picture()).shape[0]
    assert alone.shape[0] == height + TITLE and (alone[height:] < 128).any(), "below, in words"
    nothing = {"instances": instances()[:0]}
    assert draw_kinds(picture(), nothing, THINGS)["instances"].note == ""
    assert draw(picture(), nothing, THINGS).shape[0] == height


def test_depth_of_prediction_and_truth_share_a_scale_and_unknown_is_grey() -> None:
    depth = np.full((H, W), 2.0)
    depth[:, :30] = 0
    assert depth_limits([{"depth": depth}, {"depth": torch.full((H, W), 4.0)}]) == (2.0, 4.0)
    assert depth_limits([{"depth": np.zeros((2, 2))}]) == (0.0, 1.0)
    near = draw(picture(), {"depth": depth}, limits=(2.0, 9.0))
    far = draw(picture(), {"depth": depth}, limits=(0.5, 2.0))
    row, left, right = fit(picture()).shape[0] - 20, 20, near.shape[1] - 20
    assert near.shape[0] == fit(picture()).shape[0] + TITLE, "the scale covers nothing"
    assert near[row, right].sum() > far[row, right].sum() + 200
    assert len(set(near[row, left].tolist())) <= 3 and np.array_equal(
        near[row, left], far[row, left]
    )


def test_normals_are_colours_of_directions_and_unknown_is_grey() -> None:
    whole = draw(picture(), {"normals": normals()})
    drawn = whole[:-BALL]
    height, width = drawn.shape[:2]
    assert (height, width) == fit(picture()).shape[:2] and whole[-BALL:].std() > 10, "its key"
    centre, right, top = (
        drawn[int(height * y), int(width * x)].astype(int)
        for y, x in ((0.5, 0.5), (0.5, 0.96), (0.04, 0.5))
    )
    assert centre[2] > 250 and abs(centre[0] - 128) < 8 and abs(centre[1] - 128) < 8
    assert right[0] > 240 and top[1] > 230
    assert drawn[-3, -3].tolist() == [185, 190, 199]
    assert not normal_colors(torch.zeros(3, 2, 2)).any()


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"\['embedding'\].*depth"):
        draw(picture(), {"embedding": 1})


def test_class_colors_differ_and_given_ones_are_taken() -> None:
    colors = class_colors(60)
    assert len(set(colors)) == 60 and colors == class_colors(60)
    assert class_colors(1, [[255, 0, 51]]) == [(1.0, 0.0, 0.2)]


def test_truth_of_detection_reads_polygons_rle_and_leaves_crowds_out() -> None:
    mask = np.zeros((H, W), np.uint8)
    mask[10:20, 10:30] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    shared = {"bbox_mode": BoxMode.XYWH_ABS, "bbox": [10, 10, 20, 10]}
    record = {
        "height": H,
        "width": W,
        "annotations": [
            {**shared, "category_id": 1, "segmentation": rle, "iscrowd": 0},
            {**shared, "category_id": 0, "segmentation": [[10, 10, 30, 10, 30, 20, 10, 20]]},
            {**shared, "category_id": 0, "segmentation": rle, "iscrowd": 1},
        ],
    }
    truth = truth_of(record)["instances"]
    assert truth.pred_classes.tolist() == [1, 0] and not truth.has("scores")
    assert truth.pred_boxes.tensor.tolist() == [[10, 10, 30, 20]] * 2
    assert truth.pred_masks.sum((1, 2)).tolist() == [200, 200]
    crowds = truth_of(record)["crowds"]
    assert crowds.pred_boxes.tensor.tolist() == [[10, 10, 30, 20]]
    assert draw(picture(), truth_of(record), THINGS).std() > 10
    empty = truth_of({"height": H, "width": W, "annotations": []})
    assert len(empty["instances"]) == 0
    assert draw(picture(), empty, THINGS).std() > 10


def test_truth_of_the_other_kinds(tmp_path: Path) -> None:
    labels = np.zeros((H, W), np.uint8)
    labels[0], labels[1] = 11, 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    units = np.full((H, W), 512, np.uint16)
    units[0], units[1] = 65535, 0
    cv2.imwrite(str(tmp_path / "depth.png"), units)
    size = {"height": H, "width": W}
    semantic = {"sem_seg_file_name": str(tmp_path / "labels.png"), "sem_seg_ignore": [11], **size}
    assert truth_of(semantic)["sem_seg"][:3, 0].tolist() == [255, 1, 0]
    depth = {"depth_file_name": str(tmp_path / "depth.png"), "depth_scale": 256.0, **size}
    truth = truth_of({**depth, "depth_invalid": [65535]})["depth"]
    assert truth[:3, 0].tolist() == [0, 0, 2]
    assert truth_of({"label": 3}) == {"label": 3}
    assert truth_of({"file_name": "x.jpg"}) == {}


def test_points_of_a_laser_are_widened_in_large_pictures() -> None:
    depth = np.zeros((375, 1242), np.float32)
    depth[101::4, 1::4] = 7.0
    wide, known = widened(depth, depth > 0)
    assert known[101:].mean() > 0.99 and not wide[:95].any() and not known[:95].any()
    assert np.allclose(wide[known], 7.0)
    signed = np.where(depth > 0, np.arange(1242, dtype=np.float32) - 600, 0)
    wide, _ = widened(signed, depth > 0)
    assert np.array_equal(wide[101, 1::4], np.arange(1242)[1::4] - 600), "known pixels stay"
    small = depth[:40, :60]
    assert widened(small, small > 0)[0] is small


def test_unknown_depth_does_not_count_in_the_json() -> None:
    depth = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert to_json({"depth": depth})["depth"] == {"min": 2.0, "median": 4.0, "max": 6.0}


def test_several_kinds_are_drawn_side_by_side_and_described_together(tmp_path: Path) -> None:
    output, names = several()
    image = picture()
    drawn = draw_kinds(image, output, names)
    assert list(drawn) == [
        "instances", "sem_seg", "classes", "depth", "inverse_depth", "normals",
    ]  # fmt: skip
    height, width = fit(image).shape[:2]
    whole = Predictor(StubModel(output), "student", mapper, names).draw(image, output)
    assert whole.shape == (3 * height + 2 * TITLE + BALL + 2 * 12, 3 * width + 2 * 12, 3)
    assert np.array_equal(whole[TITLE : TITLE + height, :width], fit(image)), "the image is first"
    first = whole[TITLE : TITLE + height, width + 12 : 2 * width + 12]
    assert np.array_equal(first, drawn["instances"].picture)
    assert (whole[:TITLE, :width] < 128).any(), "a title"
    described = to_json(output, names, **save_maps(output, tmp_path / "a"))
    assert {"instances", "sem_seg", "top5", "depth", "inverse_depth", "normals"} < set(described)
    assert described["instances"][0]["name"] == "dog"
    assert list(described["sem_seg"]) == ["road", "sky"] and described["top5"][0]["class"] == 2
    assert described["inverse_depth"] == {"min": -3.0, "median": pytest.approx(-0.5, abs=0.1),
                                          "max": 2.0}  # fmt: skip
    nowhere = {"inverse_depth": torch.full((2, 2), torch.nan)}
    assert set(to_json(nowhere)["inverse_depth"].values()) == {None}
    files = sorted(name for key, name in described.items() if key.endswith("_file"))
    assert files == ["a_depth.png", "a_inverse_depth.png", "a_labels.png", "a_normals.png"]
    codes = cv2.imread(str(tmp_path / "a_inverse_depth.png"), cv2.IMREAD_UNCHANGED)
    assert codes[0, 0] == 0 and codes[0, 1] == 1 and codes[-1, 0] == 65535
    assert np.allclose((codes[1:] - 1.0) / 65534 * 5 - 3, output["inverse_depth"][1:], atol=1e-3)


def test_inverse_depth_is_bright_where_it_is_near_and_grey_where_unknown() -> None:
    values = torch.full((H, W), -2.0)
    values[:, W // 2 :] = 5.0
    values[H // 2 :, : W // 2] = torch.inf
    drawn = draw_kinds(picture(), {"inverse_depth": values})["inverse_depth"].picture.astype(int)
    height, width = drawn.shape[:2]
    far, near, unknown = drawn[70, 30], drawn[70, width - 30], drawn[height - 30, 30]
    assert near.sum() > far.sum() + 300 and unknown.tolist() == [185, 190, 199]
    assert draw(picture(), {"inverse_depth": torch.zeros(H, W)}).std() > 0, "constant, with a bar"


def test_pixels_that_are_ignored_are_hatched() -> None:
    labels = np.zeros((H, W), np.uint8)
    labels[:, W // 2 :] = 255
    image = np.full((H, W, 3), 200, np.uint8)
    right = draw(image, {"sem_seg": labels}, STUFF)[:, -100:].reshape(-1, 3)
    assert len(np.unique(right, axis=0)) == 2 and right.max() < 160


class LabelModel(torch.nn.Module):
    """Two classifiers, segments and inverse depth; says which label it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, float]] = []

    def inference(self, task: str, samples: list[dict], label: str = "") -> list[dict]:
        self.asked.append((label, samples[0]["read_by"]))
        said = {"animals": outputs()["classes"][0], "places": outputs()["classes"][0]}
        said |= {"segments": outputs()["sem_seg"][0], "far": {"inverse_depth": inverse_depth()}}
        return [said[label]]


def test_label_heads_read_as_their_own_evaluations_and_outputs_are_joined(tmp_path: Path) -> None:
    model = LabelModel()
    seas = Metadata(classes=[f"sea {index}" for index in range(6)])
    parts = [
        Predictor(model, "student", lambda r, by=by: {**mapper(r), "read_by": by}, names, label=by)
        for by, names in (("animals", CLASSES), ("places", seas), ("segments", STUFF))
    ]
    joint = JointPredictor(parts, rest=["far"])
    _, image, output = joint.predict(picture())
    assert model.asked == [
        ("animals", "animals"), ("places", "places"), ("segments", "segments"), ("far", "segments"),
    ]  # fmt: skip
    assert list(output) == ["classes", "places.classes", "sem_seg", "inverse_depth"]
    described = joint.to_json(output)
    assert described["top5"][0]["name"] == "kind 2"
    assert described["places.top5"][0]["name"] == "sea 2"
    assert list(described["sem_seg"]) == ["road", "sky"]
    drawn = draw_kinds(image, output, joint.metadata)
    pictures = [drawn[key].picture for key in ("classes", "places.classes")]
    assert not np.array_equal(*pictures), "other names"
    assert joint.draw(image, output).shape[1] == 3 * fit(image).shape[1] + 2 * 12
    second = {"places.sem_seg": output["sem_seg"]}
    assert save_maps(second, tmp_path / "a") == {"places.sem_seg_file": "a_places_labels.png"}


def test_metadata_of_labels_prefers_datasets_of_one_kind() -> None:
    both = Metadata(thing_classes=["a thing"], stuff_classes=["a thing", "grass"])
    joined = joined_metadata({"boxes": both, "segments": STUFF})
    assert joined.get("thing_classes") == ["a thing"]
    assert joined.get("stuff_classes") == ["sky", "road"] and joined.get("ignore_label") == 255
