"""DIODE: find the pictures that have a map of surface normals, and look at what the maps hold.

    python datasets/prepare_diode.py [--root datasets]

reads ``diode/{train,val}/{outdoor,indoors}/scene_*/scan_*/`` (train.tar.gz and train_normals.tar.gz
unpacked over each other, val likewise) and writes ``diode/{outdoor,indoors}_{train,val}.txt``, a
path without suffix per line: the pictures ``<name>.png`` with a ``<name>_normal.npy`` of their
size. The release has no normals for some training pictures; they are left out and counted. The
first map of each scan is read: its normals have to look at the camera, and the ground of outdoor
pictures has to look up, as in the release (x right, y up, z to the viewer). Indoor pictures are
optional. Nothing is converted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import command, need, options, spread, whole_file

# part -> split -> pictures, with normals or without
SIZES = {
    "outdoor": {"train": 16_884, "val": 446},
    "indoors": {"train": 8_574, "val": 325},
}
CAMERA = (886.81, 927.06, 512.0, 384.0)  # fx, fy, cx, cy of 1024 x 768 pixels
GROUND = 0.3  # lowest part of a picture
PICTURES = "unpack {0}.tar.gz (https://diode-dataset.org) into 'diode'"
NORMALS = "unpack {0}_normals.tar.gz (https://diode-dataset.org) into 'diode', over its pictures"


def normals_file(image: Path) -> Path:
    """Where the normals of a picture lie."""
    return image.with_name(f"{image.stem}_normal.npy")


def check_pair(image: Path) -> None:
    """Look for the normals of a picture, by the heads of both files.

    Raises:
        ValueError: one of them is damaged, or they do not belong together.
    """
    path = normals_file(image)
    try:
        with Image.open(image) as picture:
            shape = (picture.height, picture.width, 3)
        found = np.load(path, mmap_mode="r")  # raises where the file is too short
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        text = f"'{image}' or its '{path.name}' is damaged ({error}); restore the originals"
        raise ValueError(text) from error
    if found.shape != shape or found.dtype.kind != "f":
        raise ValueError(
            f"'{path}' holds {found.dtype} {list(found.shape)}, expected normals float "
            f"{list(shape)}; restore the original"
        )


def looks(normals: np.ndarray) -> tuple[float, float]:
    """What a map's axes are told from.

    Args:
        normals: [H, W, 3], zero where there is none.

    Returns:
        The share of its normals that look at the camera, and the mean of y near its lower edge;
        NaN where there is no normal.
    """
    height, width = normals.shape[:2]
    fx, fy, cx, cy = np.array(CAMERA) * ([width / 1024, height / 768] * 2)
    right, down = (np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy
    toward = -right * normals[..., 0] + down[:, None] * normals[..., 1] + normals[..., 2]
    known = normals.any(-1)
    lower = slice(int((1 - GROUND) * height), None)
    shares = toward[known] > 0, normals[lower][known[lower], 1]
    return tuple(float(values.mean()) if values.size else np.nan for values in shares)


def check_axes(images: list[Path], outdoors: bool) -> None:
    """Look at the first map of each scan.

    Raises:
        ValueError: its axes are not those of the release.
    """
    first = {image.parent: image for image in reversed(images)}
    found = {path: looks(np.load(normals_file(path))) for path in first.values()}
    for path, (share, _) in found.items():
        if share < 0.5:
            raise ValueError(
                f"most normals of '{normals_file(path)}' look away from the camera, those of the "
                "release look at it; restore the original"
            )
    up = [ground for _, ground in found.values() if not np.isnan(ground)]
    if outdoors and up and np.mean(up) < 0:
        raise ValueError(
            f"the ground looks down in '{path.parents[2]}': the y axis of its normals is not that "
            "of the release, which points up; restore the originals"
        )


def prepare_split(folder: Path, part: str, split: str, workers: int) -> None:
    """Check the files of one split of one part and write its list.

    Raises:
        FileNotFoundError: the folder is missing, or none of its pictures has normals.
        ValueError: a file is not what it should be.
    """
    source = need(folder / split / part, PICTURES.format(split))
    pictures = sorted(source.glob("scene_*/scan_*/*.png"))
    if not pictures:
        raise ValueError(f"'{source}' holds no picture; {PICTURES.format(split)}")
    images = [picture for picture in pictures if normals_file(picture).is_file()]
    if not images:
        need(normals_file(pictures[0]), NORMALS.format(split))
    for _ in spread(check_pair, images, workers, f"{split}/{part}"):
        pass
    check_axes(images, part == "outdoor")
    target = folder / f"{part}_{split}.txt"
    text = "".join(f"{image.relative_to(folder).with_suffix('')}\n" for image in images)
    if not target.is_file() or target.read_text() != text:
        with whole_file(target) as path:
            path.write_text(text)
    print(f"'{target}': {len(images)} of {len(pictures)} pictures have normals")
    if len(pictures) != SIZES[part][split]:
        print(f"the complete split has {SIZES[part][split]} pictures: this is a part of it")


def prepare(chosen: argparse.Namespace) -> None:
    """Write the lists of the outdoor part, and of the indoor part if it is there."""
    folder = chosen.root / "diode"
    for part, sizes in SIZES.items():
        for split in sizes:
            if part == "outdoor" or (folder / split / part).is_dir():
                prepare_split(folder, part, split, chosen.workers)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, options(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
