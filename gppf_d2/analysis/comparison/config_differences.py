"""What differs between the configs of several runs: flat keys, only those that differ.

Mappings are compared key by key. Lists of one length that hold mappings or lists are compared place
by place; other lists are values as a whole. A part that some runs lack altogether (a task, say) is
told once, and of what is inside it only what differs between the runs that have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# two runs never agree in these, and they say nothing about what was trained
LEFT_OUT = ("train.output_dir",)
_ABSENT = object()  # the run has what is around the key, not the key
_OUTSIDE = object()  # the run does not even have what is around it


@dataclass(frozen=True)
class Difference:
    """A key that differs.

    Args:
        key: "optimizer.lr", "tasks.coco.mapper.augmentations[0].max_size".
        values: text of every run's value, None where a run does not have the key.
    """

    key: str
    values: tuple[str | None, ...]


def config_differences(configs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Keys whose values differ, in the order of the configs.

    Args:
        configs: ``config.yaml`` of every run as plain containers.
    """
    return [found for found in _walk("", list(configs)) if found.key not in LEFT_OUT]


def _walk(key: str, values: Sequence[Any]) -> Iterator[Difference]:
    counted = [value for value in values if value is not _OUTSIDE]
    there = [value for value in counted if value is not _ABSENT]
    if len(there) == len(counted) and all(value == there[0] for value in there):
        return
    names = _names(there)
    if names is None or len(there) < len(counted):
        yield Difference(key, tuple(map(_text, values)))
    if len(there) > 1:
        for name in names or ():
            place = f"{key}[{name}]" if isinstance(name, int) else f"{key}.{name}".lstrip(".")
            yield from _walk(place, [_item(value, name) for value in values])


def _names(values: Sequence[Any]) -> list[Any] | None:
    """Keys or places of what all these values hold; None where they are compared as a whole."""
    if all(isinstance(value, Mapping) for value in values):
        return list(dict.fromkeys(name for value in values for name in value))
    if not all(isinstance(value, list) for value in values) or len({*map(len, values)}) > 1:
        return None
    nested = any(isinstance(item, (Mapping, list)) for value in values for item in value)
    return list(range(len(values[0]))) if nested else None


def _item(value: Any, name: Any) -> Any:
    if value is _ABSENT or value is _OUTSIDE:
        return _OUTSIDE
    return value.get(name, _ABSENT) if isinstance(value, Mapping) else value[name]


def _text(value: Any) -> str | None:
    """A value in a few words: what holds many settings says what it is, or how many they are."""
    if value is _ABSENT or value is _OUTSIDE:
        return None
    if isinstance(value, Mapping) and value:
        kind = str(value.get("_target_") or "").rpartition(".")[2]
        count = _leaves(value)
        return f"{kind} " * bool(kind) + f"({count} setting{'s' * (count != 1)})"
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        return ", ".join(str(_text(item)) for item in value)
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _leaves(value: Any) -> int:
    if isinstance(value, (Mapping, list)) and value:
        inner = value.values() if isinstance(value, Mapping) else value
        return sum(map(_leaves, inner))
    return 1
