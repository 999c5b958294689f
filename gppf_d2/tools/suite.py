"""Run many configs one after the other and put their results into one table.

    python -m gppf_d2.tools.suite CONFIG [CONFIG ...] --output DIR
        [--num-processes N | --num-gpus N] [--data-root D] [--sweep [--workers N]]
        [--rows NAME=key=value,key=value ...] [--table-only] [key=value ...]

Every config is run by train_net.py into DIR/<row>/<name of the config>, with the overrides of the
command line and then those of the row; without --rows there is one row, "ours". Several rows are
several settings of the same configs:

    --rows objects365= in21k=train.init_route=in21k dynamic=train.init_route=dynamic

With --sweep a config that has a `sweep` section is searched first, row by row, by
``gppf_d2.tools.sweep`` with the same overrides: its last training, with the best point, is what the
table shows. --workers and --retry-failed are that command's.

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
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gppf_d2.analysis.results.suite_table import (
    RECORD,
    Column,
    build_table,
    is_finished,
    measured,
    to_markdown,
)
from gppf_d2.engine.checkpoint import write_atomically
from gppf_d2.engine.errors import UserError
from gppf_d2.tools.suite_plan import Run, command_of, find_train_net, parse_rows, plan, read_columns

INTERRUPTED = 130


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
    runs: Sequence[Run], command: Callable[[Run], list[str]], after: Callable[[], object]
) -> int:
    """Run what is not finished.

    Args:
        runs: from ``plan``.
        command: run -> its command line.
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
        what = f"{run.points} points and the best once more, " if run.points else ""
        print(f"{place}: {what}{run.iterations:,} iterations into {run.folder}", flush=True)
        start = time.monotonic()
        line = command(run)
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
    text = json.dumps({**record, "sweep": bool(run.points)}, indent=2) + "\n"
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
    add("--sweep", action="store_true", help="search by the configs' `sweep` sections first")
    add("--workers", type=int, metavar="N", help="trainings of a sweep at a time (default: 1)")
    add("--retry-failed", action="store_true", help="train a sweep's points again that failed")
    add("--table-only", action="store_true", help="write the table of what is there")
    add("--train-net", type=Path, metavar="FILE", help="train_net.py (default: above the configs)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; returns the exit status."""
    parser = make_parser()
    options = parser.parse_intermixed_args(argv)
    for option, given in (("--workers", options.workers), ("--retry-failed", options.retry_failed)):
        if given and not options.sweep:
            parser.error(f"{option} is an option of sweeps; give --sweep too, or leave it out.")
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers is {options.workers}; give 1 or more.")
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
            runs = plan(columns, rows, overrides, options.output, sweep=options.sweep)
            launch, of_sweeps = _launch_options(options), _sweep_options(options)
            status = run_all(runs, lambda run: command_of(run, script, launch, of_sweeps), save)
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


def _sweep_options(options: argparse.Namespace) -> list[str]:
    """What every sweep gets beside it."""
    workers = ["--workers", str(options.workers)] if options.workers else []
    return [*workers, *(["--retry-failed"] if options.retry_failed else [])]


if __name__ == "__main__":
    sys.exit(main())
