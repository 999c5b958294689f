"""The card and the JSON say how an exported backbone came to be, and nothing of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from gppf_d2.engine.hooks import routes_record
from gppf_d2.engine.transfer import extracted
from gppf_d2.export import card as model_card
from gppf_d2.export.backbone import export_backbone
from gppf_d2.tools.export_backbone import main
from tests.export.test_export_backbone import Run, make_run

SECRET = "/home/somebody/secret"
RUN = {
    "config_file": "joint.py",
    "command": f"train_net.py --config-file joint.py --data-root {SECRET}",
    "commit": "abc1234",
    "world_size": 16,
    "num_gpus": 8,
    "device": "Some GPU",
    "started": "2026-01-02 03:04:05",
    "torch": "2.1",
    "detectron2": "0.7",
    "gppf_d2": "0.1.0",
}
RESULTS = {
    "scenes": {"bbox/AP": 12.5, "bbox/APl": None, "bbox/AP-ball": 3.0},
    "parsing": {"sem_seg/mIoU": 34.56},
}
THIN = {"stem_out_channels": 8, "res2_out_channels": 8}
CONFIG = {
    "schedule": {"policy": "stratified"},
    "optimizer": {"_target_": "torch.optim.sgd.SGD", "lr": 0.02, "momentum": 0.9},
    "train": {
        "max_iter": 5,
        "output_dir": SECRET,
        "init_checkpoint": f"{SECRET}/start.pth",
        "init_route": f"{SECRET}/routes.json:objects",
        "accumulation": 2,
        "ema_decay": 0.0,
    },
    "tasks": {
        "scenes": {
            "train": ["toys_train", "more_toys_train"],
            "batch_size": 3,
            "weight": 2.5,
            "head": {"_target_": "detectron2.modeling.meta_arch.rcnn.GeneralizedRCNN"},
            "evaluators": [{"dataset": "toys_val"}],
        },
        "parsing": {"train": "ground_train", "batch_size": 7, "loss_weight": 0.1, "head": {}},
    },
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A checkpoint in its run folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    run = make_run(folder, 18, **THIN)
    run.config = {**run.config, **CONFIG}
    content = torch.load(run.checkpoint, weights_only=True)
    content |= {"config": OmegaConf.to_yaml(OmegaConf.create(run.config)), "temperature": 0.01}
    torch.save(content, run.checkpoint)
    (folder / "run.json").write_text(json.dumps(RUN))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "routes.json").write_text(json.dumps(routes_record(run.model, 5)))
    return run


def export(run: Run, path: Path, task: str | None = "parsing", **options: Any) -> tuple[str, dict]:
    """The card and the JSON of an export."""
    export_backbone(run.checkpoint, task, "timm", path, **options)
    card = Path(f"{path}.md").read_text()
    metadata = json.loads(Path(f"{path}.json").read_text())
    for text in (card, json.dumps(metadata)):
        assert "/home" not in text and str(path.parent) not in text and "None" not in text
    return card, metadata


def test_the_card_says_how_the_weights_came_to_be(run: Run, tmp_path: Path) -> None:
    card, metadata = export(run, tmp_path / "x.pth")
    assert card.startswith("---\nlibrary_name: timm\n")
    rows = {row.strip() for row in card.splitlines()}
    assert rows >= {
        "# ResNet-18 along the route of task `parsing`",
        "| parameters | 0.2 M, without a classifier |",
        "| `scenes` | `toys_train`, `more_toys_train` | GeneralizedRCNN | 2.5 | 3 | 1.0 |",
        "| `parsing` | `ground_train` | not known | 1.0 | 7 | 0.1 |",
        "| iterations | 5 of 5 |",
        "| optimizer | SGD, lr 0.02, momentum 0.9 |",
        "| started from | `start.pth`, route `routes.json:objects` |",
        "| config file | `joint.py` |",
        "| git commit of gppf_d2 | `abc1234` |",
        "| processes | 16 |",
        "| hardware | 8 x Some GPU in a machine |",
        "| mean, in grey levels 0 to 255 | 120, 115.5, 105.25 |",
        "| `scenes` | `toys_val` | bbox/AP | 12.5 |",
        "| `scenes` | `toys_val` | bbox/APl | n/a |",
        "| stem | 1 | 0.982 |  |",
    }
    results = card[card.index("## Results") :]
    assert results.index("sem_seg/mIoU") < results.index("bbox/AP"), "the source task comes first"
    assert "AP-ball" not in card and "all layers have decided" in card
    assert "not of the last iteration" not in card and "averaged" not in card
    assert "`toys_train`, `more_toys_train`, `ground_train`" in card[card.index("## Licence") :]
    assert "teachers" not in card, "no pseudo labels"
    facts = metadata["run"]
    assert facts["run"]["commit"] == "abc1234" and facts["iteration"] == facts["max_iter"] == 5
    assert facts["tasks"]["scenes"]["train"] == ["toys_train", "more_toys_train"]
    assert facts["results"]["parsing"] == {"sem_seg/mIoU": 34.56}
    assert metadata["num_units"] == 2 and metadata["num_parameters"] == 176712
    assert "timm has no ready-made model of these widths" in card


def test_what_nobody_says_is_not_known(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "results.json").write_text("{torn")
    card, metadata = export(run, tmp_path / "x.pth", "scenes", config={
        "input": run.config["input"], "backbone": {"depth": 18},
    })  # fmt: skip
    assert metadata["run"]["run"] is None and metadata["run"]["results"] is None
    assert "no run.json beside it" in card and "not beside the results.json" in card
    assert "| `scenes` | not known | not known | not known | not known |" in card
    assert "**Undecided in 9 of 9 layers**" in card


def test_results_that_are_not_of_these_weights_are_said_to_be_so(run: Run, tmp_path: Path) -> None:
    config = {**run.config, "train": {"max_iter": 9, "ema_decay": 0.9}}
    card, _ = export(run, tmp_path / "x.pth", config=config)
    assert "not of the last iteration" in card and "averaged parameters, which these" in card


def test_the_extracted_network_of_a_dynamic_run_exports_as_its_route_does(
    run: Run, tmp_path: Path
) -> None:
    content = torch.load(run.checkpoint, weights_only=True)
    plain = tmp_path / "run" / "model_extracted.pth"
    torch.save(extracted(content, "parsing"), plain)
    export(run, tmp_path / "wanted.pth")
    run.checkpoint = plain
    card, metadata = export(run, tmp_path / "given.pth")
    wanted, given = (
        torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("wanted", "given")
    )
    assert wanted.keys() == given.keys()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in given.items())
    assert metadata["route"] == run.route and metadata["num_units"] == 2
    assert "| stem | 1 | 0.982 |  |" in card and "`model_extracted.pth`" in card
    (tmp_path / "run" / "routes.json").unlink()
    card, metadata = export(run, tmp_path / "given.pth")
    assert metadata["route"] == run.route and "num_units" not in metadata
    assert "| stem | 1 |\n" in card


def test_a_run_of_one_unit_has_nothing_to_choose(tmp_path: Path) -> None:
    card, metadata = export(make_run(tmp_path, 18, num_units=1, **THIN), tmp_path / "x.pth")
    assert "there was nothing to choose" in card and metadata["route"] == [0] * 9


def test_the_route_of_a_file_is_taken_whatever_the_controllers_say(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [1 - unit for unit in run.route]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(other))
    card, metadata = export(run, tmp_path / "x.pth", task=None, route_file=file)
    assert metadata["route"] == other and metadata["route_file"] == "found.json"
    assert "along the route in `found.json`" in card and "Given by the route file" in card
    weight = torch.load(tmp_path / "x.pth", weights_only=True)["conv1.weight"]
    assert torch.equal(weight, run.state[f"backbone.stem.units.{other[0]}.conv1.weight"])

    common = ["--checkpoint", str(run.checkpoint), "--format", "timm", "--output"]
    routes = tmp_path / "run" / "routes.json"
    chosen = ["--route", str(routes), "--task", "parsing"]
    assert main([*common, str(tmp_path / "y.pth"), *chosen]) == 0
    assert json.loads((tmp_path / "y.pth.json").read_text())["route"] == run.route
    capsys.readouterr()
    file.write_text(json.dumps([0] * 17))
    for arguments, message in [
        ([], "No task is named"),
        (["--route", str(routes)], "has the routes of parsing, scenes; choose one"),
        (["--route", str(file)], "17 layers"),
        (["--route", str(tmp_path / "no.json")], "There is no route file"),
    ]:
        assert main([*common, str(tmp_path / "z.pth"), *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_labels_of_teachers_bring_licences_of_their_own() -> None:
    text = model_card._licence({"tasks": {"student": {"train": ["pseudo_pictures", "toys_train"]}}})
    assert "`pseudo_pictures`, `toys_train`" in text and "the licences of their weights" in text
