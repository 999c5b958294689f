"""What prepare scripts share: archives, sets of which some are there, images that are missing.

``--partial`` says that only a part of the images is meant to be there, ``--part`` which of several
sets to prepare.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def allow_parts(parser: argparse.ArgumentParser, parts: Iterable[str]) -> argparse.ArgumentParser:
    """Add ``--part``, which may be repeated."""
    parser.add_argument(
        "--part",
        action="append",
        choices=list(parts),
        help="a set to prepare; may be repeated (default: all whose download is there)",
    )
    return parser


def parts_to_prepare(root: Path, chosen: Sequence[str] | None, folders: dict[str, str]) -> list:
    """The chosen sets, or all whose download is there; the others are named.

    Args:
        root: folder of the datasets.
        chosen: what ``--part`` says, or None.
        folders: set -> folder of its download, below ``root``.

    Raises:
        FileNotFoundError: nothing is chosen, and no download is there.
    """
    if chosen:
        return list(dict.fromkeys(chosen))
    there = [name for name, folder in folders.items() if (root / folder).is_dir()]
    absent = ", ".join(f"{name} ('{folders[name]}')" for name in folders if name not in there)
    if not there:
        raise FileNotFoundError(
            f"'{root}' holds none of the downloads {absent}; datasets/README.md says where to "
            "find them"
        )
    if absent:
        print(f"not there, left out: {absent}")
    return there


def prepare_each(names: Sequence[str], prepare: Callable[[str], None]) -> None:
    """Prepare sets one after the other; one that cannot be prepared does not hold up the others.

    Raises:
        ValueError: after the last one, with what is wrong with each that failed.
    """
    problems = {}
    for name in names:
        try:
            prepare(name)
        except (ValueError, OSError) as error:
            problems[name] = " ".join(str(error).split())
    if problems:
        raise ValueError("; ".join(f"{name}: {text}" for name, text in problems.items()))


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
            inner = {part for e in entries for part in e.filename.split("/")}
            if not entries or inner & {"", ".."}:
                raise ValueError(f"'{archive}' is no archive of '{member}'; download it again")
            with whole_folder(target) as folder:
                for entry in tqdm(entries, desc=f"unpacking {archive.name}", mininterval=1):
                    path = folder / entry.filename.removeprefix(f"{member}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(entry) as source, open(path, "wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"'{archive}' is damaged ({error}); download it again") from error


def untar(archive: Path, folder: Path, inside: str, last: str, advice: str) -> None:
    """Unpack a tar, compressed or not, unless it has been.

    Args:
        archive: the tar.
        folder: where its files and folders go, each when everything is unpacked.
        inside: folder of the archive whose content that is; "" for the archive itself.
        last: the one of them that is put there last: where it is, nothing is left to do.
        advice: what to do where neither the archive nor ``last`` is there.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: the archive is damaged or holds something else.
    """
    if (folder / last).exists():
        return
    need(archive, advice)
    part = folder / f".{archive.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tqdm(tar, desc=f"unpacking {archive.name}", mininterval=1):
                tar.extract(member, part, filter="data")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ValueError(
            f"'{archive}' cannot be unpacked ({error}); download it again, or make room"
        ) from error
    if not (part / inside / last).exists():
        shutil.rmtree(part, ignore_errors=True)
        raise ValueError(f"'{archive}' holds no '{inside}/{last}'; download it again")
    for path in sorted((part / inside).iterdir(), key=lambda path: path.name == last):
        if not (folder / path.name).exists():
            os.replace(path, folder / path.name)
    shutil.rmtree(part)
