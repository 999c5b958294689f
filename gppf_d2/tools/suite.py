"""Run many configs one after the other and put their results into one table.

    python -m gppf_d2.tools.suite CONFIG [CONFIG ...] --output DIR
        [--num-processes N | --num-gpus N] [--data-root D]
        [--rows NAME=key=value,key=value ...] [--table-only] [key=value ...]

Every config is run by train_net.py into DIR/<row>/<name of the config>, with the overrides of the
command line and then those of the row; without --rows there is one row, "ours". Several rows are
several settings of the same configs:

    --rows objects365= in21k=train.init_route=in21k dynamic=train.init_route=dynamic

Called again, it leaves out what is finished, evaluates what is only trained and resumes what was
interrupted. A config that fails does not keep the others from running; the exit status is 1 then.
DIR/table.md and DIR/table.json hold all rows in DIR and those of the paper (`paper` in the
configs); they are written after every run. --table-only runs nothing.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from gppf_d2.analysis.suite_table import (
    RECORD,
    Column,
    build_table,
    is_finished,
    measured,
    read_record,
    to_markdown,
)
from gppf_d2.engine.checkpoint import Checkpointer, write_atomically
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError

NEXT_OVERRIDE = re.compile(r",(?=[+~]?[\w.]+=)")  # values may have commas: [1,2]
INTERRUPTED = 130


@dataclass(frozen=True)
class Run:
    """One config with one row's overrides.

    Args:
        row, column: where it stands in the table.
        config: the file.
        overrides: ``key=value`` strings, the row's last.
        folder: its output.
        iterations: how many it trains.
    """

    row: str
    column: Column
    config: Path
    overrides: tuple[str, ...]
    folder: Path
    iterations: int

    @property
    def name(self) -> str:
        return f"{self.row}/{self.column.name}"


def parse_rows(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Rows of the command line, ``NAME=key=value,key=value``, as name -> overrides.

    Raises:
        UserError: no name, a name that cannot be a folder, a name twice.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, separator, overrides = text.partition("=")
        if not separator or not re.fullmatch(r"[\w-]+", name):
            raise UserError(
                f"The row {text!r} is not NAME=key=value,key=value with a name of letters, digits, "
                "'_' and '-'; a row without overrides ends in '='."
            )
        if name in rows:
            raise UserError(f"There are two rows {name!r}; give them different names.")
        rows[name] = tuple(part for part in NEXT_OVERRIDE.split(overrides) if part)
    return rows


def read_columns(configs: Sequence[Path]) -> dict[Path, Column]:
    """What the table says of every config.

    Raises:
        UserError: a config that cannot be read, several tasks in one, or two of one name.
        ValueError: a `paper` that cannot be meant.
    """
    columns: dict[Path, Column] = {}
    for config in configs:
        cfg = load_config(str(config))
        if len(cfg.tasks) > 1:
            raise UserError(
                f"{str(config)!r} has the tasks {', '.join(cfg.tasks)}; a suite has one number for "
                "each config and takes configs of one task."
            )
        if config.stem in (column.name for column in columns.values()):
            raise UserError(
                f"Two configs are named {config.stem!r}, and the table has one column for each; "
                "run them in suites of their own."
            )
        paper = OmegaConf.to_container(cfg).get("paper")
        columns[config] = Column.of(config.stem, paper)
    return columns


def plan(
    columns: Mapping[Path, Column],
    rows: Mapping[str, tuple[str, ...]],
    overrides: Sequence[str],
    output: Path,
) -> list[Run]:
    """All runs, row by row, with every override checked.

    Raises:
        UserError: an override that cannot be read, or a folder that holds a run with other
            settings.
    """
    runs = []
    for row, of_row in rows.items():
        given = (*overrides, *of_row)
        if any(text.lstrip("+~").startswith("train.output_dir=") for text in given):
            raise UserError("A suite names the output folders itself; give --output DIR.")
        for config, column in columns.items():
            iterations = int(load_config(str(config), given).train.max_iter)
            folder = output / row / column.name
            runs.append(Run(row, column, config, given, folder, iterations))
            _check_settings(runs[-1])
    return runs


def _check_settings(run: Run) -> None:
    record = read_record(run.folder)
    if record is None or not next(run.folder.glob("model_*.pth"), None):
        return  # nothing is there that other settings could mix with
    if record["overrides"] != list(run.overrides):
        raise UserError(
            f"{str(run.folder)!r} holds a run with the overrides "
            f"{' '.join(record['overrides']) or '(none)'}, not {' '.join(run.overrides) or 'none'};"
            " give the row another name, another --output, or remove the folder."
        )


def find_train_net(config: Path) -> Path:
    """``train_net.py`` in the nearest folder above a config, or in the current one.

    Raises:
        UserError: there is none.
    """
    for folder in (*config.resolve().parents, Path.cwd()):
        if (folder / "train_net.py").is_file():
            return folder / "train_net.py"
    raise UserError(f"There is no train_net.py above {str(config)!r}; name it with --train-net.")


def command_of(run: Run, script: Path, launch: Sequence[str]) -> list[str]:
    """The command line that begins a run, goes on with it, or evaluates it.

    Args:
        run: one that is not finished.
        script: ``train_net.py``.
        launch: options of every run: processes, GPUs, data root.
    """
    line = [sys.executable, str(script), "--config-file", str(run.config), *launch]
    if (run.folder / "model_final.pth").is_file():
        line.append("--eval-only")
    elif Checkpointer(run.folder).files():
        line.append("--resume")
    return [*line, *run.overrides, f"train.output_dir={run.folder}"]


def execute(line: Sequence[str]) -> tuple[int, bool]:
    """Run a command to its end.

    Ctrl-C reaches it on its own; SIGTERM is passed on, so that it stops with a checkpoint.

    Returns:
        Its exit status, and whether we were told to stop.
    """
    process = subprocess.Popen(line)
    told: list[int] = []

    def stop(number: int, _frame: object) -> None:
        told.append(number)
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait(), bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(
    runs: Sequence[Run], script: Path, launch: Sequence[str], after: Callable[[], object]
) -> int:
    """Run what is not finished.

    Args:
        runs: from ``plan``.
        script: ``train_net.py``.
        launch: options of every run.
        after: called after every run.

    Returns:
        The exit status: 0, 1 where a run failed, 130 where the suite was told to stop.
    """
    waiting = [run for run in runs if not is_finished(run.folder)]
    for run in runs:
        if run not in waiting:
            print(f"{run.name}: finished before, {_result(run)}", flush=True)
    failed: list[str] = []
    begun, done = time.monotonic(), 0
    for number, run in enumerate(waiting, start=1):
        place = f"[{number}/{len(waiting)}] {run.name}"
        print(f"{place}: {run.iterations:,} iterations into {run.folder}", flush=True)
        start = time.monotonic()
        line = command_of(run, script, launch)
        _record(run, None)
        status, told = execute(line)
        _record(run, status)
        after()
        done += run.iterations
        left = sum(other.iterations for other in waiting[number:])
        rest = _duration((time.monotonic() - begun) / done * left)
        how = _result(run) if status == 0 else f"status {status}"
        print(
            f"{place}: {how} after {_duration(time.monotonic() - start)}, {rest} left", flush=True
        )
        if told:
            print("Stopped; the same command goes on.", file=sys.stderr)
            return INTERRUPTED
        failed += [run.name] if status else []
    if failed:
        print(f"error: failed: {', '.join(failed)}; see log.txt in their folders", file=sys.stderr)
    return 1 if failed else 0


def write_table(columns: Sequence[Column], rows: Sequence[str], output: Path) -> str:
    """Write table.md and table.json of a suite's folder.

    Args:
        columns, rows: see ``build_table``.
        output: the suite's folder.

    Returns:
        The text of table.md.
    """
    table = build_table(output, columns, rows)
    text = to_markdown(table)
    for name, content in (("table.md", text), ("table.json", json.dumps(table, indent=2) + "\n")):
        write_atomically(output / name, lambda target, content=content: target.write_text(content))
    return text


def _record(run: Run, status: int | None) -> None:
    """Write down the settings of a run and how it ended."""
    run.folder.mkdir(parents=True, exist_ok=True)
    record = {"config": str(run.config), "overrides": list(run.overrides), "status": status}
    text = json.dumps(record, indent=2) + "\n"
    write_atomically(run.folder / RECORD, lambda target: target.write_text(text))


def _result(run: Run) -> str:
    name, value = measured(run.folder, run.column.metric)
    return f"no {name or 'result'}" if value is None else f"{name} {value:.4g}"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("items", nargs="+", metavar="CONFIG", help="configs of one task, and key=value overrides")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the suite")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--num-processes", type=int, metavar="N", help="processes of every run (CPU)")
    how.add_argument("--num-gpus", type=int, metavar="N", help="GPUs of every run (default: all)")
    add("--data-root", default="", metavar="D", help="where datasets lie ($DETECTRON2_DATASETS)")
    add("--rows", nargs="+", action="extend", default=[], metavar="NAME=...", help="settings")
    add("--table-only", action="store_true", help="write the table of what is there")
    add("--train-net", type=Path, metavar="FILE", help="train_net.py (default: above the configs)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; returns the exit status."""
    options = make_parser().parse_intermixed_args(argv)
    # what follows --rows and has a dot in front is no name of a row
    dotted = {text: "." in text.partition("=")[0] for text in options.rows}
    items = [*options.items, *(text for text in options.rows if dotted[text])]
    overrides = [item for item in items if "=" in item]
    configs = [Path(item) for item in items if "=" not in item]
    status = 0
    try:
        if not configs:
            raise UserError("No config is named; give at least one.")
        if options.data_root and not os.path.isdir(options.data_root):
            raise UserError(f"--data-root {options.data_root!r} is not a folder.")
        if options.train_net is not None and not options.train_net.is_file():
            raise UserError(f"--train-net {str(options.train_net)!r} is not a file.")
        rows = parse_rows([text for text in options.rows if not dotted[text]])
        columns = read_columns(configs)
        if not (rows or options.table_only):
            rows = {"ours": ()}
        save = functools.partial(write_table, list(columns.values()), list(rows), options.output)
        if not options.table_only:
            script = options.train_net or find_train_net(configs[0])
            runs = plan(columns, rows, overrides, options.output)
            status = run_all(runs, script, _launch_options(options), save)
        print(f"\n{save()}")
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _launch_options(options: argparse.Namespace) -> list[str]:
    """What every run gets from the command line of the suite."""
    found = []
    for key in ("num_processes", "num_gpus", "data_root"):
        value = getattr(options, key)
        if value not in (None, ""):
            found += [f"--{key.replace('_', '-')}", str(value)]
    return found


if __name__ == "__main__":
    sys.exit(main())
