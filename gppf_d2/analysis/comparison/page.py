"""One page that compares several runs: ``write_comparison(folders, output)``.

Results side by side with the best one marked, what differs in the configs, the losses of every task
in one chart, routes next to each other, block structure, speed and hardware. Runs may be of
different kinds, lengths and tasks, half-finished or crashed: what one of them lacks is said in
words. A run has one colour and one line style on the whole page.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gppf_d2.analysis import page
from gppf_d2.analysis.comparison.config_differences import Difference, config_differences
from gppf_d2.analysis.comparison.figures import heads, mark
from gppf_d2.analysis.comparison.results import results_section
from gppf_d2.analysis.comparison.training import training_section
from gppf_d2.analysis.figures import write_file
from gppf_d2.analysis.routes.heatmap import route_heatmap
from gppf_d2.analysis.routes.section import in_order
from gppf_d2.analysis.routes.tables import (
    SURE,
    probabilities_of,
    route_agreement,
    sure_layers,
    unit_count,
)
from gppf_d2.analysis.run_folder import RunFolder, read_run
from gppf_d2.analysis.run_section import describe_hardware, silence
from gppf_d2.analysis.similarity.similarity import Similarity, find_similarities

MANY = 30  # differences of configs: of more, those inside tasks are folded away
NARROW = 10  # layers: heat maps of at most so many stand in two columns
RUN_FACTS = {  # keys of run.json that are shown as they are
    "Started": "started",
    "Commit": "commit",
    "gppf_d2": "gppf_d2",
    "torch": "torch",
    "Detectron2": "detectron2",
}

Runs = Mapping[str, RunFolder]


def write_comparison(folders: Sequence[str | Path], output: str | Path) -> Path:
    """Write the page that compares runs.

    Args:
        folders: output folders of the runs, in whatever state; the first is what the others are
            compared with.
        output: path of the page.

    Returns:
        The path of the page.

    Raises:
        ValueError: one of ``folders`` is not a folder, or the same as another one.
    """
    runs = {name: read_run(path) for name, path in zip(run_names(folders), folders)}
    parts = [
        (anchor, title, partial(build, runs))
        for anchor, title, build in (
            ("results", "Results", results_section),
            ("configs", "Configs", _configs),
            ("training", "Training", training_section),
            ("routes", "Routes", _routes),
            ("similarity", "Similarity", _similarity),
            ("runs", "The runs", _facts),
        )
    ]
    title = f"{', '.join(runs)} · gppf_d2"
    text = page.assemble(title, _header(runs), parts, whose="the comparison")
    return write_file(output, text.encode("utf-8", "replace"))


def run_names(folders: Sequence[str | Path]) -> list[str]:
    """A name for every run: its folder's, with as many folders above as it takes to be the only
    one.

    Raises:
        ValueError: a folder is there twice.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise ValueError(f"'{folders[place]}' is named twice; name every run once.")

    def tail(path: Path, count: int) -> str:
        return "/".join(path.parts[-count:])

    names = []
    for path in paths:
        count = 1
        while sum(tail(other, count) == tail(path, count) for other in paths) > 1:
            count += 1
        names.append(tail(path, count))
    return names


def _header(runs: Runs) -> str:
    items = "".join(
        f"<li>{mark(place)}<b>{page.escape(name)}</b> {_state(run)}</li>"
        for place, (name, run) in enumerate(runs.items())
    )
    return (
        f'<p class="over">gppf_d2 · {len(runs)} runs side by side</p>'
        f"<h1>Comparison of {len(runs)} runs</h1>"
        f'<ul class="key">{items}</ul>'
    )


def _state(run: RunFolder) -> str:
    planned = run.max_iter
    if run.finished:
        return f'<span class="state done">finished · {planned:,} iterations</span>'
    total = f" of {planned:,}" if planned else ""
    words = f"{run.iterations:,}{total} iterations" if run.iterations else "no iteration logged yet"
    quiet = silence(run)
    return f'<span class="state open">{words}{quiet and f" · {quiet}"}</span>'


def _configs(runs: Runs) -> str:
    known = {name: run.config for name, run in runs.items() if run.config}
    parts = []
    if len(known) > 1:
        found = config_differences(list(known.values()))
        found.sort(key=lambda one: one.key.startswith("tasks."))
        in_tasks = (
            [one for one in found if one.key.startswith("tasks.")] if len(found) > MANY else []
        )
        shown = [one for one in found if one not in in_tasks]
        if shown:
            parts.append(_difference_table(shown, runs, known))
        if in_tasks:
            parts.append(
                page.fold(
                    f"Inside tasks that several runs have ({len(in_tasks)})",
                    _difference_table(in_tasks, runs, known),
                )
            )
        if not found:
            parts.append("<p>The configs are the same but for the output folder.</p>")
    lacking = [name for name in runs if name not in known]
    if lacking:
        sentence = f"config.yaml is not there or cannot be read: {', '.join(lacking)}."
        parts.append(page.missing(sentence))
    lead = "Settings that are not the same in all runs; the output folder is left out."
    body = f'<div class="stack">{"".join(parts)}</div>'
    return page.section("configs", "What differs in the configs", body, lead=lead)


def _difference_table(found: Sequence[Difference], runs: Runs, known: Sequence[str]) -> str:
    rows = []
    for one in found:
        texts = dict(zip(known, one.values))
        cells = (
            "–" if text is None else f"<code>{page.escape(text)}</code>"
            for text in map(texts.get, runs)
        )
        rows.append((f"<code>{page.escape(one.key)}</code>", *cells))
    table = page.table(["Setting", *heads(list(runs))], rows, css="words runs")
    return page.scroll(table, "Settings that differ")


def _routes(runs: Runs) -> str:
    charts, plain, lacking = [], [], []
    narrow = True
    for place, (name, run) in enumerate(runs.items()):
        if not probabilities_of(run.routes):
            lacking.append(name)
        elif unit_count(run.routes) < 2:
            plain.append(name)
        else:
            charts.append(_heat_map(name, run, mark(place)))
            narrow = narrow and len(run.routes["layers"]) <= NARROW
    parts = [f'<div class="{"pair" if narrow else "stack"}">{"".join(charts)}</div>'] * bool(charts)
    if charts:
        parts.append(_shared_layers(runs))
    if plain:
        parts.append(
            f"<p>One unit a layer, so nothing to choose: {page.escape(', '.join(plain))}.</p>"
        )
    if lacking:
        parts.append(page.missing(f"No routes yet: {', '.join(lacking)}."))
    lead = (
        "Every run makes its units anew, so their numbers mean nothing across runs: compare which "
        "tasks go together, in which layers, and how decided they are."
    )
    body = f'<div class="stack">{"".join(parts)}</div>'
    return page.section("routes", "Routes", body, lead=lead if charts else "")


def _heat_map(name: str, run: RunFolder, line: str) -> str:
    routes = in_order(run)
    layers = len(routes["layers"])
    told = ", ".join(f"{t} in {n} of {layers}" for t, n in sure_layers(routes).items())
    return page.chart(
        lambda theme: route_heatmap(routes, theme),
        f"Selection probabilities of run {name}, tasks by layers by units. "
        f"Probability {SURE} or more: {told} layers.",
        f"{line} <b>{page.escape(name)}</b>. "
        f"Probability {SURE} or more: {page.escape(told)} layers.",
        wide=True,
    )


def _shared_layers(runs: Runs) -> str:
    """Of tasks that several runs have, the share of layers in which two select the same unit."""
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for name, run in runs.items():
        if unit_count(run.routes) > 1:
            tasks, matrix = route_agreement(in_order(run))
            for (i, first), (j, second) in itertools.combinations(enumerate(tasks), 2):
                shares.setdefault(tuple(sorted((first, second))), {})[name] = matrix[i, j]
    shares = {pair: of_run for pair, of_run in shares.items() if len(of_run) > 1}
    shown = {name for of_run in shares.values() for name in of_run}
    if not shares:
        return ""
    rows = [
        (
            page.escape(" and ".join(pair)),
            *(f"{of_run[name]:.0%}" if name in of_run else "–" for name in runs if name in shown),
        )
        for pair, of_run in shares.items()
    ]
    title = "Layers in which two tasks select the same unit"
    table = page.table(["Tasks", *heads(list(runs), shown)], rows, title, css="runs")
    return page.scroll(table, "Layers that two tasks share")


def _similarity(runs: Runs) -> str:
    """Block structure of the networks that were measured, a line for each measurement; "" where no
    run has any."""
    rows, broken = [], []
    for place, (name, run) in enumerate(runs.items()):
        for path in find_similarities(run.path):
            try:
                found = Similarity.read(path)
            except ValueError as error:
                broken.append(page.missing(f"{name}: {error}"))
                continue
            folder = f"{mark(place)} {page.escape(name)}<small>{page.escape(path.name)}</small>"
            rows += [(folder, *cells) for cells in _measured(found)]
    if not rows:
        return page.section("similarity", "Similarity", *broken) if broken else ""
    head = ["Run folder", "Network", "Images", "Size", "Kernel", "Score"]
    table = page.table(head, rows, css="runs")
    lead = (
        "Block structure of every network that was measured: 0 where the similarity of two layers "
        "depends on their distance alone, 1 for a block of layers that has nothing in common with "
        "the others. Below it, the block. Compare scores of the same images, size and kernel."
    )
    parts = [page.scroll(table, "Block structure"), *broken]
    return page.section("similarity", "Similarity", *parts, lead=lead)


def _measured(found: Similarity) -> list[tuple[str, ...]]:
    """Of every network of a file: its name, images, size, kernel, score."""
    kernel = page.escape(found.kernel)
    if found.bandwidth is not None:
        kernel += f"<small>{found.bandwidth:g} median distances</small>"
    rows = []
    for network, block in found.blocks.items():
        score = f"{block.score:.2f}"
        if block.score:
            layers = found.layers_of(network)
            ends = f"{layers[block.first]} to {layers[block.last]}"
            score += f"<small>{page.escape(ends)}</small>"
        images = f"{found.images:,} of {page.escape(found.dataset)}"
        size = f"{found.size} × {found.size}"
        rows.append((page.escape(network), images, size, kernel, score))
    return rows


def _facts(runs: Runs) -> str:
    """Where and when the runs ran; a fact that all of them lack has no row."""
    columns = []
    for run in runs.values():
        facts = {
            "Config": run.run.get("config_file"),
            "Tasks": ", ".join(run.tasks),
            "Processes": run.run.get("world_size"),
            **describe_hardware(run.run),
            **{title: run.run.get(key) for title, key in RUN_FACTS.items()},
        }
        columns.append({name: str(v) for name, v in facts.items() if v not in (None, "")})
    rows = [
        (page.escape(name), *(page.escape(column.get(name, "–")) for column in columns))
        for name in dict.fromkeys(name for column in columns for name in column)
    ]
    table = page.table(["", *heads(list(runs))], rows, css="words runs")
    notes = [f"{name}: {sentence}" for name, run in runs.items() for sentence in run.missing]
    parts = [page.scroll(table, "Facts of every run")] if rows else []
    if notes:
        title = f"What the folders lack ({len(notes)})"
        parts.append(page.fold(title, "".join(map(page.missing, notes))))
    return page.section("runs", "The runs", f'<div class="stack">{"".join(parts)}</div>')
