"""Search a grid of a config's settings, then train once more with the best.

    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/cars.py \\
        --output output/sweep/cars --workers 8 --num-gpus 1 --data-root DIR

The config's ``sweep`` section says the metric and the grid (see ``gppf_d2.tools.sweep_plan``).
Every point is a training of its own in ``DIR/trials/<number>``, of which results and logs stay.
``DIR/final`` holds the training with the best point, ``DIR/trials.csv`` all points with their
metrics, ``DIR/sweep.png`` a picture of the grid.

The same command again goes on where it was ended, in whatever way. On several machines, give every
command the same overrides and the ``--storage`` of one database server (``sqlite`` on a network
drive loses its locks): each takes points that no other one has. A point whose training fails is
noted with its error; ``--retry-failed`` tries it again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial

from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError, show_traceback
from gppf_d2.evaluation.metric_names import overall
from gppf_d2.tools import sweep_report as report
from gppf_d2.tools.sweep_plan import (
    Point,
    check_overrides,
    describe,
    pick_metric,
    plan_of,
    short,
)
from gppf_d2.tools.sweep_queue import Entry, Queue, open_storage
from gppf_d2.tools.sweep_trial import (
    Trainer,
    TrialError,
    TrialStopped,
    environment_of_workers,
    tidy,
    train_script,
)

POINT = "point.json"  # in DIR/final: the point that it is trained with
ALIKE = 3  # points that fail with one sentence before any succeeds: it is not the points


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a config with a `sweep` section")
    add("--output", required=True, metavar="DIR", help="folder of the sweep")
    add("--storage", metavar="URL", help="database of the study (default: DIR/study.db, SQLite)")
    add("--study", metavar="NAME", help="name of the study (default: the config's)")
    add("--workers", type=int, default=1, metavar="N", help="trainings at a time on this machine")
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--num-processes", type=int, metavar="P", help="of a training, on the CPU")
    devices.add_argument(
        "--num-gpus", type=int, metavar="G", help="of a training (default: all, shared out)"
    )
    add("--trials", type=int, metavar="K", help="end after K trainings of this command")
    add("--data-root", default="", metavar="DIR", help="where datasets lie")
    add("--no-final", action="store_true", help="search only")
    add("--table-only", action="store_true", help="show what is there, and train nothing")
    add("--retry-failed", action="store_true", help="train points again that ended with an error")
    add("--heartbeat", type=int, default=30, metavar="S",
        help="seconds between signs of life; after three missed ones a training counts as dead "
        "and its point is trained again (default: 30)")  # fmt: skip
    add("--train-script", metavar="FILE", help="default: train_net.py")
    add("overrides", nargs="*", metavar="key=value", help="of every training")
    args = parser.parse_intermixed_args(argv)
    for name, least in (("workers", 1), ("heartbeat", 1), ("trials", 1), ("num_processes", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} is {value}; give {least} or more.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep on this machine, return the exit status."""
    args = parse_arguments(argv)
    try:
        Sweep(args).run()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (UserError, ValueError, optuna.exceptions.OptunaError) as error:
        show_traceback(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class Sweep:
    """The search and the final training of one command.

    Args:
        args: from ``parse_arguments``.

    Raises:
        UserError, ValueError: the config, an override or the study cannot be meant.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, Path(args.output)
        cfg = load_config(args.config_file, args.overrides)
        self.plan = plan_of(cfg, args.config_file)
        self.points = self.plan.points()
        check_overrides(self.plan, args.config_file, args.overrides)
        self.name = args.study or Path(args.config_file).stem
        self.devices = self._devices(str(cfg.train.device))
        options = ["--data-root", args.data_root] if args.data_root else []
        if args.num_processes is not None:
            options += ["--num-processes", str(args.num_processes)]
        elif args.num_gpus is not None:
            options += ["--num-gpus", str(args.num_gpus)]
        self.trainer = Trainer(
            script=train_script(args.train_script),
            config_file=args.config_file,
            options=options,
        )
        own = self.folder.resolve() / "study.db"
        if args.table_only and not args.storage and not own.is_file():
            raise UserError(f"There is no sweep in {args.output!r}; run one first.")
        self.folder.mkdir(parents=True, exist_ok=True)
        url = args.storage or f"sqlite:///{own}"
        self.storage = open_storage(url, args.heartbeat)
        self.stop = threading.Event()
        self.budget = threading.Semaphore(args.trials) if args.trials else None
        self.errors: list[BaseException] = []
        self._said = threading.Lock()

    def _devices(self, device: str) -> list[str | None]:
        gpus = self.args.num_gpus
        if self.args.num_processes is not None or (gpus is None and device == "cpu"):
            return [None] * self.args.workers
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        names = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
        return environment_of_workers(self.args.workers, gpus, names)

    def run(self) -> None:
        """Search, report, train the best once more."""
        search = self._queue(self.name, self.points, "search")
        if self.args.table_only:
            self._show(search)
            return
        with self._interruptible():
            print(f"{self.name}: {report.progress(search.entries(), self.plan)}", flush=True)
            self._work(search, "search")
            self._show(search)
            entries = search.entries()
            if any(entry.state not in ("done", "failed") for entry in entries):
                print("The search is not complete; the same command goes on.")
                return
            best = report.best_of(entries, self.plan)
            if best is None:
                raise UserError(f"All points failed (see --retry-failed): {entries[0].error}")
            if not self.args.no_final:
                self._final(best)

    def _queue(self, name: str, points: list[Point], phase: str) -> Queue:
        identity = {
            "config file": Path(self.args.config_file).name,
            "metric": self.plan.metric,
            "grid": self.plan.as_dict()["grid"],
            "set": self.plan.assignments,
            f"list of overrides ({phase})": [*getattr(self.plan, phase), *self.args.overrides],
        }
        return Queue(
            self.storage,
            name,
            self.plan,
            points,
            identity,
            make=not self.args.table_only,
            # why points fail is worth knowing; the last training is wanted
            retry_failed=self.args.retry_failed or phase == "final",
        )

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the trainings and give their points back."""
        before = signal.getsignal(signal.SIGTERM)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        main_thread = threading.current_thread() is threading.main_thread()
        if main_thread:
            signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            if main_thread:
                signal.signal(signal.SIGTERM, before)

    def _work(self, queue: Queue, phase: str) -> None:
        """Let the workers empty a queue; returns when nothing waits and nothing runs anywhere."""
        devices = self.devices
        if phase == "final":  # one training, on all GPUs where nothing else is said
            devices = devices[:1] if self.args.num_gpus is not None else [None]
        workers = [
            threading.Thread(target=self._worker, args=(queue, phase, gpus), daemon=True)
            for gpus in devices
        ]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                while worker.is_alive():
                    worker.join(0.2)
        except KeyboardInterrupt:
            self.stop.set()
            print("stopping the trainings ...", file=sys.stderr)
            for worker in workers:
                worker.join()
            raise
        finally:
            for number in queue.numbers("lost") if phase == "search" else ():
                tidy(self._folder_of(number))
        if self.errors:
            raise self.errors[0]

    def _worker(self, queue: Queue, phase: str, gpus: str | None) -> None:
        """One training after the other."""
        pause = min(5.0, float(self.args.heartbeat))
        try:
            while not self.stop.is_set():
                if self.budget and not self.budget.acquire(blocking=False):
                    return
                trial = queue.take()
                if trial is not None:
                    self._run(queue, trial, phase, gpus)
                    continue
                if self.budget:
                    self.budget.release()
                if not any(e.state in ("running", "waiting") for e in queue.entries()):
                    return
                self.stop.wait(pause)  # the worker of one may die, and its point come back
        except BaseException as error:  # of the database: the command ends with it
            self.errors.append(error)
            self.stop.set()

    def _run(self, queue: Queue, trial: FrozenTrial, phase: str, gpus: str | None) -> None:
        """One training and its outcome."""
        final = phase == "final"
        folder = self.folder / "final" if final else self._folder_of(trial.number)
        overrides = getattr(self.plan, phase)
        trainer = replace(self.trainer, overrides=[*overrides, *self.args.overrides])
        try:
            results = trainer.run(
                folder,
                self.plan.overrides(trial.params),
                resume=final and any(folder.glob("model_*.pth")),
                gpus=gpus,
                beat=lambda: queue.beat(trial),
                stopped=self.stop.is_set,
                interval=min(5.0, self.args.heartbeat / 2),
            )
            value = pick_metric(results, self.plan.metric)
            results = {task: overall(metrics) for task, metrics in results.items()}
            queue.finish(trial, value, results)
            outcome = f"{self.plan.metric} {short(value, 4)}"
        except TrialStopped:
            queue.give_back(trial)
            return
        except (TrialError, ValueError) as error:
            queue.fail(trial, str(error))
            outcome = f"failed: {error}"
            if not final:
                _check_failures(queue)
        finally:
            if not final:
                tidy(folder)
        self._say(queue, f"{folder.name}: {describe(trial.params)}: {outcome}", final)

    def _say(self, queue: Queue, line: str, final: bool) -> None:
        with self._said:
            print(line, flush=True)
            if not final:
                entries = queue.entries()
                print(report.progress(entries, self.plan), flush=True)
                report.write_table(self.folder / "trials.csv", entries, self.plan)

    def _final(self, best: Entry) -> None:
        """Train with the best point, unless another command does or did."""
        self._claim_final(best.point)
        queue = self._queue(f"{self.name}, final", [best.point], "final")
        if queue.entries()[0].state == "waiting":
            print(f"Training with the best point: {describe(best.point)}", flush=True)
        self._work(queue, "final")
        (entry,) = queue.entries()
        if entry.state == "failed":
            raise UserError(f"The final training failed: {entry.error}")
        if entry.state != "done":
            print("The final training has not been made; the same command goes on.")
            return
        for task, metrics in entry.results.items():
            text = "  ".join(f"{name} {short(value, 4)}" for name, value in metrics.items())
            print(f"final, {task}: {text}")
        print(f"final training: {self.folder / 'final'} on {entry.host}")

    def _claim_final(self, point: Point) -> None:
        """Refuse to mix the trainings of two points."""
        folder = self.folder / "final"
        path = folder / POINT
        if path.is_file() and json.loads(path.read_text()) != point:
            raise UserError(
                f"{str(folder)!r} holds the training with another point, {path.read_text()}; "
                "move it away and give the same command again."
            )
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(point))

    def _folder_of(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _show(self, queue: Queue) -> None:
        """Table, CSV and picture of a search."""
        entries = queue.entries()
        print(report.table(entries, self.plan))
        report.write_table(self.folder / "trials.csv", entries, self.plan)
        report.draw(self.folder / "sweep.png", entries, self.plan, self.name)
        print(f"{report.progress(entries, self.plan)}\n{self.folder / 'sweep.png'}", flush=True)


def _check_failures(queue: Queue) -> None:
    """End a search in which nothing can succeed, before it has gone through the grid.

    Raises:
        UserError: ``ALIKE`` points or more have failed, all with one sentence, and none is done.
    """
    entries = queue.entries()
    errors = [entry.error for entry in entries if entry.state == "failed"]
    if len(errors) < ALIKE or len(set(errors)) > 1 or any(e.state == "done" for e in entries):
        return
    raise UserError(
        f"The first {len(errors)} points all failed: {errors[0]} Mend that, and give the same "
        "command with --retry-failed."
    )


if __name__ == "__main__":
    sys.exit(main())
