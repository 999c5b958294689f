"""What the prepare scripts of the detection datasets share: archives, and images that are missing.

``--partial`` says that only a part of the images is meant to be there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from preparing import need, whole_file, whole_folder
from tqdm import tqdm


def allow_partial(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add ``--partial``."""
    parser.add_argument(
        "--partial",
        action="store_true",
        help="a part of the images is meant to be there: leave the others out, however many",
    )
    return parser


def images_below(folder: Path) -> Iterator[str]:
    """Paths of the JPEG files in a folder and the folders in it, relative to it, with "/"."""
    for parent, _, names in os.walk(folder, followlinks=True):
        start = Path(parent).relative_to(folder).as_posix()
        prefix = "" if start == "." else f"{start}/"
        for name in names:
            if name.endswith(".jpg"):
                yield prefix + name


def folders_below(folder: Path) -> list[Path]:
    """The folder itself and all folders in it."""
    return [Path(parent) for parent, _, _ in os.walk(folder, followlinks=True)]


def judge_missing(missing: list[str], total: int, folder: Path, partial: bool) -> None:
    """Say how many images are missing, or stop where they are too many.

    Args:
        missing: names of missing images.
        total: number of images that are listed.
        folder: where they should be.
        partial: accept any number short of all.

    Raises:
        ValueError: there is no image, or an image is missing and ``partial`` is not set.
    """
    if not missing and total:
        return
    first = f" (the first is '{missing[0]}')" if missing else ""
    text = f"'{folder}' lacks {len(missing):,} of {total:,} images{first}"
    if len(missing) == total or not partial:
        raise ValueError(
            f"{text}; complete the download, or give --partial where a part is meant to be there"
        )
    print(text)


def found_images(names: Iterable[str], folder: Path, partial: bool) -> int:
    """Look for images by the names that an annotation file has for them.

    Args:
        names: paths below ``folder``.
        folder: where the images are.
        partial: accept any number of missing images short of all.

    Returns:
        How many were found.

    Raises:
        ValueError: see ``judge_missing``.
    """
    there = set(images_below(folder))
    listed = list(names)
    missing = [name for name in listed if name not in there]
    judge_missing(missing, len(listed), folder, partial)
    return len(listed) - len(missing)


def unzip(archive: Path, target: Path, member: str, advice: str) -> None:
    """Unpack a file or a folder of an archive.

    Args:
        archive: a .zip file.
        target: where the member goes; appears when it is complete.
        member: name of the file or folder in the archive.
        advice: what to do where neither the archive nor the target is there.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: the archive is damaged or holds something else.
    """
    if not archive.exists():
        need(target, advice)
    try:
        with zipfile.ZipFile(archive) as content:
            entries = [e for e in content.infolist() if not e.is_dir()]
            if member in content.namelist():
                with whole_file(target) as path, content.open(member) as source:
                    with open(path, "wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
                return
            entries = [e for e in entries if e.filename.startswith(f"{member}/")]
            if not entries or any(".." in e.filename.split("/") for e in entries):
                raise ValueError(f"'{archive}' is no archive of '{member}'; download it again")
            with whole_folder(target) as folder:
                for entry in tqdm(entries, desc=f"unpacking {archive.name}", mininterval=1):
                    path = folder / entry.filename.removeprefix(f"{member}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(entry) as source, open(path, "wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
    except zipfile.BadZipFile as error:
        raise ValueError(f"'{archive}' is damaged ({error}); download it again") from error
