"""The suite: many configs in rows and columns, skipped, resumed, failing; one table at the end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from gppf_d2.tools import suite
from tests.engine.runs import PROJECT, QUICK, train_config

CONFIG = """
input, backbone, gates, schedule, optimizer, lr_multiplier = {{}}, {{}}, {{}}, {{}}, {{}}, {{}}
tasks = dict({name}=dict())
train = dict(max_iter={iterations}, output_dir="", seed={seed}, sizes=[1])
paper = dict(table="Table 0", metric="voc/AP50", rows={{"Others": {other}, "Theirs": {theirs}}})
"""

# What the suite needs of train_net.py; files beside it say what goes wrong.
TRAIN_NET = """
import json, os, signal, sys, time
from pathlib import Path
here, line = Path(__file__).parent, sys.argv[1:]
name = Path(line[line.index("--config-file") + 1]).stem
values = dict(item.split("=", 1) for item in line if "=" in item)
output = Path(values["train.output_dir"])
with open(here / "calls.txt", "a") as file:
    file.write(" ".join([name, *line[2:]]) + "\\n")
left = {"early": [], "halfway": ["model_0000005.pth"], "late": ["model_final.pth"]}
for sign, files in left.items():
    if (here / f"{name}.{sign}").is_file():
        (here / f"{name}.{sign}").unlink()
        for file in files:
            (output / file).touch()
        sys.exit(3)
if (here / f"{name}.waits").is_file():
    def stop(*_):
        (output / "model_0000005.pth").touch()
        sys.exit(130)
    signal.signal(signal.SIGTERM, stop)
    (here / f"{name}.waits").unlink()
    time.sleep(20)
(output / "model_final.pth").touch()
value = 10 * int(values.get("train.seed", 4)) + len(name)
text = json.dumps({"task": {"voc/AP50": value, "voc/AP50-a": 1.0}})
(output / "results.json").write_text(text)
"""


class Project:
    """A folder with configs and a script in place of ``train_net.py``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "suite"
        (folder / "train_net.py").write_text(TRAIN_NET)
        self.config("one", 7.0)
        self.config("three", 8.0)

    def config(self, name: str, theirs: float) -> None:
        text = CONFIG.format(name=name, iterations=1000, seed=4, other=None, theirs=theirs)
        (self.folder / f"{name}.py").write_text(text)

    def run(self, *more: str, names: tuple[str, ...] = ("one", "three")) -> int:
        configs = [str(self.folder / f"{name}.py") for name in names]
        return suite.main([*configs, "--output", str(self.output), *more])

    def goes_wrong(self, name: str, how: str) -> None:
        (self.folder / f"{name}.{how}").touch()

    def calls(self) -> list[str]:
        """What was run since the last look, without the output folders."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.is_file() else []
        path.unlink(missing_ok=True)
        return [line.rpartition(" train.output_dir=")[0] for line in lines]

    def table(self) -> dict[str, dict]:
        content = json.loads((self.output / "table.json").read_text())
        return {row["name"]: {**row["values"], "mean": row["mean"]} for row in content["rows"]}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_rows_and_columns(project: Project, capsys: pytest.CaptureFixture) -> None:
    rows = ("--rows", "first=", "second=train.seed=6,train.sizes=[1,2]")
    assert project.run("--num-processes", "2", *rows, "train.seed=5") == 0
    launch = "--num-processes 2 train.seed=5"
    assert project.calls() == [
        f"one {launch}",
        f"three {launch}",
        f"one {launch} train.seed=6 train.sizes=[1,2]",
        f"three {launch} train.seed=6 train.sizes=[1,2]",
    ]
    assert (project.output / "second/three/results.json").is_file()
    assert project.table() == {
        "first": {"one": 53, "three": 55, "mean": 54},
        "second": {"one": 63, "three": 65, "mean": 64},
        "Others": {"one": None, "three": None, "mean": None},
        "Theirs": {"one": 7.0, "three": 8.0, "mean": 7.5},
    }
    text = (project.output / "table.md").read_text()
    assert text.splitlines() == [
        "|  | one | three | mean |",
        "| --- | ---: | ---: | ---: |",
        "| **first** | 53.0 | 55.0 | 54.0 |",
        "| **second** | 63.0 | 65.0 | 64.0 |",
        "| Others, Table 0 | - | - | - |",
        "| Theirs, Table 0 | 7.0 | 8.0 | 7.5 |",
        "",
        "Metric: voc/AP50.",
    ]
    said = capsys.readouterr().out
    assert text in said and "[4/4] second/three: 1,000 iterations into" in said
    assert "[4/4] second/three: voc/AP50 65 after 0:00:0" in said and "0:00:00 left" in said


def test_it_goes_on_where_it_ended(project: Project, capsys: pytest.CaptureFixture) -> None:
    project.config("seven", 9.0)
    project.config("twelve", 9.0)
    names = ("one", "three", "seven", "twelve")
    for name, how in zip(names[1:], ("early", "halfway", "late")):
        project.goes_wrong(name, how)
    assert project.run(names=names) == 1
    assert project.calls() == list(names)
    assert project.table()["ours"] == {
        "one": 43, "three": None, "seven": None, "twelve": None, "mean": None,
    }  # fmt: skip
    said = capsys.readouterr()
    assert "error: failed: ours/three, ours/seven, ours/twelve; see log.txt" in said.err
    assert "[2/4] ours/three: status 3 after" in said.out

    assert project.run(names=names) == 0
    assert project.calls() == ["three", "seven --resume", "twelve --eval-only"]
    assert project.table()["ours"]["mean"] == 44.75
    assert "ours/one: finished before, voc/AP50 43" in capsys.readouterr().out
    assert project.run(names=names) == 0 and project.calls() == []


def test_an_evaluation_on_the_way_is_no_result(project: Project) -> None:
    project.goes_wrong("one", "halfway")
    assert project.run() == 1
    results = {"task": {"voc/AP50": 11.0}}
    (project.output / "ours/one/results.json").write_text(json.dumps(results))
    assert project.run("--table-only") == 0
    assert project.table()["ours"]["one"] is None


def test_the_table_alone_takes_what_is_there(project: Project) -> None:
    project.run("--rows", "b=", "a=train.seed=5")
    project.calls()
    (project.output / "table.json").unlink()
    assert project.run("--table-only") == 0 and project.calls() == []
    assert list(project.table()) == ["a", "b", "Others", "Theirs"]
    by_hand = project.output / "by_hand/one"
    by_hand.mkdir(parents=True)
    (by_hand / "results.json").write_text('{"task": {"voc/AP50": 0.5}}')
    assert project.run("--table-only") == 0
    assert project.table()["by_hand"]["one"] is None  # it is not trained to the end
    (by_hand / "model_final.pth").touch()
    assert project.run("--table-only", names=("one",)) == 0
    assert project.table()["by_hand"] == {"one": 0.5, "mean": 0.5}
    assert "| **by_hand** | 0.500 |\n" in (project.output / "table.md").read_text()


def test_a_config_without_the_paper_s_rows_has_the_metric_of_its_task(project: Project) -> None:
    path = project.folder / "one.py"
    path.write_text(path.read_text().partition("paper =")[0])
    assert project.run() == 0
    assert project.table()["ours"] == {"one": 43, "three": 45, "mean": 44}
    assert project.table()["Theirs"] == {"one": None, "three": 8.0, "mean": None}


def test_a_folder_with_other_settings_is_left_alone(
    project: Project, capsys: pytest.CaptureFixture
) -> None:
    project.goes_wrong("three", "early")
    assert project.run("train.seed=5", names=("three",)) == 1
    assert project.run("train.seed=6", names=("three",)) == 0  # nothing had come of it
    project.calls()
    assert project.run("train.seed=7", names=("three",)) == 2
    assert (
        "holds a run with the overrides train.seed=6, not train.seed=7" in capsys.readouterr().err
    )
    assert project.calls() == []


def test_sigterm_reaches_the_run_and_ends_the_suite(
    project: Project, capsys: pytest.CaptureFixture
) -> None:
    project.goes_wrong("one", "waits")

    def stop() -> None:
        while (project.folder / "one.waits").is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    assert project.run() == 130
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert project.calls() == ["one"] and "Stopped" in capsys.readouterr().err
    assert project.run() == 0
    assert project.calls() == ["one --resume", "three"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rows", "a b=train.seed=3"), "The row 'a b=train.seed=3' is not NAME="),
        (("--rows", "a"), "The row 'a' is not NAME="),
        (("--rows", "a=", "a="), "two rows 'a'"),
        (("--data-root", "nowhere"), "--data-root 'nowhere' is not a folder"),
        (("train.output_dir=x",), "give --output DIR"),
        (("train.sed=1",), "Did you mean 'seed'"),
        (("--train-net", "nowhere.py"), "--train-net 'nowhere.py' is not a file"),
        (("nowhere.py",), "There is no config file 'nowhere.py'"),
        (("{folder}/more/one.py",), "Two configs are named 'one'"),
        (("{folder}/two_tasks.py",), "has the tasks a, b; a suite has one number"),
        (("{folder}/odd.py",), "paper of 'odd' has 'metrics'; it takes 'table', 'metric'"),
    ],
)
def test_bad_input_gets_a_sentence_before_anything_runs(
    project: Project, arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    text = (project.folder / "one.py").read_text()
    (project.folder / "more").mkdir()
    (project.folder / "more/one.py").write_text(text)
    two = text.replace("one=dict()", "a=dict(), b=dict()")
    (project.folder / "two_tasks.py").write_text(two)
    (project.folder / "odd.py").write_text(text.replace("metric=", "metrics="))
    assert project.run(*(text.format(folder=project.folder) for text in arguments)) == 2
    assert sentence in capsys.readouterr().err
    assert project.calls() == []


def test_train_net_is_looked_for_above_the_config(tmp_path: Path) -> None:
    real = PROJECT / "configs/finetune/uodb/kitti.py"
    assert suite.find_train_net(real) == PROJECT / "train_net.py"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_real_twins_run_through_it(official_root: Path, tmp_path: Path) -> None:
    pretrained = tmp_path / "pretrained"
    data = ("--data-root", str(official_root))
    train_config(QUICK / "pretrain/gppf_r50.py", pretrained, *data, "train.max_iter=2")
    configs = [str(QUICK / f"finetune/uodb/{name}.py") for name in ("kitti", "clipart")]
    line = [*configs, "--output", str(tmp_path / "suite"), "--num-processes", "2", *data]
    line += [f"train.init_checkpoint={pretrained}/model_final.pth", "train.max_iter=2"]
    assert suite.main([*line, "--rows", "fixed=", "dynamic=train.init_route=dynamic"]) == 0
    table = json.loads((tmp_path / "suite/table.json").read_text())
    assert [column["metric"] for column in table["columns"]] == ["voc/AP50", "voc/AP50"]
    fixed, dynamic = table["rows"]  # and none of the paper: a miniature does not meet its numbers
    assert (fixed["name"], dynamic["name"]) == ("fixed", "dynamic")
    assert all(0 <= value <= 100 for row in (fixed, dynamic) for value in row["values"].values())
