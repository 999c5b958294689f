"""What a sweep searches: the ``sweep`` section of a config as points and as overrides.

    sweep = dict(
        metric="classification/top1",   # of results.json; "task/..." where there are several tasks
        direction="maximize",
        grid={"lr": [0.001, 0.01], "decay": [0.0, 0.0001]},
        set={"optimizer.lr": "lr", "optimizer.weight_decay": "decay / lr"},
        search=["tasks.cars.train=cars_train"],   # overrides while searching
        final=[],                                 # overrides of the last training, of the best
    )

Every combination of the grid's values is a point. ``set`` says which keys of the config a point
sets: to a name of the grid, or to names and numbers multiplied and divided from left to right.
Without ``set`` the names of the grid are keys of the config themselves.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError

Value = str | int | float | bool | None
Point = dict[str, Value]

_OPERATOR = re.compile(r"\s*([*/])\s*")
_WORD = re.compile(r"(?!true$|false$|null$)[A-Za-z_./][\w./-]*")  # read as a text without quotes


@dataclass(frozen=True)
class Plan:
    """A search over a grid.

    Args:
        metric: name in ``results.json``, as "bbox/AP"; "task/bbox/AP" where several tasks have it.
        direction: "maximize" or "minimize".
        grid: name -> its values.
        set: key of the config -> expression over names of the grid; empty sets the names.
        search: ``key=value`` overrides of every trial.
        final: ``key=value`` overrides of the training with the best point.

    Raises:
        ValueError: something that cannot be meant, with what is allowed.
    """

    metric: str
    grid: Mapping[str, Sequence[Value]]
    direction: str = "maximize"
    set: Mapping[str, str] | None = None
    search: Sequence[str] = ()
    final: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise ValueError(f"sweep.metric is {self.metric!r}; name one of results.json.")
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(
                f"sweep.direction is {self.direction!r}; allowed are 'maximize' and 'minimize'."
            )
        if not isinstance(self.grid, Mapping) or not self.grid:
            raise ValueError("sweep.grid is empty; give at least one name with its values.")
        for name, values in self.grid.items():
            _check_values(name, values)
        for key in ("search", "final"):
            entries = getattr(self, key)
            if isinstance(entries, str) or not all(
                isinstance(e, str) and "=" in e for e in entries
            ):
                raise ValueError(f"sweep.{key} is {entries!r}; give a list of 'key=value'.")
        used: set[str] = set()
        for key, expression in self.assignments.items():
            used.update(_names_of(key, expression, self.grid))
        idle = [name for name in self.grid if name not in used]
        if idle:
            raise ValueError(
                f"sweep.set uses {idle[0]!r} of the grid nowhere; let it set a key of the config."
            )

    @classmethod
    def of(cls, section: Mapping[str, Any] | None, source: str) -> Plan:
        """Read the ``sweep`` section of a config, plain data.

        Args:
            section: of the config; None where it has none.
            source: name of the config, for the sentence.
        """
        if section is None:
            raise ValueError(
                f"{source!r} has no `sweep` section; give it one with metric and grid "
                "(python -m gppf_d2.tools.sweep --help)."
            )
        known = list(cls.__dataclass_fields__)
        for key in section:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"sweep has no {key!r}; it takes {', '.join(known)}.{hint}")
        missing = [key for key in ("metric", "grid") if key not in section]
        if missing:
            raise ValueError(f"The `sweep` section of {source!r} lacks {', '.join(missing)}.")
        return cls(**section)

    @property
    def assignments(self) -> dict[str, str]:
        """Key of the config -> expression."""
        return dict(self.set) if self.set else {name: name for name in self.grid}

    @property
    def maximize(self) -> bool:
        return self.direction == "maximize"

    def points(self) -> list[Point]:
        """All points, the last name of the grid moving fastest."""
        return [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]

    def overrides(self, point: Point) -> list[str]:
        """``key=value`` of a point.

        Raises:
            ValueError: a division by zero, or a text in a product.
        """
        return [
            f"{key}={as_text(_evaluate(key, expression, point))}"
            for key, expression in self.assignments.items()
        ]

    def better(self, one: float, other: float) -> bool:
        return one > other if self.maximize else one < other

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as JSON gives it back; equal for plans that do the same."""
        return json.loads(json.dumps(asdict(self) | {"set": self.assignments}, default=list))


def plan_of(cfg: DictConfig, source: str) -> Plan:
    """The plan of a config, see ``Plan.of``.

    Args:
        cfg: with the overrides of every training, which may change its ``sweep`` section.
        source: name of the config, for the sentence.
    """
    section = OmegaConf.to_container(cfg.sweep, resolve=True) if "sweep" in cfg else None
    return Plan.of(section, source)


def check_overrides(plan: Plan, config_file: str, overrides: Sequence[str]) -> None:
    """Find out now what every trial would fail with: unknown keys, texts for numbers.

    Args:
        plan: of the config with the overrides.
        config_file: of the sweep.
        overrides: ``key=value`` of every training.

    Raises:
        UserError: one that cannot be read, or is the sweep's own.
    """
    given = [override.partition("=")[0].lstrip("+") for override in overrides]
    for key in [*plan.assignments, "train.output_dir"]:
        if key in given:
            raise UserError(f"The override of {key!r} is the sweep's own; leave it out.")
    points = plan.points()
    for phase in (plan.search, plan.final):
        load_config(config_file, [*phase, *overrides, *plan.overrides(points[0])])
    for point in points:
        plan.overrides(point)


def describe(point: Point, digits: int = 3) -> str:
    """A point for readers: ``lr 0.00215, weight_decay 0``."""
    return ", ".join(f"{name} {short(value, digits)}" for name, value in point.items())


def short(value: Value, digits: int = 3) -> str:
    """A value for readers, numbers with a few significant digits."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return str(value)


def as_text(value: Value) -> str:
    """A value as the right side of an override; texts are quoted where they need it."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _WORD.fullmatch(value):
        return value
    doubled = re.sub(r"\\+(?=$|')", lambda found: 2 * found[0], value)  # Hydra's rule of escapes
    return "'" + doubled.replace("'", "\\'") + "'"


def pick_metric(results: Mapping[str, Mapping[str, float | None]], metric: str) -> float:
    """The value of a metric in the content of ``results.json``.

    Args:
        results: ``{task: {metric: value}}``.
        metric: "kind/name", or "task/kind/name".

    Raises:
        ValueError: there is none, it is ambiguous, or its value is not a finite number.
    """
    flat = {f"{task}/{name}": v for task, values in results.items() for name, v in values.items()}
    found = [name for name in flat if name == metric]
    found = found or [f"{task}/{metric}" for task in results if metric in results[task]]
    if len(found) != 1:
        what = "several tasks have" if found else "there is no"
        names = ", ".join(sorted(found or flat)) or "nothing"
        raise ValueError(f"{what} {metric!r} in results.json, which has {names}.")
    value = flat[found[0]]
    if value is None or not math.isfinite(value):
        raise ValueError(f"{metric} is not a finite number.")
    return float(value)


def _check_values(name: str, values: Any) -> None:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"sweep.grid.{name} is {values!r}; give a list of values.")
    for value in values:
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise ValueError(
                f"sweep.grid.{name} holds {value!r}; values are numbers, texts, true, false, null."
            )
    if len(set(values)) < len(values):
        raise ValueError(f"sweep.grid.{name} names a value twice: {list(values)}.")


def _names_of(key: str, expression: str, grid: Mapping[str, Any]) -> list[str]:
    """The names of the grid in an expression."""
    names = []
    for operand in _OPERATOR.split(str(expression).strip())[::2]:
        if operand in grid:
            names.append(operand)
        elif _number(operand) is None:
            raise ValueError(
                f"sweep.set has {key!r}: {expression!r}; an expression holds names of the grid "
                f"({', '.join(grid)}) and numbers, with * and / between them."
            )
    return names


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _evaluate(key: str, expression: str, point: Point) -> Value:
    first, *rest = _OPERATOR.split(str(expression).strip())
    value = point[first] if first in point else _number(first)
    for operator, operand in zip(rest[::2], rest[1::2]):
        other = point[operand] if operand in point else _number(operand)
        if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (value, other)):
            raise ValueError(f"sweep.set has {key!r}: {expression!r}, and {point} is not numbers.")
        if operator == "/" and other == 0:
            raise ValueError(f"sweep.set has {key!r}: {expression!r}, a division by 0 at {point}.")
        value = value * other if operator == "*" else value / other
    return value
