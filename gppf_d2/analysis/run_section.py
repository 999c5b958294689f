"""The run itself, for readers: where and when it ran, on what data, from which weights, its config.

What a folder lacks is said here too, and of a run that is not finished the end of its log is shown.
``describe_hardware`` and ``ago`` serve other pages as well.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gppf_d2.analysis import page
from gppf_d2.analysis.run_folder import RunFolder, finite

LOG_LINES = 20


def run_section(folder: RunFolder) -> str:
    """The report's section of the run: facts, data, initial weights, config, what is missing."""
    parts = [_facts_card(folder), _data_table(folder), _texts(folder)]
    if folder.missing:
        sentences = "".join(page.missing(sentence) for sentence in folder.missing)
        parts.append(f"<div><h3>What this folder lacks</h3>{sentences}</div>")
    if not folder.finished:
        parts.append(_log_tail(folder.path / "log.txt"))
    return page.section("run", "The run", f'<div class="stack">{"".join(parts)}</div>')


def describe_hardware(run: Mapping[str, Any]) -> dict[str, str]:
    """What a run ran on, in words.

    Args:
        run: ``run.json``; those of older runs have no "hardware".

    Returns:
        {"Hosts", "GPUs", "CPU", "Memory"} in words, without those that are not known.
    """
    hardware = run.get("hardware")
    hardware = hardware if isinstance(hardware, Mapping) else {}
    gpus = hardware.get("gpus")
    if isinstance(gpus, Sequence) and not isinstance(gpus, str):
        counts = Counter(map(str, gpus))
        devices = ", ".join(f"{n} × {name}" for name, n in counts.items()) or "none"
    else:
        count, name = run.get("num_gpus"), run.get("device") or "GPU"
        devices = f"{count} × {name}" if count else "none" if count == 0 else ""
    cores, memory = hardware.get("cpu_cores"), finite(hardware.get("memory_gb"))
    cpu = " · ".join(
        text for text in (str(hardware.get("cpu") or ""), f"{cores} cores" if cores else "") if text
    )
    words = {
        "Hosts": str(hardware.get("host_count") or ""),
        "GPUs": devices,
        "CPU": cpu,
        "Memory": "" if memory is None else f"{memory:,.0f} GB",
    }
    return {name: text for name, text in words.items() if text}


def ago(seconds: float) -> str:
    """A time in the past, in words: "4 minutes ago"."""
    return f"{duration(seconds)} ago" if seconds >= 60 else "just now"


def duration(seconds: float) -> str:
    """A time in whole units, in words: "4 minutes"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


def silence(folder: RunFolder) -> str:
    """That a run seems to be dead, in words; "" of a run that is finished or goes on."""
    seconds = folder.silent
    return "" if seconds is None else f"stopped or silent: no line for {duration(seconds)}"


def _facts_card(folder: RunFolder) -> str:
    run = folder.run
    iterations = f"{folder.iterations:,}" + (f" of {folder.max_iter:,}" if folder.max_iter else "")
    pairs = [
        ("Folder", folder.path.resolve().name),
        ("Config", run.get("config_file")),
        ("Tasks", ", ".join(folder.tasks)),
        ("Iterations", iterations),
        ("Processes", run.get("world_size")),
        *describe_hardware(run).items(),
        ("Started", _date(run.get("started"))),
        ("Last line", _date(folder.last_line)),
        ("Commit", run.get("commit")),
        ("gppf_d2", run.get("gppf_d2")),
        ("torch", run.get("torch")),
        ("Detectron2", run.get("detectron2")),
    ]
    text = page.facts((name, "" if value is None else str(value)) for name, value in pairs)
    command = run.get("command")
    if command:
        words = " ".join(map(str, command)) if isinstance(command, list) else str(command)
        text += f"<h3>Command</h3><pre><code>{page.escape(words)}</code></pre>"
    return f'<div class="card">{text}</div>'


def _data_table(folder: RunFolder) -> str:
    """Datasets and samples of every task."""
    data = folder.run.get("data")
    if not isinstance(data, Mapping) or not data:
        return ""
    rows = [
        (page.escape(task), _datasets(sets, "train"), _datasets(sets, "evaluation"))
        for task, sets in data.items()
    ]
    table = page.table(["Task", "Training", "Evaluation"], rows, "Data", css="words")
    return page.scroll(table, "Data of every task")


def _datasets(sets: Any, kind: str) -> str:
    found = sets.get(kind) if isinstance(sets, Mapping) else None
    if not isinstance(found, Mapping) or not found:
        return "none"
    return "<br>".join(
        page.escape(f"{name}: {count:,} samples" if isinstance(count, int) else str(name))
        for name, count in found.items()
    )


def _texts(folder: RunFolder) -> str:
    """Longer texts, folded: where the weights came from, the whole config."""
    weights = folder.run.get("initial_weights")
    config = folder.path / "config.yaml"
    texts = {"Initial weights": str(weights or "")}
    if config.is_file():
        texts["config.yaml"] = config.read_text(encoding="utf-8", errors="replace")
    folds = "".join(
        page.fold(name, f'<pre tabindex="0">{page.escape(text.strip())}</pre>')
        for name, text in texts.items()
        if text.strip()
    )
    return f'<div class="card text">{folds}</div>' if folds else ""


def _log_tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = "".join(deque(file, maxlen=LOG_LINES)).rstrip()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", lines)
    return (
        f'<div><h3>The last lines of its log</h3><pre tabindex="0">{page.escape(lines)}</pre></div>'
    )


def _date(value: Any) -> str | None:
    seconds = finite(value)
    if seconds is not None:
        with contextlib.suppress(ValueError, OverflowError, OSError):  # years that no clock has
            return datetime.datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
    return str(value) if value else None
