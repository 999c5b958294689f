"""Draw predictions of every task of a run beside the truth.

    python -m gppf_d2.tools.contact_sheets RUN [--tasks a,b] [--count 6] [--data-root DIR]

Writes RUN/predictions/<task>.png, one contact sheet per task with images of its first evaluation
dataset; for a task that evaluates several label heads RUN/predictions/<task>.<label>.png, each with
images and truth of its own dataset. ``tools.report`` puts them on its page.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gppf_d2.analysis.figures import save_png
from gppf_d2.engine.checkpoint import Checkpointer
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.launch import report_error
from gppf_d2.engine.setup import build_tasks, load_records
from gppf_d2.tools.predict import build_predictors


def draw_sheets(
    run: Path,
    tasks: list[str] | None = None,
    checkpoint: str = "",
    count: int = 6,
    min_score: float = 0.3,
) -> list[Path]:
    """One contact sheet per task, or per label head of a task that evaluates several.

    Args:
        run: output folder of a run.
        tasks: which tasks; None draws all that name an evaluation dataset.
        checkpoint: a file; empty takes the newest of the run.
        count: images on a sheet.
        min_score: objects below it are not drawn.

    Returns:
        The files that were written.

    Raises:
        UserError: no config, no checkpoint, an unknown task.
    """
    cfg = load_config(str(run / "config.yaml"))
    if not checkpoint:
        found = Checkpointer(run).latest()
        if found is None:
            raise UserError(f"There is no checkpoint in {str(run)!r}; train first.")
        checkpoint = str(found[0])
    specs = build_tasks(cfg)
    written = []
    for name in tasks or [task for task in specs if specs[task].evaluators]:
        for dataset, predictor in build_predictors(cfg, checkpoint, name, min_score):
            sheet = predictor.sheet(load_records([dataset]), count)
            stem = f"{name}.{predictor.label}" if predictor.label else name
            written.append(save_png(sheet, run / "predictions" / f"{stem}.png"))
            print(f"Wrote {written[-1]}")
    return written


def main(argv: list[str] | None = None) -> int:
    """Parse and draw; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument("--tasks", metavar="a,b")
    parser.add_argument("--checkpoint", default="", metavar="FILE")
    parser.add_argument("--count", type=int, default=6, metavar="N", help="images on a sheet")
    parser.add_argument("--min-score", type=float, default=0.3, metavar="S", help="of objects")
    parser.add_argument("--data-root", default="", metavar="DIR")
    args = parser.parse_args(argv)
    if args.data_root:
        os.environ["DETECTRON2_DATASETS"] = args.data_root
    try:
        draw_sheets(
            args.run,
            args.tasks.split(",") if args.tasks else None,
            args.checkpoint,
            args.count,
            args.min_score,
        )
    except Exception as error:
        report_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
