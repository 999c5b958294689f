"""KITTI depth, Eigen split: find the images and depth maps that the lists name.

    python datasets/prepare_kitti_depth.py [--root datasets]

reads the lists of BTS, ``kitti_depth/splits/eigen_{train,test}_files_with_gt.txt`` (lines "image
depth-map focal-length", "None" where an image has no depth map), and writes
``kitti_depth/splits/eigen_{train,test}.txt``: the images with a depth map, with the places of both
below ``kitti_depth``. Images may be the original PNGs or JPEGs made from them; depth maps lie in
``train`` or ``val`` of ``data_depth_annotated``, or directly in it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from preparing import command, need, options, read_text, whole_file

COUNTS = {"train": 23_158, "test": 652}
FRAME = re.compile(
    r"((\d{4}_\d\d_\d\d)_drive_\d{4}_sync)/"
    r"(?:proj_depth/groundtruth/)?(image_0\d)/(?:data/)?(\d{10})\.\w+"
)
FOCAL_LENGTH = re.compile(r"\d+(\.\d+)?")
LIST_SOURCE = (
    "download train_test_inputs/eigen_{}_files_with_gt.txt of https://github.com/cogaplex-bts/bts"
)
RAW_SOURCE = (
    "unpack the raw recordings (https://www.cvlibs.net/datasets/kitti/raw_data.php) into "
    "'kitti_depth/raw'"
)
TRUTH_SOURCE = (
    "unpack data_depth_annotated.zip (https://www.cvlibs.net/datasets/kitti/eval_depth.php) into "
    "'kitti_depth/data_depth_annotated'"
)


def first_file(folder: Path, names: Sequence[str]) -> str | None:
    """The first of the names that is a file below a folder."""
    return next((name for name in names if (folder / name).is_file()), None)


def image_places(entry: str) -> list[str]:
    """Where the image of a list's entry may lie, below ``kitti_depth``; empty for no such entry."""
    return [
        f"raw/{date}/{drive}/{camera}/data/{frame}.{suffix}"
        for drive, date, camera, frame in FRAME.findall(entry)
        for suffix in ("png", "jpg")
    ]


def depth_places(entry: str) -> list[str]:
    """Where the depth map of a list's entry may lie, below ``kitti_depth``."""
    return [
        f"data_depth_annotated/{part}{drive}/proj_depth/groundtruth/{camera}/{frame}.png"
        for drive, _, camera, frame in FRAME.findall(entry)
        for part in ("train/", "val/", "")
    ]


def prepare_split(folder: Path, split: str) -> None:
    """Write the list of one split.

    Raises:
        FileNotFoundError: the list of BTS is missing, or files that it names.
        ValueError: a line of the list is none.
    """
    source = folder / "splits" / f"eigen_{split}_files_with_gt.txt"
    need(source, LIST_SOURCE.format(split) + " into 'splits'")
    lines = read_text(source).rstrip().splitlines()
    kept: list[str] = []
    missing: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        entries = line.split()
        if len(entries) == 3 and entries[1] == "None":
            continue
        sound = len(entries) == 3 and FOCAL_LENGTH.fullmatch(entries[2])
        places = [image_places(entries[0]), depth_places(entries[1])] if sound else []
        if not places or not all(places):
            raise ValueError(f"line {number} of '{source}' is {line!r}; download the list again")
        found = [first_file(folder, names) for names in places]
        for names, name, advice in zip(places, found, (RAW_SOURCE, TRUTH_SOURCE)):
            if name is None:
                missing.append((names[0], advice))
        if None not in found:
            kept.append(f"{found[0]} {found[1]} {entries[2]}\n")
    if missing:
        name, advice = missing[0]
        count = f"one of {len(missing)} files that" if len(missing) > 1 else "which"
        raise FileNotFoundError(
            f"'{folder / name}' does not exist, {count} '{source}' names; {advice}"
        )
    target = folder / "splits" / f"eigen_{split}.txt"
    if not target.is_file() or target.read_text() != "".join(kept):
        with whole_file(target) as path:
            path.write_text("".join(kept))
    print(f"'{target}': {len(kept)} of {len(lines)} images have a depth map")
    if len(kept) != COUNTS[split]:
        print(f"the complete split has {COUNTS[split]}: this is a part of it")


def prepare(chosen: argparse.Namespace) -> None:
    """Write both lists."""
    for split in COUNTS:
        prepare_split(chosen.root / "kitti_depth", split)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, options(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
