"""Make run folders with made-up but plausible numbers, whole or broken in a chosen way."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LAYERS = ["stem", "res2.0", "res2.1", "res3.0"]
TASKS = ("objects", "scenes")


def make_routes(
    iteration: int, tasks: Sequence[str] = TASKS, num_units: int = 2, sharpness: float = 1.0
) -> dict:
    """One entry of ``routes.jsonl``; the larger ``sharpness``, the more decided the layers."""
    generator = np.random.default_rng(0)
    entries = {}
    for task in tasks:
        logits = sharpness * generator.normal(size=(len(LAYERS), num_units))
        table = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        entries[task] = {"probabilities": table.tolist(), "route": table.argmax(1).tolist()}
    return {
        "iteration": iteration,
        "temperature": 0.5,
        "num_units": num_units,
        "layers": LAYERS,
        "tasks": entries,
    }


def make_metrics(iterations: int, tasks: Sequence[str] = TASKS, period: int = 10) -> list[dict]:
    """Entries of ``metrics.json`` with falling losses."""
    entries = []
    for iteration in range(period - 1, iterations, period):
        entry = {"iteration": iteration, "lr": 0.1, "temperature": 1.0, "time": 0.5}
        entry["data_time"] = 0.1
        for task in tasks:
            entry[f"loss/{task}/total"] = 1 + math.exp(-iteration / 20)
            entry[f"loss/{task}/loss_cls"] = 0.5
            entry[f"loss/{task}/loss_box"] = 0.5 + math.exp(-iteration / 20)
            entry[f"share/{task}"] = 1 / len(tasks)
            entry[f"wanted_share/{task}"] = 1 / len(tasks)
        entries.append(entry)
    return entries


def write_lines(path: Path, entries: Sequence[dict]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def make_run(folder: Path, tasks: Sequence[str] = TASKS, iterations: int = 60) -> Path:
    """A finished run folder with every part a report shows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "metrics.json", make_metrics(iterations, tasks))
    history = [make_routes(step, tasks, sharpness=1 + step / 10) for step in (0, 30, 59)]
    write_lines(folder / "routes.jsonl", history)
    (folder / "routes.json").write_text(json.dumps(history[-1]))
    results = {task: {"bbox/AP": 12.34, "bbox/AP50": 30.0, "bbox/AP-cat": 9.0} for task in tasks}
    (folder / "results.json").write_text(json.dumps(results))
    run = {"config_file": "configs/mini/demo.py", "commit": "abc1234", "world_size": 2}
    run |= {"num_gpus": 0, "device": "cpu", "started": "2026-11-20 10:02", "command": "a <b> & c"}
    (folder / "run.json").write_text(json.dumps(run))
    names = "".join(f"  {task}: {{weight: 1.0}}\n" for task in tasks)
    (folder / "config.yaml").write_text(f"train: {{max_iter: {iterations}}}\ntasks:\n{names}")
    (folder / "predictions").mkdir(exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "predictions" / f"{tasks[0]}.png")
    return folder
