"""One page that shows stored pseudo labels: every image with all its labels side by side.

``write_label_page(folder, output)`` reads a folder of labels (``data.pseudo_labels``) and the
images that it names. The page opens from disk without a network, on bright and dark screens, on
phones and on paper. Above the images stands what the manifest says: labels and teachers, counts per
class, images without labels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata

from gppf_d2.analysis import page
from gppf_d2.analysis.figures import write_file
from gppf_d2.analysis.label_summary import summary_sections
from gppf_d2.analysis.predictions.class_names import class_colors, class_name
from gppf_d2.analysis.predictions.drawing import draw
from gppf_d2.analysis.predictions.pictures import fit
from gppf_d2.data.index.pseudo_labels import PseudoLabelSource
from gppf_d2.data.label_outputs import as_output
from gppf_d2.data.mappers.reading import read_image
from gppf_d2.data.pseudo_labels import (
    IGNORE,
    Manifest,
    StoredLabel,
    open_shard,
    read_labels,
    read_manifest,
)

ORDERS = ("even", "random", "few", "many", "unsure", "sure")
# order -> kind of label that it looks at
ORDERED_BY = {"few": "instances", "many": "instances", "unsure": "classes", "sure": "classes"}
NAME_KEYS = {"classes": "classes", "instances": "thing_classes", "sem_seg": "stuff_classes"}
MOST_IN_LEGEND = 12


def write_label_page(
    folder: str | Path,
    output: str | Path,
    *,
    count: int = 48,
    labels: Sequence[str] | None = None,
    order: str = "even",
    seed: int = 0,
) -> Path:
    """Write the page of a folder of pseudo labels.

    Args:
        folder: of the labels, finished.
        output: path of the page.
        count: images on it, >= 1.
        labels: names of the labels that are shown; None shows all.
        order: "even" spreads the images over all, "random" draws them; "few" and "many" take those
            with the fewest and most objects, "unsure" and "sure" those whose most probable class
            has the least and most probability.
        seed: of "random".

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: an unknown label or order, or an order that the labels do not allow.
    """
    manifest = read_manifest(folder)
    shown = shown_labels(manifest, labels)
    picks = pick_images(manifest, count, order, shown, seed)
    records = PseudoLabelSource(os.fspath(folder)).open_records()
    cards = [_card(records[int(place)], shown) for place in picks]
    lead = f"{len(picks):,} of {len(records):,} labelled images, {_words(order)}."
    images = page.section("images", "Images", *cards, lead=page.escape(lead))
    name = Path(folder).resolve().name
    parts = [*summary_sections(manifest, shown), ("images", "Images", images)]
    text = page.page(
        f"{name} · pseudo labels",
        _header(name, manifest, shown),
        parts,
        "Written by gppf_d2.tools.view_labels.",
    )
    return write_file(output, text.encode("utf-8", "backslashreplace"))


def shown_labels(manifest: Manifest, names: Sequence[str] | None) -> dict[str, StoredLabel]:
    """The labels of these names, in the manifest's order; None gives all.

    Raises:
        ValueError: a name that no label has.
    """
    for name in names or ():
        if name not in manifest.labels:
            known = ", ".join(manifest.labels)
            raise ValueError(f"There is no label {name!r} in '{manifest.folder}'; it has {known}.")
    return {
        name: label for name, label in manifest.labels.items() if names is None or name in names
    }


def pick_images(
    manifest: Manifest, count: int, order: str, labels: Mapping[str, StoredLabel], seed: int = 0
) -> np.ndarray:
    """Which images are shown.

    Args:
        manifest: of the folder.
        count: as of ``write_label_page``, like ``order`` and ``seed``.
        labels: those that are shown; the first of the kind that an order looks at decides.

    Returns:
        Places among the labelled images, int64 [at most count].

    Raises:
        ValueError: an unknown order, no such label, a count below 1.
    """
    if order not in ORDERS:
        raise ValueError(f"The order is {order!r}; choose one of {', '.join(ORDERS)}.")
    if count < 1:
        raise ValueError(f"The count of images is {count}; show at least 1.")
    total = len(manifest) - len(manifest.corrupt)
    count = min(count, total)
    if order == "even":
        return np.unique(np.linspace(0, total - 1, count).round().astype(np.int64))
    if order == "random":
        return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    kind = ORDERED_BY[order]
    name = next((name for name, label in labels.items() if label.kind == kind), None)
    if name is None:
        shown = ", ".join(f"{name} ({label.kind})" for name, label in labels.items())
        raise ValueError(
            f"The order {order!r} needs a label of kind {kind!r}, but here are {shown}; choose "
            "'even' or 'random'."
        )
    values = _measured(manifest, name, kind)[manifest.labelled()]
    return np.argsort(values if order in ("few", "unsure") else -values, kind="stable")[:count]


def _measured(manifest: Manifest, name: str, kind: str) -> np.ndarray:
    """Per image how many objects it has, or how probable its first class is, from columns."""
    parts = []
    for start in range(0, len(manifest), manifest.shard_size):
        shard = open_shard(manifest.place(start)[0])
        if kind == "instances":
            lengths = shard.column(f"{name}.scores").value_lengths()
            parts.append(lengths.to_numpy(zero_copy_only=False))
        else:
            cells = shard.column(f"{name}.probabilities")
            shares = cells.flatten().to_numpy().reshape(len(cells), -1)
            parts.append(shares.max(1).astype(np.float32))
    return np.concatenate(parts)


def _words(order: str) -> str:
    words = {
        "even": "spread evenly",
        "random": "drawn at random",
        "few": "those with the fewest objects first",
        "many": "those with the most objects first",
        "unsure": "those whose class is least certain first",
        "sure": "those whose class is most certain first",
    }
    return words[order]


def _header(name: str, manifest: Manifest, labels: Mapping[str, StoredLabel]) -> str:
    corrupt = len(manifest.corrupt)
    source = manifest.dataset or manifest.image_folder
    over = f"pseudo labels · {', '.join(labels)} · images of {source}"
    state = f"{len(manifest) - corrupt:,} images labelled"
    css = "done"
    if corrupt:
        state, css = f"{state} · {corrupt:,} without labels", "open"
    return (
        f'<p class="over">{page.escape(over)}</p><h1>{page.escape(name)}</h1>'
        f'<span class="state {css}">{page.escape(state)}</span>'
    )


def _card(record: Mapping[str, Any], labels: Mapping[str, StoredLabel]) -> str:
    """One image with its labels."""
    record = dict(record)
    name = os.path.basename(record["file_name"])
    title = f"<h3>{page.escape(name)}</h3>"
    try:
        image = np.ascontiguousarray(read_image(record, "RGB"))
        values = read_labels(record, list(labels))
    except (OSError, ValueError) as error:
        return f'<article class="card">{title}{page.missing(str(error))}</article>'
    size = f"{image.shape[1]} × {image.shape[0]} pixels"
    parts = [page.pixels(fit(image), f"The image {name}", page.escape(size))]
    for label, facts in labels.items():
        parts.append(_label(image, name, label, facts, values[label]))
    pictures = "".join(parts)
    return f'<article class="card">{title}<div class="pictures">{pictures}</div></article>'


def _label(image: np.ndarray, file: str, name: str, label: StoredLabel, value: Any) -> str:
    """One label of one image: a picture, or a table of probabilities."""
    metadata = names_of(label)
    title = f"<b>{page.escape(name)}</b> "
    if label.kind == "classes":
        return page.figure(_bars(value, metadata), title)
    output = as_output(label.kind, value, image.shape[:2])
    drawn = draw(image, output, metadata, min_score=0.0)
    if label.kind == "sem_seg":
        shares = _shares(value, metadata)
        words = ", ".join(f"{text} {share:.0%}" for _, text, share in shares)
        return page.pixels(drawn, f"{name} of {file}: {words}", title + _legend(shares))
    words = _instances_words(value, metadata) if label.kind == "instances" else _range(label, value)
    return page.pixels(drawn, f"{name} of {file}: {words}", title + page.escape(words))


@functools.lru_cache
def _names_of(key: str, classes: tuple[str, ...]) -> Metadata:
    return Metadata(**{key: list(classes)})


def names_of(label: StoredLabel) -> Metadata:
    """Metadata with the names of a label's classes."""
    return _names_of(NAME_KEYS.get(label.kind, "classes"), label.classes)


def _bars(shares: np.ndarray, metadata: Metadata) -> str:
    best = np.argsort(-shares, kind="stable")[:5]
    rows = [
        (
            page.escape(class_name(metadata, int(index), "classes")),
            page.bar(float(shares[index])),
            f"{shares[index]:.1%}",
        )
        for index in best
    ]
    return page.table([], rows, css="metrics")


def _instances_words(annotations: Sequence[Mapping[str, Any]], metadata: Metadata) -> str:
    names = [class_name(metadata, entry["category_id"], "instances") for entry in annotations]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {number}" for name, number in ordered) or "nothing found"


def _range(label: StoredLabel, values: np.ndarray) -> str:
    if label.kind == "inverse_depth":
        return "relative: bright is near"
    known = values[values > 0]
    if not known.size:
        return "no depth"
    low, middle, high = np.percentile(known, (0, 50, 100))
    return f"{low:.3g} to {high:.3g} m, median {middle:.3g} m"


def _shares(labels: np.ndarray, metadata: Metadata) -> list[tuple[int, str, float]]:
    """Classes of a map with their shares of the pixels, the largest first, then what is ignored."""
    found, counts = np.unique(labels, return_counts=True)
    shares = [
        (int(index), class_name(metadata, int(index), "sem_seg"), count / labels.size)
        for index, count in sorted(zip(found, counts), key=lambda pair: -pair[1])
        if index != IGNORE
    ]
    ignored = float((labels == IGNORE).mean())
    return [*shares, (IGNORE, "not labelled", ignored)] if ignored else shares


def _legend(shares: Sequence[tuple[int, str, float]]) -> str:
    """Colours of the classes of a map; what is ignored is hatched in the picture."""
    classes = [entry for entry in shares if entry[0] != IGNORE]
    shown = classes[:MOST_IN_LEGEND] + [entry for entry in shares if entry[0] == IGNORE]
    items = []
    for index, name, share in shown:
        color = "#3a3d42"
        if index != IGNORE:
            channels = class_colors(index + 1)[index]
            color = "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
        hatch = '<path d="M0 12 12 0M-3 3 3-3M9 15 15 9"/>' if index == IGNORE else ""
        swatch = (
            '<svg class="swatch" width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">'
            f'<rect width="12" height="12" fill="{color}"/>{hatch}</svg>'
        )
        items.append(f"<li>{swatch}{page.escape(name)} {share:.0%}</li>")
    if len(classes) > MOST_IN_LEGEND:
        items.append(f"<li>and {len(classes) - MOST_IN_LEGEND} more</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'
