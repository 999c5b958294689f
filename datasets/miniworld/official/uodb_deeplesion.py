"""DeepLesion as unpacked: DL_info.csv and series of 16-bit slices (Hounsfield units + 32768).

A picture becomes a series: its key slice with the lesions, and slices beside it in which everything
has moved by a pixel a slice. Distances between slices vary, one is unknown; series end near the key
slice or hold nothing else. A lesion of a heap is possibly noisy, boxes may leave their slice, and
every fifth training picture is a key slice of the validation split.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from .. import formats
from .world import Picture, World

COLUMNS = (
    "File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index",
    "Measurement_coordinates", "Bounding_boxes", "Lesion_diameters_Pixel_",
    "Normalized_lesion_location", "Coarse_lesion_type", "Possibly_noisy", "Slice_range",
    "Spacing_mm_px_", "Image_size", "DICOM_windows", "Patient_gender", "Patient_age",
    "Train_Val_Test",
)  # fmt: skip
OFFSET = 32768
# of the first series of a split: distance of slices in mm, how many are below and above the key
# slice; the others are a key slice alone
SERIES = (("1", 2, 2), ("2", 1, 1), ("5", 1, 0), ("2.5", 1, 1), ("nan", 0, 1), ("1", 2, 1))
ALONE = ("5", 0, 0)
PAD = 1.5  # pixels around a lesion; boxes leave the slice at its borders


def _units(picture: Picture) -> np.ndarray:
    """A picture as Hounsfield units int [H, W] in steps of 64: black is air, white is bone."""
    return picture.pixels.astype(np.int64).sum(-1) * 6 // 64 * 64 - 1100


def _numbers(*values: float) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _rows(picture: Picture, patient: int, key: int, distance: str, split: int) -> list[dict]:
    """The lines of the CSV, without the columns that are the same for all."""
    height, width = picture.pixels.shape[:2]
    rows = []
    for seen in picture.objects:
        x0, y0, x1, y1 = seen.box
        box = (x0 + 1 - PAD, y0 + 1 - PAD, x1 + PAD, y1 + PAD)
        rows.append(
            {
                "File_name": f"{patient:06d}_01_01_{key:03d}.png",
                "Patient_index": patient,
                "Key_slice_index": key,
                "Measurement_coordinates": _numbers(x0, y0, x1, y1, x0, y1, x1, y0),
                "Bounding_boxes": _numbers(*box),
                "Lesion_diameters_Pixel_": _numbers(x1 - x0, y1 - y0),
                "Possibly_noisy": int(seen.crowd),
                "Slice_range": _numbers(key - 3, key + 3),
                "Spacing_mm_px_": f"0.8, 0.8, {distance}",
                "Image_size": _numbers(height, width),
                "Train_Val_Test": split,
            }
        )
    return rows


def write(root: Path, world: World) -> None:
    """``DeepLesion``."""
    folder = formats.Folder(root / "DeepLesion")
    constant = {
        "Study_index": 1, "Series_ID": 1, "Normalized_lesion_location": "0.5, 0.5, 0.5",
        "Coarse_lesion_type": -1, "DICOM_windows": "-175, 275", "Patient_gender": "F",
        "Patient_age": "NaN",
    }  # fmt: skip
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    patient = 0
    for split, number in (("train", 1), ("val", 3)):
        for index, picture in enumerate(world.scenes("deeplesion", split)):
            patient += 1
            key = 3 + 17 * index
            units = _units(picture)
            distance, below, above = SERIES[index] if index < len(SERIES) else ALONE
            for beside in range(-below, above + 1):
                values = np.roll(units, beside, axis=1) + OFFSET
                name = f"Images_png/{patient:06d}_01_01/{key + beside:03d}.png"
                folder.png(name, values.astype(np.uint16))
            part = 2 if split == "train" and index % 5 == 4 else number
            for row in _rows(picture, patient, key, distance, part):
                table.writerow(constant | row)
    folder.write("DL_info.csv", text.getvalue().encode())
