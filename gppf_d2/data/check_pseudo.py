"""What is wrong with the pseudo labels of an image, for ``check``.

The image must be the one that was labelled, by name, content and size, and its labels must be whole
and in range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gppf_d2.data.index.pseudo_labels import is_labelled_image
from gppf_d2.data.mappers.reading import load_image, read_bytes
from gppf_d2.data.problems import Problem, object_problems, sentence, unreadable
from gppf_d2.data.pseudo_labels import IGNORE, StoredLabel, image_hash, open_shard


def pseudo_problems(record: Mapping[str, Any]) -> Iterator[Problem]:
    """What is missing or broken in the image of a record and its pseudo labels.

    Args:
        record: with "file_name", "pseudo_shard" and "pseudo_row".
    """
    image = {key: record[key] for key in ("file_name", "tar_file", "tar_offset") if key in record}
    name, row = record["file_name"], record["pseudo_row"]
    try:
        data = read_bytes(image)
        load_image(image, data)
    except OSError as error:
        yield unreadable(error, record.get("tar_file", name))
        return
    try:
        shard = open_shard(record["pseudo_shard"])
        labelled = shard.cell("file_name", row)
        size = shard.cell("height", row), shard.cell("width", row)
        labels = shard.read(row)
    except FileNotFoundError as error:
        yield unreadable(error, record["pseudo_shard"])
        return
    except (OSError, ValueError) as error:  # Arrow and its codecs raise both
        yield Problem(
            "unreadable", f"the labels of '{name}' in '{record['pseudo_shard']}': {sentence(error)}"
        )
        return
    if not is_labelled_image(record) or image_hash(data) != shard.cell("image_hash", row):
        yield Problem("labels", f"'{name}' is not the image '{labelled}' that was labelled")
    if size != (image["height"], image["width"]):
        text = f"'{name}' is {image['width']} x {image['height']}, its labels {size[1]} x {size[0]}"
        yield Problem("size", text)
    known = {"height": size[0], "width": size[1]}
    for key, value in labels.items():
        for kind, text in _label_problems(shard.labels[key], value, known):
            yield Problem(kind, f"'{name}', label '{key}', {text}")


def _label_problems(
    label: StoredLabel, value: Any, size: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """(kind, end of the sentence)."""
    if label.kind == "instances":
        for annotation in value:
            yield from object_problems(annotation, size, range(label.num_classes))
    elif label.kind == "sem_seg":
        largest = int(value[value != IGNORE].max(initial=0))
        if label.num_classes and largest >= label.num_classes:
            yield "labels", f"holds the class {largest}, expected 0 to {label.num_classes - 1}"
    elif label.kind == "classes" and not np.isfinite(value).all():
        yield "labels", "holds probabilities that are not finite"
    elif label.kind == "depth" and not (np.isfinite(value) & (value >= 0)).all():
        yield "labels", "holds depths that are negative or not finite"
