"""The datasets that the package knows, one module each.

A module holds ``register(root)``, which names its datasets in Detectron2's catalogs without reading
a file. A dataset of one's own needs no module here: whatever is in Detectron2's catalogs when the
configuration is built can be named in it.
"""

from __future__ import annotations

import importlib
import os
import pkgutil

# training and validation sets of the eight pre-training tasks (paper, section 3.1)
GPPF_15M = (
    "imagenet_21k_p_train", "imagenet_21k_p_val",
    "coco_2017_train", "coco_2017_val",
    "lvis_v1_train", "lvis_v1_val",
    "objects365_v2_train", "objects365_v2_val",
    "openimages_challenge_2019_train", "openimages_challenge_2019_val",
    "ade20k_sem_seg_train", "ade20k_sem_seg_val",
    "voc_2012_aug_sem_seg_train", "voc_2012_sem_seg_val",
    "coco_stuff_164k_sem_seg_train", "coco_stuff_164k_sem_seg_val",
)  # fmt: skip


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
