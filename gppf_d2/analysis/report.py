"""One page that shows a run: ``write_report(run_dir)`` writes ``report.html`` into the run folder.

The page opens from disk without a network and shows what the folder holds: results, predictions,
routes, similarity of layers where it was measured, training, the run itself. What is missing, in a
half-finished or crashed run, is said in words where it would stand. Each section is a function of
the folder, in a module of its own; this one puts them together. ``draw_routes`` writes the heat map
of the routes alone, as ``routes.png``.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from gppf_d2.analysis import page
from gppf_d2.analysis.figures import save_png, write_file
from gppf_d2.analysis.results.section import results_section
from gppf_d2.analysis.routes.heatmap import route_heatmap
from gppf_d2.analysis.routes.section import in_order, routes_section
from gppf_d2.analysis.routes.tables import probabilities_of
from gppf_d2.analysis.run_folder import RunFolder, finite, read_run
from gppf_d2.analysis.run_section import ago, run_section, silence
from gppf_d2.analysis.similarity.section import similarity_section
from gppf_d2.analysis.training.section import training_section

logger = logging.getLogger(__name__)


def write_report(run_dir: str | Path) -> Path:
    """Write ``report.html`` (and ``routes.png``, where there are routes) into a run folder.

    Args:
        run_dir: the run's output folder, in whatever state.

    Returns:
        The path of the page.

    Raises:
        ValueError: ``run_dir`` is not a folder.
    """
    folder = read_run(run_dir)
    try:
        _draw_routes(folder)
    except Exception:  # what nobody expects costs this picture, not the page
        logger.warning("The routes of %s cannot be drawn", folder.path, exc_info=True)
    return write_file(folder.path / "report.html", report_page(folder).encode("utf-8", "replace"))


def report_page(folder: RunFolder) -> str:
    """The page of a run as HTML; writes nothing."""
    parts = [
        (anchor, title, partial(build, folder))
        for anchor, title, build in (
            ("results", "Results", results_section),
            ("predictions", "Predictions", predictions_section),
            ("routes", "Routes", routes_section),
            ("similarity", "Similarity", similarity_section),
            ("training", "Training", training_section),
            ("run", "The run", run_section),
        )
    ]
    title = f"{run_name(folder)} · gppf_d2"
    return page.assemble(title, _header(folder), parts, whose=str(folder.path))


def draw_routes(run_dir: str | Path) -> Path | None:
    """Write the heat map of a run's routes as ``routes.png``.

    Returns:
        The path of the picture, None where the run has no routes.

    Raises:
        ValueError: ``run_dir`` is not a folder.
    """
    return _draw_routes(read_run(run_dir))


def run_name(folder: RunFolder) -> str:
    """What a run is called: its config, or else its folder."""
    config_file = str(folder.run.get("config_file") or "")
    return Path(config_file).stem or folder.path.resolve().name


def predictions_section(folder: RunFolder) -> str:
    """The report's section of predictions: the sheets that ``tools.contact_sheets`` drew."""
    order = folder.tasks
    sheets = "".join(
        page.photograph(
            path,
            f"Predictions of {path.stem.replace('.', ', label ')}: images, what the model says of "
            "them, and the truth",
        )
        for task in sorted(folder.sheets, key=order.index)
        for path in folder.sheets[task]
    )
    absent = [task for task in folder.tasks if task not in folder.sheets]
    if not sheets:
        sheets = page.missing(
            "There are no pictures of predictions in this folder; python -m "
            "gppf_d2.tools.contact_sheets draws them."
        )
    elif absent:
        sheets += page.missing(f"No picture of predictions of: {', '.join(absent)}.")
    return page.section("predictions", "Predictions", f'<div class="stack">{sheets}</div>')


def _draw_routes(folder: RunFolder) -> Path | None:
    routes = in_order(folder)
    if not probabilities_of(routes):
        return None
    return save_png(route_heatmap(routes), folder.path / "routes.png")


def _header(folder: RunFolder) -> str:
    tasks = len(folder.tasks)
    over = f"gppf_d2 run · {tasks} task{'' if tasks == 1 else 's'}"
    if isinstance(folder.run.get("world_size"), int):
        size = folder.run["world_size"]
        over += f" · {size} process{'' if size == 1 else 'es'}"
    name = page.escape(run_name(folder))
    return f'<p class="over">{page.escape(over)}</p><h1>{name}</h1>{_state(folder)}'


def _state(folder: RunFolder) -> str:
    """How far the run is; of one that goes on how fast, and how long ago it said so; of a silent
    one for how long it has been."""
    planned = folder.max_iter
    if folder.finished:
        return f'<p class="state done">finished · {planned:,} iterations</p>'
    speed = silence(folder) or _speed(folder)
    speed = speed and f'<p class="speed">{speed}</p>'
    if not folder.iterations:
        return f'<p class="state open">no iteration logged yet</p>{speed}'
    if not planned:
        return f'<p class="state open">{folder.iterations:,} iterations</p>{speed}'
    share = f"{folder.iterations / planned:.0%}"
    words = f"not finished · {folder.iterations:,} of {planned:,} iterations · {share}"
    return f'<p class="state open">{words}</p>{page.progress(folder.iterations, planned)}{speed}'


def _speed(folder: RunFolder) -> str:
    """Of a run that goes on: time left, samples a second, when it wrote its last line."""
    speed = []
    left = _last(folder, "eta_seconds")
    if left is not None:
        hours, minutes = divmod(round(left) // 60, 60)
        speed.append(f"{hours:,}:{minutes:02d}:{round(left) % 60:02d} left")
    samples = _last(folder, "samples_per_second")
    if samples is not None:
        speed.append(f"{samples:,.1f} samples/s")
    if folder.last_line is not None:
        speed.append(f"last line {ago(time.time() - folder.last_line)}")
    return " · ".join(speed)


def _last(folder: RunFolder, key: str) -> float | None:
    """The newest finite number under a key of the metrics."""
    values = (finite(entry.get(key)) for entry in reversed(folder.metrics))
    return next((value for value in values if value is not None), None)
