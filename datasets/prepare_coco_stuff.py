"""COCO-Stuff as gppf_d2 reads it: labels 0 to 170, 255 for "unlabeled".

    python datasets/prepare_coco_stuff.py [--root datasets] [--part all|164k|10k]

164k: ``coco/stuffthingmaps/{train2017,val2017}/*.png`` of stuffthingmaps_trainval2017.zip (category
id minus 1, 255 = unlabeled) becomes ``coco/stuffthingmaps_detectron2``. 10k:
``coco_stuff10k/annotations/*.mat`` of cocostuff-10k-v1.1.zip (``S`` holds category ids, 0 =
unlabeled) becomes ``coco_stuff10k/annotations_detectron2/*.png``. Of the 182 category ids 11 are
never used; the others count from 0 in the order of their ids. ``all`` prepares what is there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import command, need, options, read_mat, read_png, spread, up_to_date, whole_file

# ids without a pixel: street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door,
# blender, hair brush
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
IDS, IGNORE = 182, 255
MAPS_SOURCE = (
    "unpack stuffthingmaps_trainval2017.zip (https://github.com/nightrome/cocostuff) into "
    "coco/stuffthingmaps of the folder of the datasets"
)
TEN_SOURCE = (
    "unpack cocostuff-10k-v1.1.zip (https://github.com/nightrome/cocostuff10k) into coco_stuff10k "
    "of the folder of the datasets"
)


def classes_of_ids() -> np.ndarray:
    """Class of every value of a label map of category ids uint8 [256]; 255 where there is none."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    used = [number for number in range(1, IDS + 1) if number not in UNUSED]
    table[used] = np.arange(len(used))
    return table


def read_ids(path: Path) -> np.ndarray:
    """Category ids [H, W] of a file of either release, 0 = unlabeled.

    Raises:
        ValueError: the file is damaged or holds ids that no class has.
    """
    if path.suffix == ".mat":
        ids = read_mat(path, "S")
    else:
        # 255, unlabeled, becomes 0
        ids = read_png(path) + np.uint8(1)
    wrong = np.isin(ids, UNUSED) | (ids > IDS)
    if ids.ndim != 2 or wrong.any():
        found = ids[wrong].max() if wrong.any() else ids.shape
        raise ValueError(f"'{path}' is no label map of COCO-Stuff: it holds {found}; restore it")
    return ids


def convert(pair: tuple[Path, Path]) -> None:
    """Write one label map of classes."""
    source, target = pair
    if up_to_date(target, source):
        return
    classes = classes_of_ids()[read_ids(source)]
    with whole_file(target) as path:
        Image.fromarray(classes).save(path, "PNG")


def convert_all(source: Path, suffix: str, target: Path, workers: int) -> None:
    """Convert the files of a folder."""
    pairs = [(path, target / f"{path.stem}.png") for path in sorted(source.glob(f"*{suffix}"))]
    done = sum(1 for _ in spread(convert, pairs, workers, source.name))
    print(f"'{target}': {done} label maps")


def prepare(chosen: argparse.Namespace) -> None:
    """Convert one release, or those that are there."""
    maps, ten = chosen.root / "coco" / "stuffthingmaps", chosen.root / "coco_stuff10k"
    if chosen.part == "164k" or (chosen.part == "all" and (maps.exists() or not ten.exists())):
        for split in ("train2017", "val2017"):
            target = maps.with_name("stuffthingmaps_detectron2") / split
            convert_all(need(maps / split, MAPS_SOURCE), ".png", target, chosen.workers)
    if chosen.part == "10k" or (chosen.part == "all" and ten.exists()):
        for name in ("images", "imageLists/train.txt", "imageLists/test.txt"):
            need(ten / name, TEN_SOURCE)
        source = need(ten / "annotations", TEN_SOURCE)
        convert_all(source, ".mat", ten / "annotations_detectron2", chosen.workers)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    parser = options(__doc__)
    parser.add_argument(
        "--part", choices=("all", "164k", "10k"), default="all", help="which release"
    )
    return command(prepare, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
