"""What there is of every label: counted per shard, added up for the manifest.

Counts are whole numbers by name, so that sums do not depend on their order: "images"; "instances"
and "masks", or "labelled" of "pixels"; and "class <k>", images, instances or pixels of a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gppf_d2.data.pseudo_labels import IGNORE, Row, StoredLabel

Counts = dict[str, int]


def count(label: StoredLabel, value: Any) -> Counts:
    """What one image has of a label.

    Args:
        label: what it is.
        value: as ``encode`` takes it.
    """
    if label.kind == "classes":
        return {"images": 1, f"class {int(np.argmax(value))}": 1}
    if label.kind == "instances":
        numbers, times = np.unique(value["categories"], return_counts=True)
        found = {"instances": int(times.sum()), "masks": len(value.get("masks", ()))}
    else:
        numbers, times = (), ()
        known = np.isfinite(value) if label.kind == "inverse_depth" else value > 0
        if label.kind == "sem_seg":
            pixels = np.bincount(value.ravel(), minlength=IGNORE + 1)[:IGNORE]
            numbers = np.flatnonzero(pixels)
            times = pixels[numbers]
            known = value != IGNORE
        found = {"labelled": int(known.sum()), "pixels": int(value.size)}
    classes = {f"class {int(k)}": int(n) for k, n in zip(numbers, times)}
    return {"images": 1, **found, **classes}


def add_counts(
    labels: Mapping[str, StoredLabel], rows: Sequence[Row], *more: Mapping[str, Counts]
) -> dict[str, Counts]:
    """The sum over rows and over what was summed before.

    Args:
        labels: by name.
        rows: of a shard.
        *more: label -> counts.
    """
    found = {}
    for name in labels:
        total: Counter[str] = Counter()
        counted = (row.counts.get(name, {}) for row in rows if not row.error)
        for part in [*counted, *(m.get(name, {}) for m in more)]:
            total.update(part)
        found[name] = {key: total[key] for key in sorted(total)}
    return found


def summary(label: StoredLabel, counts: Counts) -> dict[str, Any]:
    """Counts as the manifest has them.

    Args:
        label: what was counted.
        counts: of all images.

    Returns:
        "images"; "per_class", by name: images of which it is the most probable class, instances, or
        shares of the labelled pixels; "instances" and "masks"; "labelled", the share of pixels.
    """
    found: dict[str, Any] = {"images": counts.get("images", 0)}
    classes = {int(k.split()[1]): n for k, n in counts.items() if k.startswith("class ")}
    names = {k: label.classes[k] if k < len(label.classes) else str(k) for k in sorted(classes)}
    if label.kind == "instances":
        found |= {key: counts.get(key, 0) for key in ("instances", "masks")}
    if label.kind in ("classes", "instances"):
        found["per_class"] = {names[k]: classes[k] for k in names}
    else:
        found["labelled"] = _share(counts.get("labelled", 0), counts.get("pixels", 0))
    if label.kind == "sem_seg":
        labelled = counts.get("labelled", 0)
        found["per_class"] = {names[k]: _share(classes[k], labelled) for k in names}
    return found


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
