"""Pascal VOC 2012 segmentation with the labels of SBD: the 10,582 training images.

    python datasets/prepare_voc_2012_aug.py [--root datasets]

reads ``VOC2012`` (VOCtrainval_11-May-2012.tar) and ``benchmark_RELEASE`` (SBD's benchmark.tgz) and
writes ``VOC2012/SegmentationClassAug/*.png`` and ``VOC2012/ImageSets/Segmentation/trainaug.txt``.
The list is the union of SBD's train and val and VOC's train without VOC's val. An image that VOC
itself labelled keeps VOC's map, which marks object borders with 255; the others take SBD's
(``cls/*.mat``, GTcls.Segmentation). Maps carry VOC's palette: they can be looked at.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import command, need, options, read_mat, spread, up_to_date, whole_file

LARGEST, BORDER = 20, 255
IMAGES = 10_582
VOC_SOURCE = (
    "unpack VOCtrainval_11-May-2012.tar (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/) and move "
    "its VOCdevkit/VOC2012 into the folder of the datasets"
)
SBD_SOURCE = (
    "unpack benchmark.tgz of SBD (http://home.bharathh.info/pubs/codes/SBD/download.html) into the "
    "folder of the datasets"
)


def palette() -> list[int]:
    """VOC's colours [256 x 3]: bits 0, 3, 6 of an index are the high bits of red, and so on."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    index = np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colors.reshape(-1).tolist()


def read_sbd(path: Path) -> np.ndarray:
    """The class map uint8 [H, W] of one of SBD's ``cls`` files, 0 = background.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    truth = read_mat(path, "GTcls")
    fields = truth.dtype.names or ()
    labels = truth["Segmentation"][0, 0] if "Segmentation" in fields else None
    if labels is None or labels.ndim != 2 or labels.max() > LARGEST:
        raise ValueError(f"'{path}' is no class map with labels up to {LARGEST}; {SBD_SOURCE}")
    return labels.astype(np.uint8)


def convert(job: tuple[Path, Path]) -> None:
    """Write one label map, from SBD's .mat or as a copy of VOC's PNG."""
    source, target = job
    if up_to_date(target, source):
        return
    with whole_file(target) as path:
        if source.suffix == ".png":
            shutil.copyfile(source, path)
            return
        image = Image.fromarray(read_sbd(source), mode="P")
        image.putpalette(palette())
        image.save(path, "PNG")


def names_of(path: Path, advice: str) -> list[str]:
    """The lines of a list of images."""
    return need(path, advice).read_text().split()


def prepare(chosen: argparse.Namespace) -> None:
    """Write the list and the label maps."""
    voc = need(chosen.root / "VOC2012", VOC_SOURCE)
    sbd = need(chosen.root / "benchmark_RELEASE" / "dataset", SBD_SOURCE)
    lists = voc / "ImageSets" / "Segmentation"
    train, val = (names_of(lists / f"{split}.txt", VOC_SOURCE) for split in ("train", "val"))
    extra = [
        name for split in ("train", "val") for name in names_of(sbd / f"{split}.txt", SBD_SOURCE)
    ]
    names = sorted({*train, *extra} - set(val))
    own = set(train)
    jobs = []
    for name in names:
        need(voc / "JPEGImages" / f"{name}.jpg", VOC_SOURCE)
        if name in own:
            source = need(voc / "SegmentationClass" / f"{name}.png", VOC_SOURCE)
        else:
            source = need(sbd / "cls" / f"{name}.mat", SBD_SOURCE)
        jobs.append((source, voc / "SegmentationClassAug" / f"{name}.png"))
    for _ in spread(convert, jobs, chosen.workers, "label maps"):
        pass
    target = lists / "trainaug.txt"
    text = "".join(f"{name}\n" for name in names)
    if not target.is_file() or target.read_text() != text:
        with whole_file(target) as path:
            path.write_text(text)
    print(f"'{target}': {len(names)} images, {len(own & set(names))} with VOC's own labels")
    if len(names) != IMAGES:
        print(f"the complete releases give {IMAGES} images: this is a part of them")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, options(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
