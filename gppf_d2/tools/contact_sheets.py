"""Draw predictions of every task of a run beside the truth, and where they are wrong.

    python -m gppf_d2.tools.contact_sheets RUN [--tasks a,b] [--count 6] [--data-root DIR]
    \\ [--order even|worst|best] [--among 200] [--no-errors] [--min-score 0.3] [--checkpoint FILE]

Writes RUN/predictions/<task>.png, one contact sheet per task with images of its first evaluation
dataset; for a task that evaluates several label heads RUN/predictions/<task>.<label>.png, each with
images and truth of its own dataset. ``--order worst`` shows failures first. ``tools.report`` puts
the sheets on its page. A wrong call ends with one sentence and status 2.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from gppf_d2.analysis.figures import save_png
from gppf_d2.analysis.predictions.prediction_sheets import ORDERS
from gppf_d2.engine.checkpoint import newest_checkpoint, read_checkpoint
from gppf_d2.engine.config import load_config
from gppf_d2.engine.launch import refuse
from gppf_d2.engine.output_folder import TALKATIVE
from gppf_d2.engine.setup import build_tasks, load_records
from gppf_d2.tools.predict import build_predictors, check_min_score, check_run

AMONG = 200  # images that "worst" and "best" look at


def draw_sheets(
    run: Path,
    tasks: list[str] | None = None,
    checkpoint: str = "",
    count: int = 6,
    min_score: float = 0.3,
    **options: Any,
) -> list[Path]:
    """One contact sheet per task, or per label head of a task that evaluates several.

    Args:
        run: output folder of a run.
        tasks: which tasks; None draws all that name an evaluation dataset.
        checkpoint: a file; empty takes the newest of the run.
        count: images on a sheet.
        min_score: objects below it are not drawn.
        **options: "order", "among", "errors" and "progress" of ``Predictor.sheet``.

    Returns:
        The files that were written.

    Raises:
        UserError: no run, no checkpoint, an unknown task, a score beyond 0 to 1.
        ValueError: a count or an order that is not possible.
    """
    check_min_score(min_score)
    check_run(run)
    cfg = load_config(str(run / "config.yaml"))
    checkpoint = checkpoint or str(newest_checkpoint(run))
    iteration = read_checkpoint(checkpoint, mmap=True).get("iteration")
    when = "" if iteration is None else f"after {iteration:,} iterations"
    specs = build_tasks(cfg)
    written = []
    for name in tasks or [task for task in specs if specs[task].evaluators]:
        for dataset, predictor in build_predictors(cfg, checkpoint, name, min_score):
            sheet = predictor.sheet(load_records([dataset]), count, when=when, **options)
            stem = f"{name}.{predictor.label}" if predictor.label else name
            written.append(save_png(sheet, run / "predictions" / f"{stem}.png"))
            print(f"Wrote {written[-1]}")
    return written


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.contact_sheets",
        description="Draw predictions of every task of a run beside the truth.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument("--tasks", metavar="a,b", help="some of the run's tasks (default: all)")
    parser.add_argument("--checkpoint", default="", metavar="FILE", help="default: the newest")
    parser.add_argument(
        "--count", type=int, default=6, metavar="N", help="images on a sheet (default: 6)"
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="even",
        help="which images: spread evenly, or those with the worst or best scores (default: even)",
    )
    parser.add_argument(
        "--among",
        type=int,
        metavar="N",
        help=f"images that worst and best look at, spread evenly; 0 is all (default: {AMONG})",
    )
    parser.add_argument("--no-errors", action="store_true", help="leave the error maps out")
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.3,
        metavar="S",
        help="objects below it are not drawn, 0 to 1 (default: 0.3)",
    )
    parser.add_argument("--data-root", default="", metavar="DIR", help="of the datasets")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse and draw; the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.among is not None and args.order == "even":
        parser.error("--among goes with --order worst or best; even looks at no other images.")
    if args.data_root:
        os.environ["DETECTRON2_DATASETS"] = args.data_root
    for name, level in TALKATIVE.items():
        logging.getLogger(name).setLevel(level)
    try:
        draw_sheets(
            args.run,
            args.tasks.split(",") if args.tasks else None,
            args.checkpoint,
            args.count,
            args.min_score,
            order=args.order,
            among=AMONG if args.among is None else args.among,
            errors=not args.no_errors,
            progress=True,
        )
    except Exception as error:
        return refuse(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
