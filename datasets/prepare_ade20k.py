"""ADE20K-150 as gppf_d2 and Detectron2 read it: labels counted from 0, 255 for "other".

    python datasets/prepare_ade20k.py [--root datasets]

reads ``ADEChallengeData2016/annotations/{training,validation}/*.png`` of the official
ADEChallengeData2016.zip (0 = other, classes 1 to 150) and writes the same names into
``annotations_detectron2``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import command, need, options, read_png, spread, up_to_date, whole_file

CLASSES = 150
SOURCE = (
    "unpack ADEChallengeData2016.zip (http://data.csail.mit.edu/places/ADEchallenge/"
    "ADEChallengeData2016.zip) into the folder of the datasets"
)


def convert(pair: tuple[Path, Path]) -> None:
    """Write one label map: values of the source minus 1, 0 becomes 255."""
    source, target = pair
    if up_to_date(target, source):
        return
    labels = read_png(source)
    if labels.max() > CLASSES:
        raise ValueError(
            f"'{source}' is no label map of ADE20K-150 (largest value {labels.max()}); restore it "
            "from ADEChallengeData2016.zip"
        )
    with whole_file(target) as path:
        # 0 - 1 wraps around to 255
        Image.fromarray(labels - np.uint8(1)).save(path, "PNG")


def prepare(chosen: argparse.Namespace) -> None:
    """Convert both splits."""
    folder = need(chosen.root / "ADEChallengeData2016", SOURCE)
    for split in ("training", "validation"):
        source = need(folder / "annotations" / split, SOURCE)
        images = need(folder / "images" / split, SOURCE)
        names = sorted(path.stem for path in source.glob("*.png"))
        bare = sorted({path.stem for path in images.glob("*.jpg")} ^ set(names))
        if bare:
            raise ValueError(
                f"{len(bare)} of the files of '{images}' and '{source}' have no partner (the first "
                f"is '{bare[0]}'); {SOURCE}"
            )
        target = folder / "annotations_detectron2" / split
        pairs = [(source / f"{name}.png", target / f"{name}.png") for name in names]
        done = sum(1 for _ in spread(convert, pairs, chosen.workers, split))
        print(f"'{target}': {done} label maps")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, options(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
