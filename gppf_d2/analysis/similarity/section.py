"""The report's section on the similarity of layers: maps, and their numbers as tables."""

from __future__ import annotations

import math
from pathlib import Path

from gppf_d2.analysis import page
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.analysis.similarity.figures import OUTLINED, similarity_figure
from gppf_d2.analysis.similarity.similarity import Similarity, find_similarities

LEAD = (
    "How alike two layers represent the same images, from 0 to 1 (CKA; GPPF, appendix A): every "
    "network with itself, and with every other."
)


def similarity_section(folder: RunFolder) -> str:
    """The section; empty where nothing was measured (``python -m gppf_d2.tools.cka``). Of several
    measurements the newest is open, the others are folded.

    Args:
        folder: of a run; the files under ``cka/`` are read here.
    """
    files = sorted(find_similarities(folder.path), key=_written, reverse=True)
    if not files:
        return ""
    parts, opened = [], False
    for path in files:
        try:
            similarity = Similarity.read(path)
        except ValueError as error:
            parts.append(page.missing(str(error)))
            continue
        parts.append(_folded(similarity) if opened else _measurement(similarity))
        opened = True
    return page.section(
        "similarity", "Similarity of layers", f'<div class="stack">{"".join(parts)}</div>',
        lead=LEAD,
    )  # fmt: skip


def _written(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 of one that has just gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _measurement(similarity: Similarity) -> str:
    return f"<h3>{page.escape(_title(similarity))}</h3>{_maps_and_tables(similarity)}"


def _folded(similarity: Similarity) -> str:
    what = (
        f"{similarity.dataset}, {similarity.size} x {similarity.size} pixels, "
        f"{similarity.kernel} kernel"
    )
    return page.fold(f"{_title(similarity)} · {what}", _maps_and_tables(similarity))


def _title(similarity: Similarity) -> str:
    names = similarity.names
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _maps_and_tables(similarity: Similarity) -> str:
    title = _title(similarity)
    chart = page.chart(
        lambda theme: similarity_figure(similarity, theme),
        _alt(similarity),
        f"{page.escape(_how(similarity))} Layers from the input (lower left) on. Outlined is the "
        f"block of layers that stands out most, where its score is {OUTLINED} or more.",
        wide=True,
    )
    tables = page.scroll(_scores(similarity), f"Block structure of {title}")
    if similarity.pairs:
        tables += page.scroll(_means(similarity), f"Mean similarity of {title}")
    return f'{chart}<div class="pair">{tables}</div>'


def _how(similarity: Similarity) -> str:
    kernel = f"{similarity.kernel} kernel"
    if similarity.bandwidth is not None:
        kernel += f" of {similarity.bandwidth:g} median distances"
    passes = f", {similarity.passes} passes" if similarity.passes > 1 else ""
    return (
        f"{_checkpoints(similarity)}{similarity.images:,} images of {similarity.dataset}, "
        f"{similarity.size} x {similarity.size} pixels, {kernel}, batches of "
        f"{similarity.batch_size}{passes}."
    )


def _checkpoints(similarity: Similarity) -> str:
    """A sentence on the iterations of the networks that are checkpoints, with a space behind it."""
    found: dict[int, list[str]] = {}
    for network in similarity.networks:
        if network.iteration is not None:
            found.setdefault(network.iteration, []).append(network.name)
    told = {f"after {iteration:,} iterations": names for iteration, names in found.items()}
    if [len(names) for names in told.values()] == [len(similarity.networks)]:
        return f"{next(iter(told)).capitalize()}. "
    text = "; ".join(f"{', '.join(names)} {words}" for words, names in told.items())
    return f"Checkpoints: {text}. " if text else ""


def _alt(similarity: Similarity) -> str:
    scores = ", ".join(f"{name} {similarity.blocks[name].score:.2f}" for name in similarity.names)
    text = f"Heat maps of the similarity of layers. Block structure: {scores}."
    means = [
        f"{first} and {second} {_number(similarity.same_layers(first, second))}"
        for first, second in similarity.pairs
    ]
    return f"{text} Mean similarity of the same layer: {', '.join(means)}." if means else text


def _scores(similarity: Similarity) -> str:
    rows = []
    for name in similarity.names:
        block, layers = similarity.blocks[name], similarity.layers_of(name)
        where = f"{layers[block.first]} to {layers[block.last]}" if block.score else "none"
        rows.append((page.escape(name), f"{block.score:.2f}", page.escape(where)))
    head = ["Network", "score", "block"]
    return page.table(head, rows, caption="Block structure: how far one block of layers stands out")


def _means(similarity: Similarity) -> str:
    rows = [
        (
            f"{page.escape(first)} · {page.escape(second)}",
            _number(similarity.same_layers(first, second)),
            _number(similarity.all_layers(first, second)),
        )
        for first, second in similarity.pairs
    ]
    return page.table(["Networks", "same layer", "any two layers"], rows, caption="Mean similarity")


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.2f}"
