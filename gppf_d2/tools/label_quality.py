"""Compare stored pseudo labels with a dataset that knows the truth of the same images:

    python -m gppf_d2.tools.label_quality FOLDER --truth boxes=coco128_val
    \\ --truth segments=camvid_val [--match auto|path|name|hash] [--data-root DIR]

Prints a table and writes FOLDER/quality.json. Images of the dataset are found among the labelled
ones by their path, else by their file name, else by what the file holds. The metrics are those of
the project's evaluators on the images in common; "coverage" tells how much is labelled at all.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gppf_d2.engine.checkpoint import write_atomically
from gppf_d2.engine.errors import UserError, sentence
from gppf_d2.evaluation.depth import ALIGNMENTS, CROPS
from gppf_d2.evaluation.metric_names import overall
from gppf_d2.pseudo.matching import MATCHES
from gppf_d2.pseudo.quality import Quality, label_quality


def describe(found: Quality) -> str:
    """A few lines: what was compared, and a line per metric."""
    lines = [
        f"{found.label} ({found.kind}) against {found.truth}: {found.images:,} of its "
        f"{found.true_images:,} images, found by {found.matched_by}"
    ]
    if found.missing_classes:
        names = ", ".join(found.missing_classes[:8])
        more = ", ..." if len(found.missing_classes) > 8 else ""
        lines.append(f"  {len(found.missing_classes)} classes are not labelled: {names}{more}")
    coverage = {f"coverage/{name}": value for name, value in found.coverage.items()}
    for name, value in {**overall(found.metrics), **coverage}.items():
        lines.append(f"  {name:<30}{value:>10.4g}")
    return "\n".join(lines)


def parse_truth(entries: Sequence[str]) -> dict[str, str]:
    """Label -> dataset, from "label=dataset".

    Raises:
        UserError: something else, or a label twice.
    """
    truth: dict[str, str] = {}
    for entry in entries:
        label, sign, dataset = entry.partition("=")
        if not (label and sign and dataset):
            raise UserError(
                f"--truth is {entry!r}; write the label and its dataset, boxes=coco_val."
            )
        if label in truth:
            raise UserError(f"--truth names label {label!r} twice; compare with one at a time.")
        truth[label] = dataset
    return truth


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.label_quality",
        description="Compare stored pseudo labels with the truth of the same images.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pseudo labels")
    parser.add_argument(
        "--truth", action="append", required=True, metavar="LABEL=DATASET",
        help="a label and the registered dataset to compare it with; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--match", choices=("auto", *MATCHES), default="auto",
        help="how images are found (default: the first that finds any)",
    )  # fmt: skip
    parser.add_argument(
        "--alignment", choices=ALIGNMENTS, default="none",
        help="of depth in metres to the truth of each image (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--crop", choices=tuple(CROPS), default="none", help="where depth counts (default: none)"
    )
    parser.add_argument("--output", type=Path, help="JSON file (default: FOLDER/quality.json)")
    parser.add_argument("--data-root", default="", metavar="DIR", help="of the datasets")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print and write; returns the exit status."""
    options = make_parser().parse_args(arguments)
    if options.data_root:
        os.environ["DETECTRON2_DATASETS"] = options.data_root
    try:
        found = label_quality(
            options.folder, parse_truth(options.truth), match=options.match,
            alignment=options.alignment, crop=options.crop,
        )  # fmt: skip
    except (UserError, ValueError, KeyError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    for one in found:
        print(describe(one))
    path = options.output or options.folder / "quality.json"
    content = {"folder": os.fspath(options.folder), "labels": [one.to_json() for one in found]}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda target: Path(target).write_text(text))
    print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
