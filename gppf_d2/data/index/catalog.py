"""The index of any dataset that Detectron2's catalogs know, by its name.

A dataset says itself what it is made from (``source`` of ``registration.register_dataset``), or it
was registered by Detectron2's ``register_coco_instances``, whose file is known, or it is a function
whose result is all that is known (``CatalogSource``).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetCatalog

from gppf_d2.data.index.catalog_source import CatalogSource
from gppf_d2.data.index.coco import CocoJsonSource
from gppf_d2.data.index.opening import open_source
from gppf_d2.data.index.records import Records, RecordSequence
from gppf_d2.data.index.source import DerivedSource, Source

# Datasets of which only a function is known: the function and its records, and the number of
# functions that the name stood for before.
_OPENED: dict[str, tuple[Callable, Records]] = {}
_GENERATIONS: dict[str, int] = {}


def open_records(name: str) -> RecordSequence:
    """The records of a registered dataset: equal to ``DatasetCatalog.get(name)``, at no memory.

    The first call on a machine builds the index, later ones map it; of a dataset of which only a
    function is known the index serves this run, and the function is called once in it.

    Args:
        name: in Detectron2's ``DatasetCatalog``.

    Returns:
        A sequence of Detectron2 records, each a fresh dict.

    Raises:
        KeyError: no such dataset.
        FileNotFoundError: a file of the dataset is missing.
        ValueError: the dataset is broken.
    """
    if name not in DatasetCatalog:
        raise KeyError(f"Dataset {name!r} is not registered; register it, or mend the name.")
    function = DatasetCatalog[name]
    source = source_of(name, function)
    if source is not None:
        with getattr(function, "explained", contextlib.nullcontext)():
            return open_source(source)
    before, records = _OPENED.get(name, (None, None))
    if before is not function:
        _GENERATIONS[name] = _GENERATIONS.get(name, -1) + 1
    elif records.path.exists():  # otherwise the process has joined another run since
        return records
    records = open_source(CatalogSource(name, function, _GENERATIONS[name]))
    _OPENED[name] = (function, records)
    return records


def source_of(name: str, function: Callable[[], Any]) -> Source | DerivedSource | None:
    """What a dataset is made from; None where only its function is known.

    Args:
        name: of the dataset.
        function: its entry in ``DatasetCatalog``.
    """
    source = getattr(function, "source", None)
    if isinstance(source, (Source, DerivedSource)):
        return source
    if getattr(function, "__module__", "") != "detectron2.data.datasets.coco":
        return None
    if not function.__qualname__.startswith("register_coco_instances."):
        return None
    bound = inspect.getclosurevars(function).nonlocals
    if not {"json_file", "image_root"} <= set(bound):
        return None
    return CocoJsonSource(str(bound["json_file"]), str(bound["image_root"]), name)
