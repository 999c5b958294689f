"""The LISA Traffic Sign Dataset and its extension as unpacked: PNG frames and a table for each.

A file is named after the track that its frame was taken from. Every training picture is a track of
its own; after four of them, in the order of the names, comes a track of validation pictures. The
last tracks are in the extension, whose table lacks a column. A picture without a sign is a
negative, which no table lists. Of the signs one kind (yield) has no class of its own.
"""

from __future__ import annotations

from pathlib import Path

from .. import formats
from ..scene import CLASSES
from .world import Picture, World

# class of the miniature world -> tag of LISA
MEANING = {
    "ball": "speedLimit25",
    "cone": "pedestrianCrossing",
    "crate": "speedLimitUrdbl",
    "drum": "noLeftTurn",
    "gem": "signalAhead",
    "house": "yield",
    "mushroom": "stop",
    "ring": "noRightTurn",
}
HEAD = (
    "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;"
    "Lower right corner Y;{}Origin file;Origin frame number;Origin track;Origin track frame number"
)
TRAIN_PER_TEST, EXTENSION = 4, 4


def _signs(picture: Picture) -> list[tuple[str, tuple[int, int, int, int]]]:
    """(tag, box) of every object that is no heap."""
    single = [seen for seen in picture.objects if not seen.crowd]
    return [(MEANING[CLASSES[seen.category]], seen.box) for seen in single]


def _tracks(world: World) -> list[tuple[str, list[Picture]]]:
    """(name, pictures) in the order of the names."""
    train = sorted(
        (picture for picture in world.scenes("lisa", "train") if _signs(picture)),
        key=lambda picture: _signs(picture)[0],
    )
    tests = [picture for picture in world.scenes("lisa", "val") if _signs(picture)]
    between = len(train) // TRAIN_PER_TEST
    tracks = []
    for index, picture in enumerate(train, start=1):
        tag = _signs(picture)[0][0]
        tracks.append((f"{tag}_{1323803184 + 10 * index}.avi", [picture]))
        if index % TRAIN_PER_TEST == 0:
            own = tests[index // TRAIN_PER_TEST - 1 :: between]
            tracks.append((f"{tag}_{1323803189 + 10 * index}.avi", own))
    return tracks


def write(root: Path, world: World) -> None:
    """``lisa``."""
    folder = formats.Folder(root / "lisa")
    tracks = _tracks(world)
    for table, prefix, place, kept, extra in (
        ("allAnnotations.csv", "", "vid0/frameAnnotations-vid_cmp2.avi", slice(-EXTENSION), "0,0;"),
        (
            "training/allTrainingAnnotations.csv",
            "training/",
            "2014-04-24_10-59/frameAnnotations-cam1.avi",
            slice(-EXTENSION, None),
            "",
        ),
    ):
        lines = [HEAD.format("Occluded,On another road;" if extra else "")]
        for track, pictures in tracks[kept]:
            for frame, picture in enumerate(pictures):
                name = f"{place}_annotations/{track}_image{frame}.png"
                folder.png(f"{prefix}{name}", picture.pixels)
                for tag, corners in _signs(picture):
                    box = ";".join(str(value) for value in corners)
                    origin = f"{place};{40 + frame};{track};{frame}"
                    lines.append(f"{name};{tag};{box};{extra}{origin}")
        folder.text(table, lines)
    for index, picture in enumerate(world.scenes("lisa", "train")):
        if not _signs(picture):
            folder.png(f"negatives/negativePics/nosign{index:05d}.png", picture.pixels)
