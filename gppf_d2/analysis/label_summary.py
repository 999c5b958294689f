"""The head of the page of pseudo labels: what the manifest says, in tables and small charts.

Labels with what was kept of them, teachers with the hashes of their weights, counts per class, and
the images that have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from gppf_d2.analysis import page
from gppf_d2.analysis.figures import LIGHT, Theme, new_figure, style_axes
from gppf_d2.data.pseudo_labels import Manifest, StoredLabel

MOST_CLASSES = 20  # bars of a chart
MOST_CORRUPT = 50  # lines of the table


def summary_sections(
    manifest: Manifest, labels: Mapping[str, StoredLabel]
) -> list[tuple[str, str, str]]:
    """Sections (anchor, title, HTML) above the images.

    Args:
        manifest: of the folder.
        labels: those that are shown.
    """
    sections = [
        ("labels", "Labels", _labels(manifest, labels)),
        ("teachers", "Teachers", _teachers(manifest, labels)),
    ]
    charts = "".join(_chart(name, label) for name, label in labels.items())
    if charts:
        part = page.section("counts", "Counts", f'<div class="grid">{charts}</div>')
        sections.append(("counts", "Counts", part))
    if manifest.corrupt:
        sections.append(("unreadable", "Images without labels", _corrupt(manifest)))
    return sections


def _labels(manifest: Manifest, labels: Mapping[str, StoredLabel]) -> str:
    head = ["Label", "kind", "teacher", "classes", "kept", "images", "what there is"]
    rows = [
        (
            page.escape(name),
            page.escape(label.kind.replace("_", " ")),
            page.escape(label.teacher),
            f"{label.num_classes:,}" if label.num_classes else "",
            page.escape(_kept(label)),
            _number(label.counts.get("images")),
            page.escape(_amount(label)),
        )
        for name, label in labels.items()
    ]
    table = page.table(head, rows, css="words")
    frame = page.scroll(table, "Labels")
    lead = f"Hash of all images: <code>{page.escape(manifest.image_hash)}</code>"
    return page.section("labels", "Labels", frame, lead=lead)


def _kept(label: StoredLabel) -> str:
    """What was stored of what the teacher said."""
    words = []
    if label.kind == "classes":
        words.append(f"the {label.top_k} most probable" if label.top_k else "all probabilities")
    if label.kind in ("instances", "sem_seg"):
        words.append(f"≥ {label.threshold:g}" if label.threshold else "everything")
    if label.longest:
        words.append(f"at most {label.longest} pixels")
    return ", ".join(words) or "as predicted"


def _amount(label: StoredLabel) -> str:
    counts = label.counts
    if "instances" in counts:
        images = counts.get("images") or 0
        words = f"{counts['instances']:,} objects"
        words += f", {counts['instances'] / images:.1f} an image" if images else ""
        return f"{words}, {counts['masks']:,} masks" if counts.get("masks") else words
    if isinstance(counts.get("labelled"), float):
        return f"{counts['labelled']:.1%} of the pixels"
    return ""


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _teachers(manifest: Manifest, labels: Mapping[str, StoredLabel]) -> str:
    cards = []
    for name, facts in manifest.teachers.items():
        given = [label for label, stored in labels.items() if stored.teacher == name]
        entries = [("Labels", ", ".join(given) or "none of those shown")]
        entries += [
            (key.replace("_", " "), _text(value)) for key, value in facts.items() if key != "labels"
        ]
        listed = page.facts(entries, longest=24)
        cards.append(f'<div class="card"><h3>{page.escape(name)}</h3>{listed}</div>')
    return page.section("teachers", "Teachers", f'<div class="grid">{"".join(cards)}</div>')


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def per_class(label: StoredLabel) -> dict[str, float]:
    """What there is of every class of a label, the most frequent first: objects, or shares of the
    labelled pixels; {} where nobody counted."""
    counts = label.counts.get("per_class") or {}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def counts_figure(title: str, counts: Mapping[str, float], theme: Theme = LIGHT) -> Figure:
    """Bars of the most frequent classes.

    Args:
        title: of the chart.
        counts: class -> how many, or a share (float), the most frequent first; at least one.
        theme: colours.
    """
    shown = list(counts.items())[:MOST_CLASSES]
    rest = list(counts.items())[MOST_CLASSES:]
    if rest:
        shown.append((f"{len(rest)} more classes", sum(number for _, number in rest)))
    figure = new_figure(4.6, 0.7 + 0.2 * len(shown), theme)
    axes = figure.add_subplot()
    style_axes(axes, theme, title=title)
    most = max(number for _, number in shown) or 1
    colors = [theme.palette[0]] * len(shown)
    if rest:
        colors[-1] = theme.muted
    axes.barh(range(len(shown)), [number for _, number in shown], height=0.62, color=colors)
    for row, (_, number) in enumerate(shown):
        axes.text(
            number + 0.015 * most, row, _said(number), va="center", fontsize=7.5, color=theme.muted
        )
    axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown], fontsize=8)
    axes.set(xlim=(0, 1.18 * most), ylim=(len(shown) - 0.4, -0.6), xticks=[])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return figure


def _said(number: float) -> str:
    return f"{number:.1%}" if isinstance(number, float) else f"{number:,}"


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _chart(name: str, label: StoredLabel) -> str:
    counts = per_class(label)
    if not counts:
        return ""
    first = ", ".join(f"{key} {_said(number)}" for key, number in list(counts.items())[:5])
    what = {"instances": "objects", "sem_seg": "labelled pixels"}.get(label.kind, "images")
    title = f"{name}: {what} of each class"
    return page.chart(
        lambda theme: counts_figure(title, counts, theme),
        f"Bars of {what} of each class of label {name}; most frequent are {first}",
    )


def _corrupt(manifest: Manifest) -> str:
    rows = [
        (page.escape(entry["file_name"]), page.escape(entry["error"]))
        for entry in list(manifest.corrupt)[:MOST_CORRUPT]
    ]
    more = len(manifest.corrupt) - len(rows)
    caption = f"The first {len(rows)}; {more:,} more are in manifest.json." if more > 0 else ""
    table = page.table(["File", "why it has no labels"], rows, caption, css="words")
    return page.section(
        "unreadable",
        "Images without labels",
        page.scroll(table, "Images without labels"),
        lead="They are left out in training.",
    )
