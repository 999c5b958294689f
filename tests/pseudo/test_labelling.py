"""Labelling a folder: every image once, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from gppf_d2.data.mappers.reading import already_decoded, load_image, read_image
from gppf_d2.data.pseudo_labels import read_labels, read_manifest
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo import CallableTeacher, Label, Teacher, label_images, store
from gppf_d2.pseudo.labeller import _Waiting
from gppf_d2.pseudo.store import LabelFolder
from tests.pseudo.labelling import (
    BROKEN,
    CALLABLES,
    COUNT,
    KINDS,
    equal,
    label,
    make_pictures,
    settings,
    teacher,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("world") / "pictures")


@pytest.fixture(scope="module")
def whole(pictures: Path) -> Path:
    """The folder of a labelling without interruption."""
    output = pictures.parent / "labels"
    label(pictures, output)
    return output


def test_every_image_is_there_once_with_all_its_labels(pictures: Path, whole: Path) -> None:
    manifest = read_manifest(whole)
    assert len(manifest) == COUNT and manifest.image_folder == str(pictures)
    assert manifest.images["folder"] == "../pictures"
    assert manifest.labelled().tolist() == [i for i in range(COUNT) if i != BROKEN]
    assert sorted(os.listdir(whole)) == ["labelling.json", "manifest.json"] + [
        f"shard-0000{shard}.arrow" for shard in range(3)
    ]
    for index in manifest.labelled().tolist():
        shard, row = manifest.place(index)
        found = read_labels({"pseudo_shard": shard, "pseudo_row": row})
        folder = "first" if index < 7 else "second"
        with Image.open(pictures / folder / f"{index:02d}.png") as image:
            pixels = np.asarray(image)
        bright = torch.from_numpy(pixels.copy()).float().mean(2).numpy() / 255
        np.testing.assert_allclose(found["depth"], 1 + 3 * bright, rtol=1e-3)
        np.testing.assert_allclose(found["relative"], bright - 0.5, atol=3e-4)
        assert [box["category_id"] for box in found["boxes"]] == [1, 0]
        assert len(found["classes"]) == 4 and found["segments"].shape == pixels.shape[:2]


def test_the_manifest_says_what_was_done(whole: Path) -> None:
    manifest = read_manifest(whole)
    boxes = manifest.labels["boxes"]
    assert (boxes.threshold, boxes.masks, boxes.teacher) == (0.2, True, "rules")
    assert boxes.counts == {
        "images": 10, "instances": 20, "masks": 20, "per_class": {"cat": 10, "dog": 10},
    }  # fmt: skip
    assert manifest.labels["segments"].threshold == 0.5
    share = manifest.labels["segments"].counts["labelled"]
    assert 0 < share <= 1 and manifest.labels["depth"].counts["labelled"] == 1
    assert len(manifest.teachers["rules"]["weights_hash"]) == 64 == len(manifest.image_hash)
    (broken,) = manifest.corrupt
    assert (broken["index"], broken["file_name"]) == (BROKEN, "first/05.png")
    text = (whole / "manifest.json").read_text()
    assert str(whole.parent) not in text.replace(CALLABLES, "")


@pytest.mark.parametrize("changes", [{"num_workers": 1}, {"batch_size": 5}])
def test_the_bytes_do_not_depend_on_workers_and_batches(pictures, whole, changes) -> None:
    output = pictures.parent / f"other-{next(iter(changes))}"
    label(pictures, output, **changes)
    assert equal(output, whole)


def test_parts_make_the_folder_of_one(pictures: Path, whole: Path) -> None:
    output = pictures.parent / "parts"
    first, second = (label(pictures, output, part=(i, 2)) for i in range(2))
    assert first.manifest is None and second.manifest is not None
    assert (first.images, second.images) == (7, 4)
    assert equal(output, whole)
    again = label(pictures, output)
    assert again.images == 0 and equal(output, whole)


class Killed(BaseException):
    """What stands for kill -9 within a process."""


@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("before", [True, False])
def test_a_death_at_any_file_leaves_a_folder_that_is_completed(
    pictures, whole, call: int, before: bool, monkeypatch, tmp_path_factory
) -> None:
    output = pictures.parent / f"killed-{call}-{before}"
    calls = []

    def dying(function: Callable) -> Callable:
        def replaced(source, target):
            calls.append(target)
            if len(calls) - 1 == call and before:
                (output / f".{Path(target).name}.0.tmp").write_bytes(b"half a")
                raise Killed
            function(source, target)
            if len(calls) - 1 == call:
                raise Killed

        return replaced

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", dying(os.replace))
        patch.setattr(store.os, "link", dying(os.link))
        if call < 5:
            with pytest.raises(Killed):
                label(pictures, output)
        else:
            label(pictures, output)
    label(pictures, output)
    assert equal(output, whole)


def test_a_file_that_somebody_writes_is_no_litter(tmp_path: Path) -> None:
    for name in (".dead.0.tmp", ".alive.0.tmp"):
        (tmp_path / name).write_text("half")
    with open(tmp_path / ".alive.0.tmp") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.remove_litter(tmp_path)
        assert os.listdir(tmp_path) == [".alive.0.tmp"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bias": 0.1}, r"teachers.rules.options.bias was 0.0 and is 0.1"),
        ({"options": {}}, r"labels.boxes.threshold was 0.2 and is 0.5"),
        ({"shard_size": 5}, r"shard_size was 4 and is 5"),
        ({"amp": "bfloat16"}, r"amp was \"float32\" and is \"bfloat16\""),
        ({"options": {"boxes": {"threshold": 0.2, "masks": False}}}, "labels.boxes.masks was true"),
    ],
)
def test_a_folder_of_another_labelling_is_left_alone(pictures, whole, changes, sentence) -> None:
    before = {name: (whole / name).stat().st_mtime_ns for name in os.listdir(whole)}
    with pytest.raises(UserError, match=f"begun with another labelling: {sentence}"):
        label(pictures, whole, **changes)
    assert before == {name: (whole / name).stat().st_mtime_ns for name in os.listdir(whole)}


def test_other_images_are_another_labelling(pictures: Path, whole: Path) -> None:
    with pytest.raises(UserError, match="images.count was 11 and is 7"):
        label(pictures / "first", whole)


def test_a_moved_teacher_is_the_same_one(whole: Path, tmp_path: Path) -> None:
    asked = json.loads((whole / "labelling.json").read_text())
    asked["teachers"]["rules"]["source"] = "elsewhere.py:rules"
    asked["images"]["folder"] = "elsewhere"
    LabelFolder(whole, asked)
    asked["teachers"]["rules"]["weights_hash"] = "0"
    with pytest.raises(UserError, match='teachers.rules.weights_hash was .* and is "0"'):
        LabelFolder(whole, asked)


def test_a_shard_of_another_labelling_is_found(pictures: Path, whole: Path) -> None:
    output = pictures.parent / "mixed"
    label(pictures, output, options={})
    os.remove(output / "manifest.json")
    (output / "shard-00001.arrow").write_bytes((whole / "shard-00001.arrow").read_bytes())
    with pytest.raises(ValueError, match="shard-00001.arrow' belongs to another labelling"):
        label(pictures, output, options={})


def test_an_image_is_decoded_once_for_all_teachers(pictures, tmp_path, monkeypatch) -> None:
    opened: list[int] = []
    original = Image.open

    def counting(*args, **kwargs):
        opened.append(1)
        return original(*args, **kwargs)

    labels = ({"depth": {"kind": "depth"}}, {"relative": {"kind": "inverse_depth"}})
    teachers = {name: CallableTeacher(f"{CALLABLES}:rules", one) for name, one in zip("ab", labels)}
    given = settings(pictures, tmp_path / "out", teachers=teachers, options={})
    monkeypatch.setattr(Image, "open", counting)
    label_images(given)
    assert len(opened) == COUNT


def test_a_decoded_image_is_given_to_its_own_records_only(pictures: Path) -> None:
    first, other = str(pictures / "first/00.png"), str(pictures / "first/01.png")
    image = Image.new("RGB", (7, 5), (1, 2, 3))
    with already_decoded(first, image):
        record = {"file_name": first}
        assert load_image(record) is image and (record["height"], record["width"]) == (5, 7)
        assert read_image({"file_name": first}, "BGR")[0, 0].tolist() == [3, 2, 1]
        assert load_image({"file_name": other}).size == (20, 30)
        with pytest.raises(SizeMismatchError):
            load_image({"file_name": first, "height": 9, "width": 7})
    assert load_image({"file_name": first}).size == (30, 20)


def test_a_folder_that_is_gone_is_not_taken_for_corrupt_images(pictures, tmp_path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(9):
        (images / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(
        UserError, match="None of the 9 images of shard 0 gets labels, from '0.png'"
    ):
        label(images, tmp_path / "out", shard_size=20)
    assert os.listdir(tmp_path / "out") == ["labelling.json"]
    Image.new("RGB", (8, 8)).save(images / "0.png")
    assert len(label(images, tmp_path / "out", shard_size=20).manifest["corrupt"]) == 8


class Sizes(Teacher):
    """Pads to multiples of 16 and remembers its batches."""

    labels = {"depth": Label("depth")}
    mappers, divisors = (), (16,)

    def __call__(self, batch):
        raise AssertionError

    def describe(self):
        raise AssertionError

    def to(self, device):
        raise AssertionError


def test_batches_have_images_of_one_padded_size_and_wait_within_bounds() -> None:
    waiting = _Waiting(Sizes(), batch_size=3)
    sizes = [(10, 16), (17, 30), (16, 9), (32, 17), (1, 1)]
    inputs = [[{"image": torch.zeros(3, *size)}] for size in sizes]
    batches = [waiting.add(index, one) for index, one in enumerate(inputs)]
    assert [[index for index, _ in batch] for batch in batches] == [[], [], [], [], [0, 2, 4]]
    assert [[index for index, _ in batch] for batch in waiting.rest()] == [[1, 3]]
    most = 0
    for index in range(100):  # all of different sizes
        waiting.add(index, [{"image": torch.zeros(3, 1, 16 * index + 1)}])
        most = max(most, waiting._count)
    assert most < 3 * 8 and waiting._count == sum(map(len, waiting.rest()))


def test_a_failing_teacher_ends_with_a_sentence_and_can_go_on(pictures, whole) -> None:
    output = pictures.parent / "failing"
    bad = {"rules": teacher(bias=0.0)}
    calls = []

    def failing(images):
        calls.append(len(images))
        if len(calls) == 4:
            return []
        return rules(images)

    rules, bad["rules"].label_images = bad["rules"].label_images, failing
    with pytest.raises(UserError, match="returned 0 outputs for 2 images"):
        label_images(settings(pictures, output, teachers=bad))
    label(pictures, output)
    assert equal(output, whole)


def test_outputs_that_are_no_labels_are_refused_first(pictures: Path, tmp_path: Path) -> None:
    for fault, sentence in (
        ("classes", "with the sum 3, expected 4 probabilities"),
        ("names", "names of 5"),
    ):
        options = {"fail_at": fault}
        kinds = (
            KINDS if fault == "classes" else {"classes": {"kind": "classes", "classes": "abcde"}}
        )
        made = CallableTeacher(f"{CALLABLES}:rules", kinds, options)
        with pytest.raises(UserError, match=f"Label 'classes'.*{sentence}"):
            label_images(settings(pictures, tmp_path / "out", teachers={"a": made}, options={}))
        assert not (tmp_path / "out").exists()


def test_two_teachers_of_one_label_are_refused(pictures: Path, tmp_path: Path) -> None:
    teachers = {"one": teacher(), "two": teacher()}
    with pytest.raises(UserError, match="'one' and 'two' both give 'classes'"):
        label_images(settings(pictures, tmp_path / "out", teachers=teachers))


def test_a_full_disk_is_told_and_the_next_command_goes_on(pictures, whole, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(pictures.parent))
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with pytest.raises(UserError, match="no room left in '.*/full'; make some"):
            label(pictures, Path("~/full"))
    left = sorted(os.listdir(pictures.parent / "full"))
    assert left == ["labelling.json", "shard-00000.arrow"]
    label(pictures, Path("~/full"))
    assert equal(pictures.parent / "full", whole)


def test_labels_do_not_lie_among_their_images(pictures: Path) -> None:
    with pytest.raises(UserError, match="lies among the images of"):
        label(pictures, pictures / "first" / "labels")
    assert not (pictures / "first" / "labels").exists()


def test_images_on_which_a_teacher_overflows_have_no_labels(pictures, whole, tmp_path) -> None:
    given = settings(pictures, tmp_path / "out", teachers={"a": teacher(fail_at="overflow")})
    outcome = label_images(given)
    corrupt = {entry["index"]: entry["error"] for entry in outcome.manifest["corrupt"]}
    upright = [index for index in range(COUNT) if index % 3 == 1]
    assert sorted(corrupt) == sorted([BROKEN, *upright]) and outcome.corrupt == len(corrupt)
    assert corrupt[1] == "label 'classes': the teacher's probabilities are not finite"
    counts = {n: label["counts"]["images"] for n, label in outcome.manifest["labels"].items()}
    assert set(counts.values()) == {COUNT - len(corrupt)}
    assert read_labels({"pseudo_shard": str(tmp_path / "out/shard-00000.arrow"), "pseudo_row": 0})
