"""DeepLesion (NIH): lesions in CT slices, one class, 22,496 images to train on and 4,831 to test.

    DeepLesion/DL_info.csv                            a line for every lesion
    DeepLesion/Images_png/<series>/<slice>.png        16 bit, Hounsfield units + 32768
    uodb/deeplesion/<series>_<slice>.png              made: 8 bit, three channels

The split is the column ``Train_Val_Test``: 1 is trained on, 3 tested; 2, validation, is not used.
UODB's own pictures are no longer public; these are made as the NIH's detectors see a slice (Yan et
al., "3D Context Enhanced Region-based CNN", 2018): the channels are the volume 2 mm below the key
slice, at it and 2 mm above, interpolated between slices, with the nearest slice in its place where
the download has none; where the distance of slices is unknown all three are the key slice. The
window of -1024 to 3071 Hounsfield units, which covers air and bone, becomes 0 to 255. Boxes count
pixels from 1. Lesions marked as possibly noisy are difficult.
"""

from __future__ import annotations

import argparse
import csv
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from preparing import need, read_text, spread, up_to_date

from .boxes_json import BoxesJson, image_size, output, present
from .pictures import read_pixels, write_picture

FOLDER = "DeepLesion"
CLASSES = ("lesion",)
SPLITS = {"1": "train", "2": "validation", "3": "test"}
USED = ("train", "test")
SOURCE = (
    "download DL_info.csv and the archives Images_png of DeepLesion "
    "(https://nihcc.app.box.com/v/DeepLesion) and unpack them there, see datasets/README.md"
)
COLUMNS = (
    "File_name", "Bounding_boxes", "Possibly_noisy", "Spacing_mm_px_", "Train_Val_Test",
)  # fmt: skip
NAME = re.compile(r"(\w+)_(\d+)\.png")
OFFSET = 32768
WINDOW = (-1024, 3071)  # Hounsfield units
STEP = 2.0  # mm between the channels


class Lesion(NamedTuple):
    """A line of the CSV: ``box`` x0 y0 x1 y1 as edges from 0, ``distance`` of slices in mm."""

    name: str
    box: tuple[float, ...]
    noisy: bool
    distance: float


def prepare(chosen: argparse.Namespace) -> None:
    """Convert the key slices of both splits and write both JSON files."""
    folder = need(chosen.root / FOLDER, SOURCE)
    slices = need(folder / "Images_png", SOURCE)
    found = read_table(need(folder / "DL_info.csv", SOURCE))
    for split in USED:
        grouped: dict[str, list[Lesion]] = {}
        for lesion in found[split]:
            grouped.setdefault(lesion.name, []).append(lesion)
        keys = {"{}/{}.png".format(*NAME.fullmatch(name).groups()): name for name in grouped}
        target = chosen.root / "uodb" / "deeplesion"
        jobs = [
            (slices / key, grouped[keys[key]][0].distance, target / keys[key])
            for key in present(slices, sorted(keys), chosen.partial)
        ]
        content = BoxesJson(CLASSES)
        sizes = spread(convert, jobs, chosen.workers, f"slices of {split}")
        for (_, _, target), (width, height) in zip(jobs, sizes, strict=True):
            number = content.add_image(f"uodb/deeplesion/{target.name}", width, height)
            for lesion in grouped[target.name]:
                content.add_box(number, 0, *lesion.box, lesion.noisy)
        content.write(output(chosen.root, "deeplesion", split))


def read_table(path: Path) -> dict[str, list[Lesion]]:
    """The lesions of ``DL_info.csv`` for every one of ``USED``.

    Raises:
        ValueError: a column is missing or a line is damaged.
    """
    found: dict[str, list[Lesion]] = {split: [] for split in USED}
    table = csv.DictReader(read_text(path).splitlines())
    lacking = [column for column in COLUMNS if column not in (table.fieldnames or ())]
    if lacking:
        raise ValueError(f"'{path}' lacks the columns {', '.join(lacking)}; {SOURCE}")
    for row in table:
        try:
            split = SPLITS[row["Train_Val_Test"].strip()]
            if split in found:
                found[split].append(_lesion(row))
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"line {table.line_num} of '{path}' is damaged ({error}); download it again"
            ) from error
    return found


def _lesion(row: dict[str, str]) -> Lesion:
    if not NAME.fullmatch(row["File_name"]):
        raise ValueError(f"'{row['File_name']}' is no name of a slice")
    x0, y0, x1, y1 = (float(value) for value in row["Bounding_boxes"].split(","))
    noisy = int(row["Possibly_noisy"]) > 0
    _, _, distance = (float(value) for value in row["Spacing_mm_px_"].split(","))
    return Lesion(row["File_name"], (x0 - 1, y0 - 1, x1, y1), noisy, distance)


def windowed(units: np.ndarray) -> np.ndarray:
    """Hounsfield units as uint8: the window's ends are 0 and 255, what is beyond is clipped."""
    low, high = WINDOW
    return np.round(np.clip((units - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def beside(read: Callable[[int], np.ndarray], distance: float, side: int) -> np.ndarray:
    """The volume ``STEP`` mm beside the key slice, [H, W].

    Args:
        read: the slice at an offset from the key slice.
        distance: mm between slices; 0, less or NaN is unknown.
        side: -1 is below, 1 above.
    """
    if not distance > 0:
        return read(0)
    offset = STEP / distance
    near, share = math.floor(offset), offset - math.floor(offset)
    values = (1 - share) * read(side * near)
    return values + share * read(side * (near + 1)) if share else values


def convert(job: tuple[Path, float, Path]) -> tuple[int, int]:
    """Write a key slice (its path, the distance of slices in mm, the target); width and height."""
    key, distance, target = job
    # The folder's time tells of slices that came later.
    if up_to_date(target, key, key.parent):
        return image_size(target)

    middle = _units(key)

    @functools.cache
    def read(offset: int) -> np.ndarray:
        sign = 1 if offset > 0 else -1
        for nearer in range(offset, 0, -sign):
            path = key.with_name(f"{int(key.stem) + nearer:03d}.png")
            if path.is_file():
                values = _units(path)
                if values.shape != middle.shape:
                    raise ValueError(
                        f"'{path}' holds {list(values.shape)} pixels, '{key}' "
                        f"{list(middle.shape)}; restore the originals"
                    )
                return values
        return middle

    channels = [beside(read, distance, -1), middle, beside(read, distance, 1)]
    write_picture(target, windowed(np.stack(channels, axis=-1)))
    return middle.shape[1], middle.shape[0]


def _units(path: Path) -> np.ndarray:
    """Hounsfield units float32 [H, W] of a slice."""
    values = read_pixels(path)
    if values.ndim != 2 or values.dtype.itemsize < 2:
        raise ValueError(
            f"'{path}' holds {values.dtype} {list(values.shape)}, expected one channel of 16 bit; "
            "restore the original"
        )
    return values.astype(np.float32) - OFFSET
