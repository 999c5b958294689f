"""The report's section on the similarity of layers: maps, and their numbers as tables."""

from __future__ import annotations

import math

from gppf_d2.analysis import page
from gppf_d2.analysis.run_folder import RunFolder
from gppf_d2.analysis.similarity.figures import OUTLINED, similarity_figure
from gppf_d2.analysis.similarity.similarity import Similarity, find_similarities

LEAD = (
    "How alike two layers represent the same images, from 0 to 1 (CKA; GPPF, appendix A): every "
    "network with itself, and with every other."
)


def similarity_section(folder: RunFolder) -> str:
    """The section; empty where nothing was measured (``python -m gppf_d2.tools.cka``).

    Args:
        folder: of a run; the files under ``cka/`` are read here.
    """
    files = find_similarities(folder.path)
    if not files:
        return ""
    parts = []
    for path in files:
        try:
            parts.append(_measurement(Similarity.read(path)))
        except ValueError as error:
            parts.append(page.missing(str(error)))
    return page.section(
        "similarity", "Similarity of layers", f'<div class="stack">{"".join(parts)}</div>',
        lead=LEAD,
    )  # fmt: skip


def _measurement(similarity: Similarity) -> str:
    names = similarity.names
    title = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
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
    return f'<h3>{page.escape(title)}</h3>{chart}<div class="pair">{tables}</div>'


def _how(similarity: Similarity) -> str:
    kernel = f"{similarity.kernel} kernel"
    if similarity.bandwidth is not None:
        kernel += f" of {similarity.bandwidth:g} median distances"
    passes = f", {similarity.passes} passes" if similarity.passes > 1 else ""
    return (
        f"{similarity.images:,} images of {similarity.dataset}, {similarity.size} x "
        f"{similarity.size} pixels, {kernel}, batches of {similarity.batch_size}{passes}."
    )


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
