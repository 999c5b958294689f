"""Routes as numbers: what ``routes.json`` and ``routes.jsonl`` say, as arrays.

A run writes {"iteration", "temperature", "num_units", "layers": [L names], "tasks": {task:
{"probabilities": [L][N], "route": [L]}}} to ``routes.json``, and one such object a line to
``routes.jsonl``. L layers, N units, T tasks, P points in time. What does not fit is left out, so
that a torn or foreign file never stops a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gppf_d2.modeling.lego import controller

SURE = 0.9  # probability of a unit that is as good as chosen
MOST_POINTS = 400  # of a learning curve: about a point a pixel of its panel


def probabilities_of(routes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Selection probabilities by task, float [L, N]; tasks whose table is not L rows of finite
    numbers are left out."""
    layers, tasks = routes.get("layers"), routes.get("tasks")
    named = isinstance(layers, list) and all(isinstance(layer, str) for layer in layers)
    if not named or not isinstance(tasks, Mapping):
        return {}
    found = {}
    for task, entry in tasks.items():
        try:
            array = np.asarray(entry["probabilities"], dtype=float)
        except (KeyError, TypeError, ValueError):
            continue
        if (
            array.ndim == 2
            and len(array) == len(layers)
            and array.size
            and np.isfinite(array).all()
        ):
            found[task] = array
    return found


def chosen_units(routes: Mapping[str, Any]) -> dict[str, list[int]]:
    """By task its most probable unit in every layer, [L]; of undecided layers it is arbitrary."""
    return {task: p.argmax(1).tolist() for task, p in probabilities_of(routes).items()}


def unit_count(routes: Mapping[str, Any]) -> int:
    """N, the most units that a task chooses among; 0 where there are no routes."""
    return max((p.shape[1] for p in probabilities_of(routes).values()), default=0)


def route_agreement(routes: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """How much of the backbone two tasks share.

    Returns:
        Names of the T tasks, and [T, T] the share of layers in which both select the same unit.
    """
    chosen = chosen_units(routes)
    if not chosen:
        return [], np.zeros((0, 0))
    units = np.array(list(chosen.values()))
    return list(chosen), (units[:, None] == units).mean(2)


def sure_layers(routes: Mapping[str, Any]) -> dict[str, int]:
    """By task, the number of layers whose largest probability is ``SURE`` or more."""
    return {task: int((p.max(1) >= SURE).sum()) for task, p in probabilities_of(routes).items()}


def arbitrary_layers(routes: Mapping[str, Any]) -> dict[str, int]:
    """By task, the number of layers that an export calls undecided: the second unit is almost as
    probable as the first (``gppf_d2.modeling.lego.controller.undecided_layers``)."""
    tables = probabilities_of(routes)
    return {
        task: len(controller.undecided_layers(torch.from_numpy(p))) for task, p in tables.items()
    }


@dataclass(frozen=True)
class LearningCurves:
    """How routes were learned.

    Args:
        layers: names of the L layers.
        tasks: task -> (iterations [P], probabilities [P, L, N]); P may differ between tasks.
        temperature: (iterations, temperatures) of the entries that tell it.
    """

    layers: list[str]
    tasks: dict[str, tuple[np.ndarray, np.ndarray]]
    temperature: tuple[np.ndarray, np.ndarray]

    @property
    def num_units(self) -> int:
        """N, the most units that a task chooses among."""
        return max(values.shape[2] for _, values in self.tasks.values())

    @property
    def iterations(self) -> tuple[int, int]:
        """The first and the last iteration of any task."""
        steps = [steps for steps, _ in self.tasks.values()]
        return int(min(one[0] for one in steps)), int(max(one[-1] for one in steps))


def learning_curves(
    history: Sequence[Mapping[str, Any]], most: int = MOST_POINTS
) -> LearningCurves:
    """The entries of ``routes.jsonl`` as curves of the tasks and layers of the last one.

    Args:
        history: the entries, in order.
        most: longer histories are thinned out to this number of entries, the first and the last
            included.

    Raises:
        ValueError: no entry has probabilities.
    """
    entries = [entry for entry in history if isinstance(entry.get("tasks"), Mapping)]
    if len(entries) > most:
        kept = np.linspace(0, len(entries) - 1, most).round().astype(int)
        entries = [entries[index] for index in kept]
    usable = [(entry, tables) for entry in entries if (tables := probabilities_of(entry))]
    if not usable:
        raise ValueError("The history of routes holds no entry with probabilities.")
    last, final = usable[-1]
    curves = {}
    for task, table in final.items():
        points = [
            (entry["iteration"], tables[task])
            for entry, tables in usable
            if task in tables and tables[task].shape == table.shape
        ]
        steps, values = zip(*points)
        curves[task] = np.array(steps), np.array(values)
    told = [(e["iteration"], e["temperature"]) for e, _ in usable if _is_number(e, "temperature")]
    steps, values = zip(*told) if told else ((), ())
    return LearningCurves(list(last["layers"]), curves, (np.array(steps), np.array(values)))


def _is_number(entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key)
    return isinstance(value, (int, float)) and np.isfinite(value)
