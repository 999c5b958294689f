"""Pseudo-labelled images: the folders that ``gppf_d2.tools.pseudo_label`` has written.

Every folder ``pseudo/<name>`` is the dataset ``pseudo_<name>``. What its manifest says of classes
is in the metadata: ``classes``, ``thing_classes`` and ``stuff_classes``, of the first label of each
kind, and ``pseudo_labels``, label -> what it is (``StoredLabel``). A folder without a manifest is
not labelled to its end, which is said when its records are asked for.
"""

from __future__ import annotations

import contextlib
import os

from detectron2.data import MetadataCatalog

from gppf_d2.data.index.pseudo_labels import PseudoLabelSource
from gppf_d2.data.pseudo_labels import Manifest, read_manifest
from gppf_d2.data.registration import register_dataset

CLASSES = {"classes": "classes", "instances": "thing_classes", "sem_seg": "stuff_classes"}


def metadata_of(manifest: Manifest) -> dict[str, object]:
    """What a manifest says of its labels, as entries of Detectron2's metadata."""
    found: dict[str, object] = {"pseudo_labels": dict(manifest.labels)}
    for label in manifest.labels.values():
        key = CLASSES.get(label.kind)
        if key and label.classes:
            found.setdefault(key, list(label.classes))
    if "stuff_classes" in found:
        found["ignore_label"] = 255
    return found


def register(root: str) -> None:
    """Register the folders of labels in ``pseudo``; ``root`` holds it."""
    root = os.path.abspath(root)
    place = os.path.join(root, "pseudo")
    if not os.path.isdir(place):
        return
    with os.scandir(place) as entries:
        found = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for entry in found:
        source = PseudoLabelSource(os.path.join(place, entry))
        hint = "give the command that labelled it again, until it is finished"
        register_dataset(source.name, root, source=source, hint=hint)
        metadata = MetadataCatalog.get(source.name)
        if metadata.get("data_root") == root and metadata.get("pseudo_labels") is None:
            # what is wrong with it is told when it is opened
            with contextlib.suppress(OSError, ValueError):
                metadata.set(**metadata_of(read_manifest(source.folder)))
