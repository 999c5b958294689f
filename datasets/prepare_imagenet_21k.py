"""Check and unpack ImageNet-21K: the processed release (-P) and the whole one.

    python datasets/prepare_imagenet_21k.py [--root datasets] [--part all|p|whole]
        [--extract] [--shorter-side 256]

-P: ``imagenet21k_p/imagenet21k_resized.tar.gz`` of image-net.org (winter21) is unpacked into
``imagenet21k_p/{imagenet21k_train,imagenet21k_val}/<WordNet id>``; both are then counted.
Whole: the class tars ``imagenet21k/<WordNet id>.tar`` that fall11_whole.tar and
winter21_whole.tar.gz contain are checked from header to header. gppf_d2 reads images from these
tars; ``--extract`` makes class folders instead, optionally with smaller images (``--shorter-side
256`` is ready for crops of 224). The tars may be deleted afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from PIL import Image
from preparing import command, need, options, sound_tar, spread, whole_folder
from tqdm import tqdm

SOURCE = "download it from https://image-net.org/download-images.php"
PROCESSED = {"imagenet21k_train": 11_060_223, "imagenet21k_val": 522_500}
PROCESSED_CLASSES, WHOLE_CLASSES = 10_450, 21_841


def unpack_processed(folder: Path) -> None:
    """Unpack the two splits of the processed release; what is there is complete.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged.
    """
    unpacked, archive = folder / "imagenet21k_resized", folder / "imagenet21k_resized.tar.gz"
    if not unpacked.is_dir():
        need(archive, SOURCE)
        try:
            with whole_folder(unpacked) as part, tarfile.open(archive, "r|*") as tar:
                for member in tqdm(tar, desc=archive.name, mininterval=1):
                    steps = PurePosixPath(member.name).parts
                    split = next((step for step in steps if step in PROCESSED), None)
                    if split is not None and member.isfile():
                        member.name = str(PurePosixPath(*steps[steps.index(split) :]))
                        tar.extract(member, part, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(f"'{archive}' is damaged ({error}); {SOURCE} again") from error
    for split in PROCESSED:
        if (unpacked / split).is_dir() and not (folder / split).exists():
            os.replace(unpacked / split, folder / split)
    with contextlib.suppress(OSError):  # not empty where it was unpacked by hand
        unpacked.rmdir()


def count_files(folder: Path) -> int:
    """Number of files of a class folder."""
    with os.scandir(folder) as entries:
        return sum(1 for _ in entries)


def prepare_processed(root: Path, workers: int) -> None:
    """Unpack the processed release where it is packed, and count it.

    Raises:
        ValueError: classes of one split are missing in the other one.
    """
    target, classes = need(root / "imagenet21k_p", SOURCE), {}
    if not all((target / split).is_dir() for split in PROCESSED):
        unpack_processed(target)
    for split, official in PROCESSED.items():
        folder = need(target / split, SOURCE)
        found = sorted(path for path in folder.iterdir() if path.is_dir())
        images = sum(spread(count_files, found, workers, split))
        classes[split] = {path.name for path in found}
        print(f"'{folder}': {images} images of {len(found)} classes", end="")
        whole = images == official and len(found) == PROCESSED_CLASSES
        print("" if whole else f": a part of {official} images of {PROCESSED_CLASSES} classes")
    odd = sorted(set.symmetric_difference(*classes.values()))
    if odd:
        raise ValueError(f"{len(odd)} classes are in one split only, '{odd[0]}' for one; {SOURCE}")


def check_tar(tar_file: Path) -> tuple[int, str]:
    """Number of images of a class tar, and what is wrong with it ("" for nothing)."""
    try:
        with sound_tar(tar_file, str(tar_file)) as tar:
            return sum(member.isfile() for member in tar), ""
    except ValueError as error:
        return 0, str(error)


def smaller(data: bytes, side: int) -> bytes:
    """An encoded image with its shorter side resized to ``side`` pixels, if it is longer.

    Raises:
        OSError: the image is damaged.
    """
    image = Image.open(io.BytesIO(data))
    scale = side / min(image.size)
    if scale >= 1:
        image.load()
        return data
    # JPEG's own halving first, to twice the size at least: as good and much faster
    image.draft("RGB", tuple(2 * round(length * scale) for length in image.size))
    size = tuple(max(round(length * scale), side) for length in image.size)
    buffer = io.BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def extract(job: tuple[Path, int]) -> tuple[int, list[str]]:
    """Make the class folder of a tar; what is there is complete.

    Returns:
        Number of images written, and the names of the damaged ones that were left out (found only
        where images are resized).
    """
    tar_file, side = job
    folder, count, damaged = tar_file.with_suffix(""), 0, []
    if folder.is_dir():
        return 0, []
    with whole_folder(folder) as part, sound_tar(tar_file, str(tar_file)) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            data, name = tar.extractfile(member).read(), os.path.basename(member.name)
            try:
                (part / name).write_bytes(smaller(data, side) if side else data)
                count += 1
            except (OSError, SyntaxError, Image.DecompressionBombError):
                (part / name).unlink(missing_ok=True)
                damaged.append(name)
    return count, damaged


def prepare_whole(root: Path, workers: int, unpack: bool, side: int) -> None:
    """Check the class tars, or make folders of them.

    Raises:
        ValueError: a tar is damaged.
    """
    folder = need(root / "imagenet21k", f"{SOURCE} and unpack its class tars there")
    tars = sorted(folder.glob("n*.tar"))
    if unpack:
        count, damaged = 0, []
        for written, lost in spread(extract, [(t, side) for t in tars], workers, "extract"):
            count, damaged = count + written, damaged + lost
        print(f"'{folder}': {count} images extracted")
        if damaged:
            print(f"{len(damaged)} damaged images were left out: {' '.join(damaged)}")
    else:
        found = list(spread(check_tar, tars, workers, "check"))
        broken = [problem for _, problem in found if problem]
        if broken:
            raise ValueError(f"{len(broken)} tars are damaged: {' | '.join(broken)}")
        print(f"'{folder}': {sum(count for count, _ in found)} images in {len(tars)} tars")
    names = {path.stem for path in folder.glob("n*") if path.suffix == ".tar" or path.is_dir()}
    print(f"'{folder}': {len(names)} classes (fall11 has {WHOLE_CLASSES}, winter21 19167)")


def prepare(chosen: argparse.Namespace) -> None:
    """Prepare one of the two releases, or those that are there."""
    if chosen.shorter_side and not chosen.extract:
        raise ValueError("--shorter-side resizes what --extract writes; give both")
    if chosen.shorter_side < 0:
        raise ValueError(f"--shorter-side is {chosen.shorter_side}, must be at least 1")
    whole = (chosen.root / "imagenet21k").exists()
    processed = (chosen.root / "imagenet21k_p").exists()
    if chosen.part == "p" or (chosen.part == "all" and (processed or not whole)):
        prepare_processed(chosen.root, chosen.workers)
    if chosen.part == "whole" or (chosen.part == "all" and whole):
        prepare_whole(chosen.root, chosen.workers, chosen.extract, chosen.shorter_side)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    parser = options(__doc__)
    parser.add_argument("--part", choices=("all", "p", "whole"), default="all", help="which one")
    parser.add_argument("--extract", action="store_true", help="make class folders of the tars")
    parser.add_argument(
        "--shorter-side",
        type=int,
        default=0,
        help="resize extracted images to this shorter side in pixels, where it is longer",
    )
    return command(prepare, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
