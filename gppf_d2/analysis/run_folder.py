"""Read a run folder as it is: finished, half-finished, or left behind by a crash.

Nothing here raises because of what a run wrote or did not write: a file that is absent, empty or
torn becomes a sentence in ``RunFolder.missing``, and what can be read is kept. A file of one JSON
object a line may end in half a line (the process died while writing) and may hold an iteration
twice (the run was resumed from an earlier checkpoint); the later line wins, key by key.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import yaml

# by these a folder is known as one of a run; the page itself and its picture are no sign of one
RUN_FILES = (
    "config.yaml", "run.json", "metrics.json", "routes.json", "routes.jsonl", "results.json",
    "log.txt", "predictions", "cka",
)  # fmt: skip
PAGE_FILES = ("report.html", "routes.png")
RECENT = 50  # lines of metrics that tell how often a run writes one
FRESH = 60.0  # seconds for which no run is called silent
LINES_MISSED = 5  # lines that have to stay away before a run is called silent
UNKNOWN_DISTANCE = 60.0  # seconds between two lines, where the metrics do not tell


@dataclass
class RunFolder:
    """What a run left behind.

    Args:
        path: the folder.
        run: ``run.json``: config file, command, commit, world size, hardware, data, versions,
            start, where the weights came from.
        config: ``config.yaml`` as plain containers.
        metrics: ``metrics.json``, one dict an iteration, in order.
        routes: ``routes.json``, or the last of ``routes.jsonl``; empty when there is none.
        history: ``routes.jsonl``, in order of iterations.
        results: ``results.json``, {task: {metric: value}}.
        sheets: prediction sheets by task, from ``predictions/<task>.png`` and, of label heads,
            ``predictions/<task>.<label>.png``.
        missing: one sentence for every part that could not be read.
    """

    path: Path
    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    routes: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    sheets: dict[str, list[Path]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @cached_property
    def tasks(self) -> list[str]:
        """All tasks that any file names, in the config's order, the others after them."""
        names = dict.fromkeys(map(str, _mapping(self.config.get("tasks"))))
        names.update(dict.fromkeys(_mapping(self.routes.get("tasks"))))
        names.update(dict.fromkeys(tasks_of(self.metrics)))
        names.update(dict.fromkeys(self.results))
        names.update(dict.fromkeys(self.sheets))
        return list(names)

    @property
    def max_iter(self) -> int | None:
        """Iterations that the config asks for."""
        value = _mapping(self.config.get("train")).get("max_iter")
        value = finite(value)
        return None if value is None else int(value)

    @property
    def iterations(self) -> int:
        """Iterations done as far as the metrics tell (iterations count from 0)."""
        return int(self.metrics[-1]["iteration"]) + 1 if self.metrics else 0

    @property
    def finished(self) -> bool:
        """Whether the last iteration of the config was logged."""
        return self.max_iter is not None and self.iterations >= self.max_iter

    @property
    def last_line(self) -> float | None:
        """When the run wrote its newest line, of metrics or of its log (which goes on while tasks
        are evaluated), in seconds since the epoch; None without any."""
        files = [self.path / name for name in ("metrics.json", "log.txt")]
        return max((file.stat().st_mtime for file in files if file.is_file()), default=None)

    @property
    def silent(self) -> float | None:
        """Seconds for which a run that is not finished has written nothing, where that is longer
        than it should be: it was stopped, or hangs. None of every other run."""
        if self.finished or self.last_line is None:
            return None
        seconds = time.time() - self.last_line
        return seconds if seconds > max(FRESH, LINES_MISSED * self._line_distance()) else None

    def _line_distance(self) -> float:
        """Seconds between two lines of metrics, as they usually come."""
        recent = self.metrics[-RECENT:]
        distances = [
            (entry["iteration"] - before["iteration"]) * seconds
            for before, entry in zip(recent, recent[1:])
            if (seconds := finite(entry.get("time"))) is not None
        ]
        return median(distances) if distances else UNKNOWN_DISTANCE

    def broken(self, name: str) -> str | None:
        """Why a file that is there cannot be shown, in a sentence; None of one that can be."""
        return next((sentence for sentence in self.missing if sentence.startswith(name)), None)


def read_run(path: str | Path) -> RunFolder:
    """Read everything a report needs from a run folder.

    Raises:
        ValueError: ``path`` is not a folder.
    """
    path = Path(path)
    _require_folder(path)
    folder = RunFolder(path)
    note = folder.missing
    folder.run = _read_object(path / "run.json", "the commit, the command and the hardware", note)
    folder.config = _read_config(path / "config.yaml", note)
    folder.metrics = _read_history(path / "metrics.json", "the training curves", note)
    folder.history = _read_history(path / "routes.jsonl", "how the routes were learned", note)
    unread: list[str] = []
    folder.routes = _read_object(path / "routes.json", "the routes", unread)
    if not folder.routes and folder.history:
        folder.routes = folder.history[-1]
    else:
        note += unread
    results = _read_object(path / "results.json", "the results", note)
    folder.results = {task: _mapping(metrics) for task, metrics in results.items()}
    for file in sorted((path / "predictions").glob("*.png")):
        folder.sheets.setdefault(file.stem.partition(".")[0], []).append(file)
    if not folder.sheets:
        note.append("There is no picture under predictions/, so predictions are not shown.")
    return folder


def require_run(path: Path) -> None:
    """Refuse a folder that holds something else than a run; an empty one may be about to get one.

    Raises:
        ValueError: ``path`` is not a folder, or has files but none of a run.
    """
    _require_folder(path)
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    if names.difference(PAGE_FILES) and names.isdisjoint(RUN_FILES):
        raise ValueError(
            f"'{path}' holds no run (none of {', '.join(RUN_FILES)}); name the output folder of a "
            "run."
        )


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one object a line; torn and foreign lines are left out.

    Returns:
        One dict an iteration, in order of iterations. Objects without a whole "iteration" are left
        out.
    """
    merged: dict[int, dict[str, Any]] = {}
    with open(path, "rb") as file:
        for line in file:
            entry = _parse(line)
            if isinstance(entry, dict) and isinstance(entry.get("iteration"), int):
                merged.setdefault(entry["iteration"], {}).update(entry)
    return [merged[iteration] for iteration in sorted(merged)]


def _parse(line: bytes) -> Any:
    """The JSON of a line, None of a torn one; only json reads the NaN of a diverged loss. Integers
    that are too long for 64 bits become floats, which may be infinite."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            return json.loads(line, parse_int=_number)
        except (ValueError, RecursionError):
            return None


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def tasks_of(metrics: Iterable[dict[str, Any]]) -> list[str]:
    """Tasks that the metrics name, in order of first appearance."""
    names: dict[str, None] = {}
    seen: set[str] = set()  # a long run has few keys and many lines
    for entry in metrics:
        for key in [key for key in entry if key not in seen]:
            seen.add(key)
            parts = key.split("/")
            if len(parts) > 1 and parts[0] in ("loss", "share", "wanted_share"):
                names[parts[1]] = None
    return list(names)


def finite(value: Any) -> float | None:
    """A value that a run wrote as a finite number, None for every other: text, NaN, an integer that
    no float can hold."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:
        return None


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise ValueError(f"'{path}' is not a folder; name the output folder of a run.")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_object(path: Path, what: str, missing: list[str]) -> dict[str, Any]:
    if not path.is_file():
        missing.append(f"There is no {path.name}, so {what} cannot be shown.")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        missing.append(f"{path.name} cannot be read ({error}), so {what} cannot be shown.")
        return {}
    if not isinstance(content, dict) or not content:
        missing.append(f"{path.name} holds nothing, so {what} cannot be shown.")
        return {}
    return content


def _read_config(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.is_file():
        missing.append("There is no config.yaml, so the planned number of iterations is not known.")
        return {}
    try:
        return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        first = str(error).splitlines()[0]
        missing.append(f"config.yaml cannot be read ({first}).")
        return {}


def _read_history(path: Path, what: str, missing: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        missing.append(f"There is no {path.name}, so {what} cannot be shown.")
        return []
    entries = read_lines(path)
    if not entries:
        missing.append(f"{path.name} holds no complete line yet, so {what} cannot be shown.")
    return entries
