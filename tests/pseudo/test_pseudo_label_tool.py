"""The command that labels: what it says, and what bad input gets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gppf_d2.tools import pseudo_label
from tests.pseudo.labelling import CALLABLES, make_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("world") / "pictures")


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


def test_the_tool_labels_and_warns_of_corrupt_images_and_of_labels_that_hardly_exist(
    config, caplog
) -> None:
    package = logging.getLogger("gppf_d2")  # does not propagate once it is set up
    package.addHandler(caplog.handler)
    try:
        assert pseudo_label.main(["--config-file", config, "options.boxes.threshold=1.0"]) == 0
    finally:
        package.removeHandler(caplog.handler)
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "No labels for" in said and "1 images have no labels" in said
    assert "is complete: 11 images, 1 of them could not be labelled" in said
    assert "boxes (instances): images 10, instances 0" in said
    assert "Hardly anything passed the threshold 1 of 'boxes'" in said


def test_a_mapping_takes_the_place_of_a_teacher_and_null_leaves_it_out(config) -> None:
    other = "{_target_: gppf_d2.pseudo.RunTeacher, run: x, labels: {depth: depth}}"
    settings = pseudo_label.load_settings(config, [f"teachers.rules={other}"])
    assert set(settings.teachers["rules"]) == {"_target_", "run", "labels"}
    settings = pseudo_label.load_settings(config, [f"teachers.new={other}", "teachers.rules=null"])
    assert list(settings.teachers) == ["new"]
    settings = pseudo_label.load_settings(config, ["teachers.rules.labels={depth: {kind: depth}}"])
    assert list(settings.teachers["rules"].labels) == ["depth"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dataset=mini_scenes_train"], "gives both images="),
        (["images="], "gives neither images nor dataset"),
        (["images=/nowhere"], "no folder of images '/nowhere'"),
        (["images=", "dataset=nothing_of_the_kind"], "no dataset 'nothing_of_the_kind'"),
        (["output="], "output is empty"),
        (["batchsize=3"], "Did you mean 'batch_size'?"),
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
