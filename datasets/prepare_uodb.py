"""UODB, the ten small detection sets of the paper's Table 5, as gppf_d2 reads them.

    python datasets/prepare_uodb.py [--root datasets] [--part kitti --part clipart ...] [--partial]

Without ``--part`` every set is prepared whose download is there, and the others are named. A set
becomes ``uodb/annotations/<set>_{train,test}.json`` in COCO's layout; images stay where they are,
but for those that have to be cut or converted. ``datasets/README.md`` says where to download each
set and which tree it makes; the modules of ``datasets/uodb`` say what the splits and classes are
and what is left out.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from downloads import allow_partial, allow_parts, parts_to_prepare, prepare_each
from preparing import command, options
from uodb import SETS


def prepare(chosen: argparse.Namespace) -> None:
    """Prepare the chosen sets, or all whose download is there."""
    modules = {name: importlib.import_module(f"uodb.{name}") for name in SETS}
    folders = {name: module.FOLDER for name, module in modules.items()}
    names = parts_to_prepare(chosen.root, chosen.part, folders)
    prepare_each(names, lambda name: modules[name].prepare(chosen))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return allow_parts(allow_partial(options(__doc__)), SETS)


if __name__ == "__main__":
    sys.exit(command(prepare, parser()))
