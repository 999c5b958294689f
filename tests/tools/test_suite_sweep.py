"""The suite with ``--sweep``: every config of every row is searched, its last training is the cell.

The sweeps run in this process, with the command lines that the suite makes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gppf_d2.tools import suite, sweep
from tests.tools.test_sweep import CONFIG, FOLDER, is_search, rows, starts

PLAIN = """
input = backbone = gates = schedule = lr_multiplier = {}
tasks = {"t": {"train": "all", "batch_size": 1}}
optimizer = {"lr": 0.5, "weight_decay": 0.0}
train = {"output_dir": "", "device": "cpu", "max_iter": 1}
"""
SWEEP = """
sweep = {
    "metric": "classification/top1",
    "grid": {"optimizer.lr": [0.001, 0.01]},
    "search": ["tasks.t.train=some"],
}
"""


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is trained. Sweeps are functions here; the stub of a training is a process."""
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "starts.txt"))
    processes = suite.execute

    def execute(line: list[str]) -> tuple[int, bool]:
        if line[1:3] == ["-m", "gppf_d2.tools.sweep"]:
            return sweep.main(line[3:]), False
        return processes(line)

    monkeypatch.setattr(suite, "execute", execute)
    return tmp_path / "starts.txt"


def run(output: Path, *more: str, configs: tuple[str, ...] = (CONFIG,)) -> int:
    line = [*configs, "--output", str(output), "--train-net", str(FOLDER / "stub_train.py")]
    return suite.main([*line, *more])


def written(folder: Path, **texts: str) -> tuple[str, ...]:
    """Config files of these names."""
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    return tuple(str(folder / f"{name}.py") for name in texts)


def values(output: Path) -> dict[str, dict[str, float | None]]:
    table = json.loads((output / "table.json").read_text())
    return {row["name"]: row["values"] for row in table["rows"]}


def test_every_row_is_searched_and_its_last_training_is_the_cell(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture
) -> None:
    output, configs = tmp_path / "suite", written(tmp_path, swept=PLAIN + SWEEP, plain=PLAIN)
    line = ("--sweep", "--rows", "short=", "long=train.max_iter=5")
    assert run(output, *line, configs=configs) == 0
    expected = {"swept": 78.0, "plain": 80.0}
    assert values(output) == {"short": expected, "long": expected}
    for row in ("short", "long"):
        assert len(rows(output / row / "swept")) == 2
        assert (output / row / "swept/final/results.json").is_file()
    finals = [start[0] for start in starts(log) if not is_search(start)]
    assert sorted(finals) == [0.01, 0.01, 1.0, 1.0]
    said = capsys.readouterr().out
    assert "[1/4] short/swept: 2 points and the best once more, 3 iterations into" in said
    assert "[1/4] short/swept: classification/top1 78 after" in said
    assert "[3/4] long/swept: 2 points and the best once more, 15 iterations" in said
    assert "[4/4] long/plain: 5 iterations into" in said

    before = len(starts(log))
    assert run(output, *line, configs=configs) == 0  # nothing is trained again
    assert len(starts(log)) == before
    assert run(output, "--table-only", configs=configs) == 0
    assert list(values(output)) == ["long", "short"]


def test_options_reach_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []
    monkeypatch.setattr(suite, "execute", lambda line: (lines.append(line) or 0, False))
    options = ("--workers", "2", "--num-gpus", "1", "--retry-failed", "--data-root", str(tmp_path))
    assert run(tmp_path / "suite", "--sweep", *options, "train.max_iter=5", "--rows", "a=") == 0
    (line,) = lines
    assert line[1:3] == ["-m", "gppf_d2.tools.sweep"]
    args = sweep.parse_arguments(line[3:])
    assert (args.workers, args.num_gpus, args.retry_failed) == (2, 1, True)
    assert (args.data_root, args.overrides) == (str(tmp_path), ["train.max_iter=5"])
    assert Path(args.output) == tmp_path / "suite/a/sweep_config"


def test_a_sweep_that_failed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output, configs = tmp_path / "suite", written(tmp_path, swept=PLAIN + SWEEP)
    monkeypatch.setenv("STUB_ERROR", "There is no dataset 'some'.")
    assert run(output, "--sweep", configs=configs) == 1
    assert values(output) == {"ours": {"swept": None}}
    assert "error: failed: ours/swept" in capsys.readouterr().err
    monkeypatch.delenv("STUB_ERROR")
    assert run(output, "--sweep", configs=configs) == 1  # points that failed stay so, until
    assert run(output, "--sweep", "--retry-failed", configs=configs) == 0
    assert values(output) == {"ours": {"swept": 78.0}}


def test_a_sweep_s_folder_and_a_single_run_s_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    point = ("--sweep", "sweep.grid.lr=[0.01]", "sweep.grid.decay=[0]")
    assert run(one, *point) == 0
    assert run(one) == 2
    assert "holds a sweep, and this suite goes without --sweep" in capsys.readouterr().err
    assert run(one, "--sweep") == 2
    assert "with the overrides sweep.grid.lr=[0.01] sweep.grid.decay=[0]" in capsys.readouterr().err
    assert run(two) == 0
    assert run(two, "--sweep") == 2
    assert "holds a single run, and this suite goes with --sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--sweep", "optimizer.lr=0.1"), "The override of 'optimizer.lr' is the sweep's own"),
        (("--sweep", "sweep.grid.lr=[1,1]"), "names a value twice"),
        (("--workers", "2"), "--workers is an option of sweeps; give --sweep too"),
        (("--retry-failed",), "--retry-failed is an option of sweeps"),
        (("--sweep", "--workers", "0"), "--workers is 0; give 1 or more"),
    ],
)
def test_bad_input_gets_a_sentence_before_anything_runs(
    tmp_path: Path, log: Path, more: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    try:
        status = run(tmp_path / "suite", *more)
    except SystemExit as end:
        status = end.code
    assert status == 2 and sentence in capsys.readouterr().err
    assert not log.exists()


def test_sweeping_needs_a_section(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(tmp_path / "suite", "--sweep", configs=written(tmp_path, plain=PLAIN)) == 2
    assert "--sweep needs a config with a `sweep` section" in capsys.readouterr().err
