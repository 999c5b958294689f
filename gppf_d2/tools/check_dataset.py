"""Say what is missing or broken in a dataset, one line each.

    python -m gppf_d2.tools.check_dataset NAME [NAME ...] [--data-root DIR] [--sample N | --full]
    python -m gppf_d2.tools.check_dataset --all

NAME is any registered dataset; one's own are registered by a module that ``--import`` names.
``--all`` takes the datasets of GPPF-15M. Of every kind of problem the first lines are printed
(``--limit``) and the others counted. Exit status: 0 where nothing was found, 1 where something was,
2 after a wrong call. What the kinds mean stands in ``gppf_d2.data.check``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from gppf_d2.data.catalog import GPPF_15M, register_all
from gppf_d2.data.check import Problem, check_dataset


def report(name: str, problems: Iterable[Problem], limit: int) -> int:
    """Print the problems of a dataset as they come.

    Args:
        name: of the dataset.
        problems: what was found.
        limit: lines per kind; further ones are counted.

    Returns:
        How many there were.
    """
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.kind] += 1
        if counts[problem.kind] <= limit:
            tqdm.write(f"{name}: {problem}")  # beside the bar of the check
    for kind, count in counts.items():
        if count > limit:
            print(f"{name}: {kind}: {count - limit:,} more of this kind")
    return counts.total()


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.check_dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets")
    parser.add_argument("--all", action="store_true", help="the datasets of GPPF-15M")
    parser.add_argument(
        "--root",
        "--data-root",
        dest="root",
        metavar="DIR",
        help="folder of the datasets (default: $DETECTRON2_DATASETS or datasets)",
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--sample",
        type=int,
        default=1000,
        metavar="N",
        help="images whose files are read, spread evenly (default: %(default)s)",
    )
    depth.add_argument("--full", action="store_true", help="read every image")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="a part of the dataset is meant to be there: do not compare the number of images",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="threads that read (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="lines per kind (default: %(default)s)"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="module that registers datasets when it is imported; may be given several times",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; returns the exit status."""
    options = make_parser().parse_args(arguments)
    if bool(options.names) == options.all:
        print("error: name datasets, or give --all", file=sys.stderr)
        return 2
    found = 0
    try:
        if options.root:
            if not os.path.isdir(options.root):
                raise ValueError(f"--data-root {options.root!r} is not a folder")
            os.environ["DETECTRON2_DATASETS"] = options.root
        register_all()
        for module in options.modules:
            importlib.import_module(module)
        for name in options.names or GPPF_15M:
            problems = check_dataset(
                name,
                sample=None if options.full else options.sample,
                partial=options.partial,
                workers=options.workers,
            )
            count = report(name, problems, options.limit)
            if not count:
                print(f"{name}: nothing is missing or broken", flush=True)
            found += count
    except (KeyError, ValueError, ImportError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f"error: {text}", file=sys.stderr)
        return 2
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
