"""One trial of a sweep: the training script in a process and a folder of its own.

What the script prints goes to ``console.txt`` of the trial's folder. Afterwards only the small
files stay: results, metrics, logs and the config; checkpoints are deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gppf_d2.tools.sweep_plan import as_text

CONSOLE = "console.txt"
KEPT = (CONSOLE, "results.json", "metrics.json", "log.txt", "config.yaml", "run.json")
PATIENCE = 60.0  # seconds that an interrupted trial has to stop by itself

_ERROR = re.compile(r"^(?:\[rank \d+\] )?error: (.+)$", re.MULTILINE)
# Linux only: SIGTERM when the sweep dies, however it dies, so that no training goes on by itself
_WITH_PARENT = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == parent:
    os.execv(sys.argv[2], sys.argv[2:])
"""


class TrialError(Exception):
    """The trial ended with an error; the message is its sentence."""


class TrialStopped(Exception):
    """The trial was interrupted by the sweep."""


@dataclass(frozen=True)
class Trainer:
    """How the training script is called.

    Args:
        script: Python file, called as ``script --config-file F [options] key=value ...``.
        config_file: of the sweep.
        options: of the script, as ``("--num-processes", "2")``.
        overrides: ``key=value`` of every training.
    """

    script: Path
    config_file: str
    options: Sequence[str] = ()
    overrides: Sequence[str] = ()

    def run(
        self,
        folder: Path,
        overrides: Sequence[str],
        *,
        resume: bool = False,
        gpus: str | None = None,
        beat: Callable[[], None] = lambda: None,
        stopped: Callable[[], bool] = lambda: False,
        interval: float = 1.0,
    ) -> dict[str, dict[str, float | None]]:
        """Train, and return the content of ``results.json``.

        Args:
            folder: of the trial, made here.
            overrides: ``key=value`` after those of every training.
            resume: go on from the folder's newest checkpoint.
            gpus: CUDA_VISIBLE_DEVICES of the process; None leaves it as it is.
            beat: called every ``interval`` seconds.
            stopped: asked as often; True interrupts the training.
            interval: in seconds.

        Raises:
            TrialError: the training failed or left no results.
            TrialStopped: it was interrupted.
        """
        folder.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, str(self.script), "--config-file", self.config_file]
        line += [*self.options, *(["--resume"] if resume else [])]
        line += [*self.overrides, *overrides, f"train.output_dir={as_text(str(folder))}"]
        guarded = [sys.executable, "-S", "-c", _WITH_PARENT, str(os.getpid()), *line]
        more = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
        with open(folder / CONSOLE, "w") as console:
            process = subprocess.Popen(
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, **more},
                start_new_session=True,  # Ctrl-C is the sweep's; it tells the trials
            )
            try:
                status = _wait(process, beat, stopped, interval)
            finally:
                _end(process)
        if status is None:
            raise TrialStopped
        if status:
            raise TrialError(sentence(folder / CONSOLE, status))
        return read_results(folder)


def train_script(given: str | None) -> Path:
    """The training script: the given one, that of the working directory, or of the source tree.

    Raises:
        ValueError: there is none.
    """
    source = Path(__file__).resolve().parents[2] / "train_net.py"
    candidates = [Path(given)] if given else [Path("train_net.py"), source]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise ValueError(
        f"There is no training script {str(candidates[0])!r}; give it with --train-script."
    )


def _wait(
    process: subprocess.Popen,
    beat: Callable[[], None],
    stopped: Callable[[], bool],
    interval: float,
) -> int | None:
    """The exit status, or None when it was stopped."""
    while True:
        beat()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(interval)
        if stopped():
            return None


def _end(process: subprocess.Popen) -> None:
    """Interrupt a training that still runs, politely first, and the processes that it started."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def sentence(console: Path, status: int) -> str:
    """Why a training failed: the error that it printed, else its last line."""
    if status < 0:
        return f"The training died of signal {-status} ({signal.Signals(-status).name})."
    text = console.read_text(errors="replace").strip() if console.is_file() else ""
    found = [line for line in _ERROR.findall(text) if not line.startswith("Traceback")]
    last = text.splitlines()[-1].strip() if text else ""
    reason = found[0] if found else last
    return reason[:500] or f"The training ended with status {status} and said nothing."


def read_results(folder: Path) -> dict[str, dict[str, float | None]]:
    """The content of ``results.json``.

    Raises:
        TrialError: there is none, or it cannot be read.
    """
    path = folder / "results.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise TrialError("The training left no results.json: is the task evaluated?") from None
    except ValueError as error:
        raise TrialError(f"{path} is damaged: {error}.") from None


def tidy(folder: Path) -> None:
    """Delete all but the small files of a trial."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def environment_of_workers(
    workers: int, gpus_each: int | None, available: Sequence[str]
) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of every worker.

    Args:
        workers: at a time.
        gpus_each: of one trial; None shares out all, 0 uses none.
        available: devices of this machine.

    Returns:
        Per worker a list of devices, or None where its trials use the CPU.

    Raises:
        ValueError: there are too few GPUs.
    """
    if gpus_each is None:
        gpus_each = max(1, len(available) // workers) if available else 0
    if gpus_each * workers > len(available):
        raise ValueError(
            f"{workers} workers with {gpus_each} GPUs each need {gpus_each * workers} GPUs and "
            f"this machine has {len(available)} usable ones; lower --workers or --num-gpus."
        )
    if not gpus_each:
        return [None] * workers
    parts: list[str | None] = []
    for worker in range(workers):
        parts.append(",".join(available[worker * gpus_each : (worker + 1) * gpus_each]))
    return parts
