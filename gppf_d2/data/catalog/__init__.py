"""The datasets that the package knows, one module each.

A module holds ``register(root)``, which names its datasets in Detectron2's catalogs without reading
a file. A dataset of one's own needs no module here: whatever is in Detectron2's catalogs when the
configuration is built can be named in it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil


def register_all(root: str | os.PathLike[str] | None = None) -> None:
    """Register the datasets of all modules of this package; calling it again changes nothing.

    Args:
        root: folder that holds the datasets; None is $DETECTRON2_DATASETS, or "datasets" where that
            is not set, as in Detectron2. Another root takes the place of the one before.
    """
    if root is None:
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    folder = os.path.abspath(os.path.expanduser(os.fspath(root)))
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}").register(folder)
