"""Render the miniature world: five small datasets in the formats of the real ones, no download.

    python datasets/make_mini.py [--root datasets] [--seed 0] [--size 160] [--scenes 100]
        [--objects 36]

makes ``<root>/mini``, which gppf_d2 registers as
``mini_{objects,scenes,parsing,depth,voc}_{train,val}``. The same options give the same bytes; a
complete world of the same options is left alone. See ``README.md`` for what is in it.

    python datasets/make_mini.py --official --root ROOT [--seed 0]

writes miniatures of the official downloads (COCO, LVIS, Objects365, ...) instead, each in its own
layout, for the ``prepare_*.py`` scripts beside this one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
from miniworld import official
from miniworld.build import Settings, build


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and build the world; returns the exit status."""
    default = Settings()
    parser = argparse.ArgumentParser(description="Render the miniature world into ROOT/mini.")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of the datasets (default: $DETECTRON2_DATASETS or datasets)",
    )
    for name, text in (
        ("seed", "another seed is another world"),
        ("size", "width of a scene in pixels"),
        ("scenes", "training pictures per scene dataset"),
        ("objects", "training pictures per class of the classification set"),
    ):
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: {value})")
    parser.add_argument(
        "--official",
        action="store_true",
        help="miniatures of the official downloads under ROOT; no option but --seed",
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    # Pictures this small gain nothing from threads, and the other core may be somebody else's.
    cv2.setNumThreads(1)
    try:
        settings = Settings(options.seed, options.size, options.scenes, options.objects)
        if options.official and settings != Settings(options.seed):
            raise ValueError(
                "--size, --scenes and --objects are not for --official; leave them out"
            )
        if options.official:
            official.build(options.root.expanduser(), options.seed)
        else:
            build(options.root.expanduser(), settings)
    except ValueError as error:
        print(f"make_mini.py: {error}", file=sys.stderr)
        return 2
    print(f"{time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
