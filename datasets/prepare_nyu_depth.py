"""NYU Depth v2: the HDF5 files of fast-depth as PNGs that any reader knows.

    python datasets/prepare_nyu_depth.py [--root datasets]

reads ``nyudepthv2/{train/<scene>,val/official}/*.h5`` (nyudepthv2.tar.gz: "rgb" uint8 [3, H, W],
"depth" float32 [H, W] in metres) and writes, below ``nyudepthv2``, the pictures without loss as
``images/{train/<scene>,test}/*.png``, the depths as ``depth/...`` (16 bit, millimetres, 0 = none:
finer than the sensor's steps), and the lists ``{train,test}.txt`` with lines "image depth-map
focal-length". The HDF5 files may be deleted afterwards. Needs h5py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import command, need, options, spread, up_to_date, whole_file

try:
    import h5py
except ModuleNotFoundError:  # said by `prepare`, so that --help works without it
    h5py = None

# split -> folder of the download, images
SPLITS = {"train": ("train", 47_584), "test": ("val/official", 654)}
FOCAL_LENGTH = 518.8579  # of the Kinect's colour camera, pixels
UNITS = 1000  # per metre
FURTHEST = 65_535
SOURCE = (
    "unpack nyudepthv2.tar.gz (http://datasets.lids.mit.edu/fastdepth/data/nyudepthv2.tar.gz) into "
    "the folder of the datasets"
)


def read_h5(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [H, W, 3] and its depths float [H, W] in metres.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    try:
        with h5py.File(path, "r") as file:
            pixels, depth = file["rgb"][()], file["depth"][()]
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no HDF5 file with 'rgb' and 'depth' ({error}); restore the original"
        ) from error
    if (pixels.dtype, pixels.shape) != (np.uint8, (3, *depth.shape)) or depth.dtype.kind != "f":
        raise ValueError(
            f"'{path}' holds rgb {pixels.dtype} {list(pixels.shape)} and depth {depth.dtype} "
            f"{list(depth.shape)}, expected uint8 [3, H, W] and float [H, W]; restore the original"
        )
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), depth


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depths in metres as uint16 [H, W]; 0 for what is none or does not fit."""
    values = np.nan_to_num(depth.astype(np.float64) * UNITS, posinf=0.0).round()
    return np.where((values > 0) & (values <= FURTHEST), values, 0).astype(np.uint16)


def convert(job: tuple[Path, Path, Path]) -> None:
    """Write the image and the depth map of one HDF5 file."""
    source, image, depth_map = job
    if up_to_date(image, source) and up_to_date(depth_map, source):
        return
    pixels, depth = read_h5(source)
    for target, values in ((image, pixels), (depth_map, millimetres(depth))):
        with whole_file(target) as path:
            Image.fromarray(values).save(path, "PNG")


def prepare_split(folder: Path, split: str, workers: int) -> None:
    """Convert the files of one split and write its list.

    Raises:
        FileNotFoundError: its folder is missing.
        ValueError: there is no file in it, or one that is damaged.
    """
    part, size = SPLITS[split]
    source = need(folder / part, SOURCE)
    files = sorted(source.glob("*/*.h5" if split == "train" else "*.h5"))
    if not files:
        raise ValueError(f"'{source}' holds no HDF5 file; {SOURCE}")
    names = [f"{split}/{path.relative_to(source).with_suffix('.png')}" for path in files]
    jobs = [
        (path, folder / "images" / name, folder / "depth" / name)
        for path, name in zip(files, names)
    ]
    for _ in spread(convert, jobs, workers, split):
        pass
    target = folder / f"{split}.txt"
    text = "".join(f"images/{name} depth/{name} {FOCAL_LENGTH}\n" for name in names)
    if not target.is_file() or target.read_text() != text:
        with whole_file(target) as path:
            path.write_text(text)
    print(f"'{target}': {len(names)} images")
    if len(names) != size:
        print(f"the complete split has {size}: this is a part of it")


def prepare(chosen: argparse.Namespace) -> None:
    """Convert both splits."""
    if h5py is None:
        raise ValueError(
            "NYU Depth v2 comes as HDF5 files and h5py, which reads them, is not installed; run "
            "`pip install h5py`"
        )
    for split in SPLITS:
        prepare_split(chosen.root / "nyudepthv2", split, chosen.workers)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, options(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
