"""Show stored pseudo labels as a page:

    python -m gppf_d2.tools.view_labels FOLDER --output labels.html [--count 48] [--label boxes]
    \\ [--order even|random|few|many|unsure|sure] [--seed 0] [--data-root DIR]

FOLDER is what ``gppf_d2.tools.pseudo_label`` wrote. The page is one self-contained file: images
with all their labels side by side, under what the manifest says of teachers, thresholds and counts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gppf_d2.analysis.label_page import ORDERS, write_label_page
from gppf_d2.data.catalog import register_all
from gppf_d2.engine.errors import sentence


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.view_labels",
        description="Write a page that shows images with their stored pseudo labels.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pseudo labels")
    parser.add_argument("--output", type=Path, default=Path("labels.html"), help="the page")
    parser.add_argument("--count", type=int, default=48, metavar="N", help="images (default: 48)")
    parser.add_argument(
        "--label", action="append", metavar="NAME", help="show this label only; may be repeated"
    )
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="even",
        help="which images: spread evenly, at random, with the fewest or most objects, with the "
        "least or most certain class (default: even)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --order random")
    parser.add_argument("--data-root", default="", metavar="DIR", help="of the datasets")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path; returns the exit status."""
    options = make_parser().parse_args(arguments)
    if options.data_root:
        os.environ["DETECTRON2_DATASETS"] = options.data_root
    try:
        register_all()
        path = write_label_page(
            options.folder,
            options.output,
            count=options.count,
            labels=options.label,
            order=options.order,
            seed=options.seed,
        )
    except (ValueError, KeyError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
