"""Labelling a folder: every image once, whatever happens in between; and what bad input gets."""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gppf_d2.data.pseudo_labels import read_labels, read_manifest
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo import CallableTeacher, Label, Settings, Teacher, label_images, store
from gppf_d2.pseudo.labeller import _Waiting
from gppf_d2.pseudo.store import LabelFolder
from gppf_d2.tools import pseudo_label

CALLABLES = str(Path(__file__).with_name("callables.py"))
KINDS = {
    "classes": {"kind": "classes", "classes": list("abcd")},
    "boxes": {"kind": "instances", "classes": ["cat", "dog"]},
    "segments": {"kind": "sem_seg", "classes": ["dark", "bright"]},
    "depth": {"kind": "depth"},
    "relative": {"kind": "inverse_depth"},
}
COUNT, BROKEN = 11, 5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven small pictures of three sizes in two folders; number 5 is cut off."""
    root = tmp_path_factory.mktemp("world") / "pictures"
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        size = [(20, 30), (30, 20), (24, 24)][index % 3]
        folder = root / ("first" if index < 7 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    broken = root / "first" / f"{BROKEN:02d}.png"
    broken.write_bytes(broken.read_bytes()[:300])
    return root


def teacher(**options) -> CallableTeacher:
    return CallableTeacher(f"{CALLABLES}:rules", KINDS, options)


def settings(pictures: Path, output: Path, **changes) -> Settings:
    given = {
        "images": str(pictures), "output": str(output), "teachers": {"rules": None},
        "options": {"boxes": {"threshold": 0.2}}, "shard_size": 4, "batch_size": 2,
        "num_workers": 0, "device": "cpu",
    }  # fmt: skip
    return Settings(**{**given, **changes})


def label(pictures: Path, output: Path, part=(0, 1), bias: float = 0.0, **changes):
    teachers = {"rules": teacher(bias=bias)}
    return label_images(settings(pictures, output, **changes), teachers, part)


@pytest.fixture(scope="module")
def whole(pictures: Path) -> Path:
    """The folder of a labelling without interruption."""
    output = pictures.parent / "labels"
    label(pictures, output)
    return output


def equal(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = sorted(os.listdir(one))
    return names == sorted(os.listdir(other)) and not any(
        not filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


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
    given = settings(pictures, tmp_path / "out", options={})
    monkeypatch.setattr(Image, "open", counting)
    label_images(given, teachers)
    assert len(opened) == COUNT


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
        label_images(settings(pictures, output), bad)
    label(pictures, output)
    assert equal(output, whole)


CONFIG = """
from detectron2.config import LazyCall as L
from gppf_d2.pseudo import CallableTeacher, RunTeacher
labelling = dict(images={images!r}, output={output!r}, shard_size=4, num_workers=0, device="cpu")
teachers = dict(rules=L(CallableTeacher)(function={callables!r}, labels=dict(
    depth=dict(kind="depth"), boxes=dict(kind="instances"))))
options = dict()
"""


@pytest.fixture
def config(pictures: Path, tmp_path: Path) -> str:
    path = tmp_path / "labels.py"
    output, callables = str(tmp_path / "out"), f"{CALLABLES}:rules"
    path.write_text(CONFIG.format(images=str(pictures), output=output, callables=callables))
    return str(path)


def run_tool(capsys, *arguments: str) -> tuple[int, str]:
    status = pseudo_label.main(list(arguments))
    return status, capsys.readouterr().err


def test_the_tool_labels_and_warns_of_corrupt_images(config, capsys) -> None:
    status = pseudo_label.main(["--config-file", config, "options.boxes.threshold=0.95"])
    assert status == 0
    captured = capsys.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert "No labels for" in said and "1 images could not be read" in said
    assert "is complete: 11 images, 1 of them without labels" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dataset=mini_scenes_train"], "gives both images="),
        (["images="], "gives neither images nor dataset"),
        (["images=/nowhere"], "no folder of images '/nowhere'"),
        (["images=", "dataset=nothing_of_the_kind"], "no dataset 'nothing_of_the_kind'"),
        (["output="], "output is empty"),
        (["batchsize=3"], "'batchsize=3' is not key=value"),
        (["batch_size=no"], "batch_size is 'no'"),
        (["device=tpu"], "device is 'tpu'"),
        (["amp=int8"], "amp is 'int8'"),
        (["--shard", "2/2"], "--shard is '2/2'; write i/n"),
        (["options.boxez.threshold=0.3"], "Did you mean 'boxes'"),
        (["options.boxes.top_k=3"], "options.boxes.top_k: labels of kind instances have"),
        (["options.boxes.threshold=50"], "options.boxes.threshold is 50"),
        (["teachers.rules.labels.depth.kind=normals"], "kind 'normals', which cannot be stored"),
        (["teachers.rules.function=nowhere.py:rules"], "no file of a teacher 'nowhere.py'"),
        (["teachers.rules.function=rules"], "function is 'rules'; write 'file.py:name'"),
        ([f"teachers.rules.function={CALLABLES}:other"], "has no function 'other'"),
        ([f"teachers.rules.function={CALLABLES}:nothing"], "returned a NoneType"),
        (["teachers.rules.optoins=1"], "teachers.rules: "),
        (["teachers.other.run=x"], "teachers.other is {'run': 'x'}; write L(RunTeacher)"),
        (["labelling.shards=4"], "`labelling` has no key 'shards'"),
    ],
)
def test_bad_input_gets_one_sentence_before_anything_is_written(
    config, capsys, tmp_path: Path, arguments, sentence
) -> None:
    status, said = run_tool(capsys, "--config-file", config, *arguments)
    assert status == 2 and sentence in said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_written_into(config, capsys, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    status, said = run_tool(capsys, "--config-file", config)
    assert status == 2 and "holds other things ('thesis.tex')" in said


def test_two_teachers_of_one_label_are_refused(pictures: Path, tmp_path: Path) -> None:
    teachers = {"one": teacher(), "two": teacher()}
    with pytest.raises(UserError, match="'one' and 'two' both give 'classes'"):
        label_images(settings(pictures, tmp_path / "out"), teachers)
