"""The predict tool: what it writes, what it says when called wrongly. Model and config are
stubs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from gppf_d2.tools import contact_sheets, predict


class StubModel(torch.nn.Module):
    """Says the same of every image; a task "student" has three label heads."""

    heads = {"student": SimpleNamespace(heads=["segments", "classes", "far"])}

    def inference(self, task: str, samples: list[dict], label: str = "segments") -> list[dict]:
        size = samples[0]["height"], samples[0]["width"]
        labels = torch.zeros(2, *size)
        labels[1, 4:] = 1
        said = {
            "segments": {"sem_seg": labels},
            "classes": {"classes": torch.tensor([0.2, 0.8])},
            "far": {"inverse_depth": torch.rand(size)},
        }
        return [said[label] for _ in samples]


def identity(record: dict) -> dict:
    """Stands for an evaluation mapper."""
    return record


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Call the tool with inputs, task and overrides; returns its exit status."""
    lazy = {"_target_": "builtins.dict"}
    mapper = {"_target_": "operator.itemgetter", "item": 0}
    task = {"train": ["some_train"], "mapper": lazy, "batch_size": 1, "head": lazy}
    evaluation = {"dataset": "predict_tool_val", "evaluator": lazy, "mapper": mapper}
    tasks = {"parsing": {**task, "evaluators": [evaluation]}, "bare": task}
    of_labels = [{**evaluation, "label": label} for label in ("segments", "classes", "segments")]
    tasks["student"] = {**task, "evaluators": of_labels}
    seen: dict = {"overrides": None, "loaded": []}

    def load_config(path: str, overrides: list[str]):
        seen["overrides"] = list(overrides)
        return OmegaConf.create({"tasks": tasks})

    def load_model(cfg, checkpoint: str, tasks: list[str]) -> StubModel:
        seen["loaded"].append((checkpoint, tasks))
        return StubModel()

    monkeypatch.setattr(predict, "load_config", load_config)
    monkeypatch.setattr(predict, "load_model", load_model)
    monkeypatch.setattr(predict, "register_all", lambda: None)
    monkeypatch.setattr(predict, "instantiate", lambda node: identity if node else None)

    def run(*inputs: str, task: str = "parsing") -> int:
        fixed = ["--config-file", "c.yaml", "--checkpoint", "m.pth", "--task", task]
        return predict.main([*fixed, "--output", str(tmp_path / "out"), *map(str, inputs)])

    run.seen = seen
    run.output = tmp_path / "out"
    return run


def stub_sheets(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """A run whose config is that of ``call`` and whose checkpoints are of iteration 1,300."""
    (run / "config.yaml").write_text("")
    monkeypatch.setattr(contact_sheets, "load_config", lambda path: predict.load_config(path, []))
    monkeypatch.setattr(contact_sheets, "read_checkpoint", lambda *file, mmap: {"iteration": 1300})


def save_image(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_pictures_maps_and_json_are_written(call, tmp_path: Path, capsys) -> None:
    save_image(tmp_path / "in" / "a.png")
    save_image(tmp_path / "in" / "b.png")
    again = save_image(tmp_path / "other" / "a.jpg")
    assert call(tmp_path / "in", again, "train.device=cpu") == 0
    assert call.seen == {"overrides": ["train.device=cpu"], "loaded": [("m.pth", ["parsing"])]}
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Wrote 3 pictures and predictions.json to {call.output}"
    content = json.loads((call.output / "predictions.json").read_text())
    assert content["task"] == "parsing"
    assert [entry["picture"] for entry in content["images"]] == ["a.png", "b.png", "a-2.png"]
    first = content["images"][0]
    assert (first["height"], first["width"]) == (8, 12)
    assert first["sem_seg"] == {"class 0": 0.5, "class 1": 0.5}
    assert first["sem_seg_file"] == "a_labels.png"
    for entry in content["images"]:
        for key in ("picture", "sem_seg_file"):
            with Image.open(call.output / entry[key]) as image:
                image.load()


def test_all_label_heads_of_a_task_go_into_one_entry(call, tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png")
    assert call(image, task="student") == 0
    (entry,) = json.loads((call.output / "predictions.json").read_text())["images"]
    assert entry["sem_seg"] == {"class 0": 0.5, "class 1": 0.5}
    assert entry["top5"][0]["class"] == 1 and set(entry["inverse_depth"]) >= {"min", "max"}
    with Image.open(call.output / entry["picture"]) as picture:
        sheet = picture.size
    assert call(image) == 0
    with Image.open(call.output / "a.png") as picture:
        assert sheet[0] > 2 * picture.width and sheet[1] > 2 * picture.height, "four pictures"


def test_sheets_of_label_heads_are_drawn_from_their_own_datasets(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_image(tmp_path / "a.png")
    asked: list[str] = []

    def load_records(names: list[str]) -> list[dict]:
        asked.extend(names)
        return [{"file_name": str(file), "height": 8, "width": 12}]

    stub_sheets(monkeypatch, tmp_path)
    monkeypatch.setattr(contact_sheets, "load_records", load_records)
    written = contact_sheets.draw_sheets(tmp_path, ["student", "parsing"], "m.pth")
    names = [path.name for path in written]
    assert names == ["student.segments.png", "student.classes.png", "parsing.png"]
    assert asked == ["predict_tool_val"] * 3 and all(path.is_file() for path in written)


def test_options_of_the_sheets_reach_them_and_contradictions_are_refused(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    records = []
    for index in range(3):
        truth = np.full((8, 12), 1, np.uint8)
        truth[: 4 + index] = 0
        labels = tmp_path / f"labels{index}.png"
        Image.fromarray(truth).save(labels)
        file = save_image(tmp_path / f"{index}.png")
        size = {"height": 8, "width": 12}
        records.append({"file_name": str(file), "sem_seg_file_name": str(labels), **size})
    stub_sheets(monkeypatch, tmp_path)
    monkeypatch.setattr(contact_sheets, "load_records", lambda names: records)
    (tmp_path / "model_final.pth").write_bytes(b"")  # of a run whose other checkpoints are gone
    fixed = [str(tmp_path), "--tasks", "parsing", "--count", "1"]

    def told(*options: str) -> str:
        assert contact_sheets.main([*fixed, *options]) == 0
        with Image.open(tmp_path / "predictions" / "parsing.png") as sheet:
            return f"{sheet.info['Description']} {sheet.width}"

    worst, plain = told("--order", "worst"), told("--order", "worst", "--no-errors")
    assert worst.startswith(
        "Predictions of parsing · after 1,300 iterations. "
        "The 1 worst of 3 images by mean IoU. 2.png: mean IoU 0.58."
    )
    assert call.seen["loaded"][0][0].endswith("model_final.pth")
    assert worst[:-4] == plain[:-4] and worst != plain, "one column less"
    assert "The 1 best of 2 images (spread evenly over all 3)" in told(
        "--order", "best", "--among", "2"
    )
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        contact_sheets.main([*fixed, "--among", "5"])
    assert "--among goes with --order worst or best" in capsys.readouterr().err
    nowhere = str(tmp_path / "nowhere")
    for wrong, said in (
        ([*fixed, "--count", "0"], "show at least 1"),
        ([*fixed, "--min-score", "1.5"], "--min-score is 1.5; give a number from 0 to 1."),
        ([*fixed, "--tasks", "flying"], "Unknown task 'flying'"),
        ([nowhere], f"There is no run in '{nowhere}' (no config.yaml); give the output folder"),
    ):
        assert contact_sheets.main(wrong) == 2
        heard = capsys.readouterr().err
        assert heard.startswith("error: ") and said in heard and heard.count("\n") == 1


def test_folders_in_a_folder_are_looked_into_and_earlier_pictures_are_not(
    call, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    save_image(folder / "a.png")
    save_image(folder / "deep" / "er" / "a.png")
    other = ["--output", str(folder / "found")]
    for _ in range(2):
        assert call(folder, *other) == 0
        content = json.loads((folder / "found" / "predictions.json").read_text())
        assert [entry["picture"] for entry in content["images"]] == ["a.png", "a-2.png"]
        assert content["images"][1]["file"].endswith("deep/er/a.png")


def test_no_picture_takes_the_place_of_an_image(call, tmp_path: Path, capsys) -> None:
    file = save_image(tmp_path / "out" / "a.png")
    before = file.read_bytes()
    for given in (tmp_path / "out", file):
        assert call(given) == 2 and file.read_bytes() == before
        assert f"The image '{file}' lies in the folder" in capsys.readouterr().err
    assert call.seen["loaded"] == [] and call(save_image(tmp_path / "out" / "b.jpg")) == 0


def test_unreadable_image_is_named_left_out_and_remembered(call, tmp_path: Path, capsys) -> None:
    good = save_image(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(good.read_bytes()[:60])
    assert call(tmp_path / "in") == 1
    captured = capsys.readouterr()
    assert captured.out.endswith(f"Wrote 1 picture and predictions.json to {call.output}\n")
    assert "bad.png" in captured.err and "1 of 2 images could not be read" in captured.err
    content = json.loads((call.output / "predictions.json").read_text())
    assert [Path(entry["file"]).name for entry in content["images"]] == ["good.png"]


@pytest.mark.parametrize(
    ("inputs", "task", "sentence"),
    [
        (["image.png"], "flying", "Unknown task 'flying'; the config has parsing, bare, student."),
        (["image.png"], "bare", "Task 'bare' has no evaluation"),
        (["nowhere.png"], "parsing", "There is no file or folder"),
        (["empty"], "parsing", "has no image"),
        (["a.b=c"], "parsing", "No image is named"),
        (
            ["image.png", "--min-score", "-0.1"],
            "parsing",
            "--min-score is -0.1; give a number from",
        ),
        (["image.png", "--min-score", "nan"], "parsing", "--min-score is nan; give a number from"),
    ],
)
def test_wrong_calls_end_with_one_sentence(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, inputs, task, sentence
) -> None:
    monkeypatch.chdir(tmp_path)
    save_image(tmp_path / "image.png")
    (tmp_path / "empty").mkdir()
    assert call(*inputs, task=task) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1
    assert call.seen["loaded"] == []


def test_help_names_what_options_take_and_says_that_folders_are_searched() -> None:
    told = " ".join(predict.make_parser().format_help().split())
    for words in ("--config-file FILE", "--checkpoint FILE", "--output DIR", "--min-score S"):
        assert words in told
    assert "folders, which are searched with their subfolders" in told
