"""Names of metrics: ``<kind>/<metric>``, and ``<kind>/<metric>-<class>`` for a single class.

A run's results may put the name of a dataset in front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

_OF_CLASS = re.compile(r"/\w+-")  # names of datasets, in front, may have a hyphen too
_Value = TypeVar("_Value")


def overall(metrics: Mapping[str, _Value]) -> dict[str, _Value]:
    """Without the values of single classes."""
    return {name: value for name, value in metrics.items() if not _OF_CLASS.search(name)}
