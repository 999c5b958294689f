"""TensorBoard pictures of a run while it trains: the same charts that the report shows.

    train.hooks = dict(pictures=L(TrainingPictures)(period=1000))

A Detectron2 hook draws routes and training curves from what the run folder holds and hands them to
the event storage, which Detectron2's ``TensorboardXWriter`` writes with the next log line. The
files are as old as the last log line. The others wait while the rank with the folder draws, and
all leave that time out of the step time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed as dist
from detectron2.engine import HookBase
from matplotlib.figure import Figure

from gppf_d2.analysis.figures import LIGHT, to_array
from gppf_d2.analysis.routes.agreement import agreement_figure
from gppf_d2.analysis.routes.curves import route_curves
from gppf_d2.analysis.routes.heatmap import route_heatmap, title_of
from gppf_d2.analysis.routes.section import in_order
from gppf_d2.analysis.routes.tables import probabilities_of
from gppf_d2.analysis.run_folder import RunFolder, read_run
from gppf_d2.analysis.training.section import has_choice, training_charts

logger = logging.getLogger(__name__)

DPI = 150


class TrainingPictures(HookBase):
    """Draws the run's charts for TensorBoard every ``period`` iterations and after the last one.

    It is asked before the hook that lets the writers write. The trainer has ``run_dir`` (the run
    folder on the rank that writes it, None elsewhere), ``groups.control`` and ``metrics.rest``, as
    ``SIMTTrainer`` does.

    Args:
        period: iterations; 0 draws after the last one only.

    Raises:
        ValueError: a negative period.
    """

    def __init__(self, period: int = 0) -> None:
        if period < 0:
            raise ValueError(
                f"TrainingPictures got period {period}; give a number of iterations, or 0 to draw "
                "at the end only."
            )
        self.period = period
        self._warned = False

    def after_step(self) -> None:
        """Draw where it is due. Collective: all ranks must call."""
        trainer = self.trainer
        done = trainer.iter + 1
        if done != trainer.max_iter and (self.period == 0 or done % self.period):
            return
        start = time.perf_counter()
        if trainer.run_dir is not None:
            self._draw(Path(trainer.run_dir))
        if trainer.groups.control is not None:
            dist.barrier(group=trainer.groups.control)
        trainer.metrics.rest(time.perf_counter() - start)

    def _draw(self, run_dir: Path) -> None:
        """Put all pictures into the storage; an error, of which one is told, ends no training."""
        try:
            for name, build in run_pictures(read_run(run_dir)):
                picture = to_array(build(), DPI)
                self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
        except Exception as error:
            if not self._warned:
                logger.warning("Pictures of the training cannot be drawn: %r", error)
            self._warned = True


def run_pictures(folder: RunFolder) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Names and builders of all charts that a run folder has numbers for."""
    routes = in_order(folder) if has_choice(folder) else {}
    tables = probabilities_of(routes)
    if tables:
        yield "routes/probabilities", lambda: route_heatmap(routes, LIGHT)
    if len(tables) > 1:
        title = title_of(routes, "Share of layers with the same unit")
        yield "routes/agreement", lambda: agreement_figure(routes, LIGHT, title=title)
    if tables and any(probabilities_of(entry) for entry in folder.history):
        yield "routes/curves", lambda: route_curves(folder.history, LIGHT, folder.tasks)
    for charts in training_charts(folder).values():
        for chart in charts:
            yield chart.name, lambda chart=chart: chart.build(LIGHT)
