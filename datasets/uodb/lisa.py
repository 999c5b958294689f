"""LISA traffic signs and their extension: American signs in four classes, seen from a car.

The classes are the groups of signs of the challenge that LISA's authors held with both sets:
warning (yellow diamonds), noturn, speedlimit and stop. Signs of other kinds (yield, keepRight,
school ...) are background; images that show nothing else stay.

UODB's lists come with UODB's own download only. Here every fifth track tests, in the order of their
names, and the others train, four images in five as LISA's own tools divide by default (the paper
counts 8k to train). The name of a file begins with the track it was taken from,
``stop_1330545910.avi_image0.png``. The frames of a track show one sign coming nearer, so a track is
never divided. Names begin with the kind of sign: every common kind is in both.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

from preparing import need, read_text

from .boxes_json import BoxesJson, image_sizes, output

FOLDER = "lisa"
CLASSES = ("warning", "noturn", "speedlimit", "stop")
SOURCE = (
    "unpack LISA_TS.zip (or signDatabasePublicFramesOnly.zip) and LISA_TS_extension.zip of the "
    "LISA Traffic Sign Dataset (http://cvrr.ucsd.edu/LISA/lisa-traffic-sign-dataset.html) there"
)
EXTENSION = "training/"
FILES = ("allAnnotations.csv", f"{EXTENSION}allTrainingAnnotations.csv")
COLUMNS = (
    "Filename", "Annotation tag", "Upper left corner X", "Upper left corner Y",
    "Lower right corner X", "Lower right corner Y",
)  # fmt: skip
WARNINGS = (
    "addedlane", "curveleft", "curveright", "dip", "intersection", "laneends", "merge",
    "pedestriancrossing", "roundabout", "signalahead", "slow", "speedbumpsahead", "stopahead",
    "thrumergeleft", "thrumergeright", "turnleft", "turnright", "warningurdbl", "yieldahead",
)  # fmt: skip
EVERY = 5
Boxes = list[tuple[int, float, float, float, float]]


def class_of(tag: str) -> int | None:
    """Index of the class of a sign; None where it has none. Upper and lower case are the same."""
    tag = tag.strip().lower()
    if tag in WARNINGS:
        return CLASSES.index("warning")
    if tag in ("noleftturn", "norightturn", "nouturn"):
        return CLASSES.index("noturn")
    if re.fullmatch(r"speedlimit(\d+|urdbl)", tag):
        return CLASSES.index("speedlimit")
    return CLASSES.index("stop") if tag == "stop" else None


def read_annotations(path: Path, prefix: str) -> dict[str, Boxes]:
    """Path of every image -> (class, x0, y0, x1, y1) of its signs of the four classes.

    Args:
        path: a table with ";" between its columns.
        prefix: what the paths begin with.

    Raises:
        ValueError: a column or a number is missing.
    """
    found: dict[str, Boxes] = {}
    rows = csv.reader(read_text(path).splitlines(), delimiter=";")
    places = {name: place for place, name in enumerate(next(rows, []))}
    lacking = [name for name in COLUMNS if name not in places]
    if lacking:
        raise ValueError(f"'{path}' has no column '{lacking[0]}'; {SOURCE}")
    for row in filter(None, rows):
        try:
            name, tag, *corners = (row[places[column]] for column in COLUMNS)
            box = tuple(float(value) for value in corners)
        except (IndexError, ValueError):
            raise ValueError(
                f"line {rows.line_num} of '{path}' is {';'.join(row)!r}, expected a file, a "
                f"tag and the corners of a box; {SOURCE}"
            ) from None
        kind = class_of(tag)
        signs = found.setdefault(prefix + name.strip(), [])
        if kind is not None:
            signs.append((kind, *box))
    return found


def track_of(name: str) -> str:
    """The track that an image was taken from."""
    return name.rsplit("/", 1)[-1].rsplit("_image", 1)[0]


def splits(names: list[str]) -> dict[str, list[str]]:
    """split -> paths of its images: of the tracks in order every fifth is for testing."""
    tracks = sorted({track_of(name) for name in names})
    tests = set(tracks[EVERY - 1 :: EVERY])
    print(f"lisa: of {len(tracks):,} tracks every fifth is for testing, {len(tests):,} in all")
    return {
        "train": [name for name in names if track_of(name) not in tests],
        "test": [name for name in names if track_of(name) in tests],
    }


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    home = need(chosen.root / FOLDER, SOURCE)
    table, extension = (home / name for name in FILES)
    signs = read_annotations(need(table, SOURCE), "")
    if chosen.partial and not extension.exists():
        print(f"'{extension}' does not exist: the extension is left out")
    else:
        need(extension, f"{SOURCE}, or give --partial to do without the extension")
        signs |= read_annotations(extension, EXTENSION)
    for split, names in splits(sorted(signs)).items():
        content = BoxesJson(CLASSES)
        sizes = image_sizes(home, names, chosen.workers, chosen.partial)
        for file, size in sizes.items():
            image_id = content.add_image(f"{FOLDER}/{file}", *size)
            for kind, *box in signs[file]:
                content.add_box(image_id, kind, *box)
        content.write(output(chosen.root, "lisa", split))
