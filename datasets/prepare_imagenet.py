"""ImageNet-1K (ILSVRC 2012) as class folders: imagenet/{train,val}/<WordNet id>/*.JPEG.

    python datasets/prepare_imagenet.py [--root datasets]

reads ``imagenet/ILSVRC2012_img_train.tar`` (a tar per class inside), ``ILSVRC2012_img_val.tar`` and
``ILSVRC2012_devkit_t12.tar.gz`` (or the folder of that name), which knows the classes of the
validation images. A validation set that was unpacked flat into ``imagenet/val`` is sorted in
place. A split that has its class folders is left alone; the tars may be deleted afterwards.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from preparing import command, need, options, read_mat, sound_tar, spread, whole_folder
from tqdm import tqdm

CLASSES = 1000
WNID = re.compile(r"n\d{8}")
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
DEVKIT = "ILSVRC2012_devkit_t12"
SOURCE = "download it from https://image-net.org/challenges/LSVRC/2012/ into imagenet"


class Slice(io.RawIOBase):
    """A part of a file as a file of its own: a tar in a tar is read where it lies."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        wanted = max(min(len(buffer), self._size - self._at), 0)
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def unpack(tar: tarfile.TarFile, path_of: Callable[[str], Path], label: str = "") -> int:
    """Write the files of a tar to the paths that ``path_of`` gives to their names.

    Args:
        tar: the open tar.
        path_of: name of a member, without folders -> where it goes.
        label: text beside the progress bar; "" for no bar.

    Returns:
        The number of files.
    """
    count = 0
    members = filter(tarfile.TarInfo.isfile, tar)
    for member in tqdm(members, desc=label, mininterval=1, disable=not label):
        path = path_of(os.path.basename(member.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tar.extractfile(member) as source, open(path, "wb") as file:
            shutil.copyfileobj(source, file)
        count += 1
    return count


def unpack_class(job: tuple[Path, int, int, Path]) -> int:
    """Unpack one class of the training tar; a folder that is there is complete."""
    tar_file, offset, size, folder = job
    if folder.is_dir():
        return 0
    name = f"{folder.name}.tar in {tar_file}"
    with whole_folder(folder) as part, Slice(tar_file, offset, size) as raw:
        with sound_tar(io.BufferedReader(raw, 1 << 20), name) as tar:
            return unpack(tar, lambda name: part / name)


def prepare_train(folder: Path, workers: int) -> None:
    """Unpack the training tar into class folders, a process per class."""
    tar_file, target = folder / "ILSVRC2012_img_train.tar", folder / "train"
    if not tar_file.exists():
        need(target, f"'{tar_file.name}' is not there either: {SOURCE}")
    else:
        with sound_tar(tar_file, str(tar_file)) as tar:
            jobs = [
                (tar_file, member.offset_data, member.size, target / Path(member.name).stem)
                for member in tar
                if member.isfile() and member.name.endswith(".tar")
            ]
        count = sum(spread(unpack_class, jobs, workers, "train"))
        print(f"'{target}': {count} images unpacked")
    report(target)


def validation_classes(folder: Path) -> list[str]:
    """WordNet id of every validation image, in the order of their numbers, from the devkit.

    Raises:
        FileNotFoundError: there is no devkit.
        ValueError: the devkit contradicts itself.
    """
    kit, packed = folder / DEVKIT, folder / f"{DEVKIT}.tar.gz"
    if not kit.is_dir():
        need(packed, SOURCE)
        with whole_folder(kit) as part, tarfile.open(packed) as tar:
            wanted = [m for m in tar if m.isfile() and "/data/" in f"/{m.name}"]
            for member in wanted:
                member.name = f"data/{os.path.basename(member.name)}"
                tar.extract(member, part, filter="data")
    synsets = read_mat(need(kit / "data" / "meta.mat", SOURCE), "synsets").reshape(-1)
    # the classes are the leaves; what follows them in the file are their ancestors
    wnids = {
        int(entry["ILSVRC2012_ID"].item()): str(entry["WNID"].item())
        for entry in synsets
        if not int(entry["num_children"].item())
    }
    truth = need(kit / "data" / "ILSVRC2012_validation_ground_truth.txt", SOURCE).read_text()
    numbers = [int(word) for word in truth.split()]
    unknown = set(numbers) - set(wnids)
    if unknown:
        raise ValueError(f"'{kit}' has no class for the numbers {sorted(unknown)[:5]}; {SOURCE}")
    return [wnids[number] for number in numbers]


def class_of(wnids: list[str], name: str) -> str:
    """WordNet id of a validation image by its file name."""
    match = VAL_NAME.fullmatch(name)
    if match is None or not 1 <= int(match[1]) <= len(wnids):
        raise ValueError(
            f"'{name}' is none of the {len(wnids)} validation images that the devkit knows; "
            f"{SOURCE}"
        )
    return wnids[int(match[1]) - 1]


def prepare_val(folder: Path) -> None:
    """Sort the validation images into class folders, from the tar or in place."""
    tar_file, target = folder / "ILSVRC2012_img_val.tar", folder / "val"
    flat = sorted(path.name for path in target.glob("*.JPEG")) if target.is_dir() else []
    if flat:
        wnids = validation_classes(folder)
        for name in tqdm(flat, desc="val"):
            (target / class_of(wnids, name)).mkdir(exist_ok=True)
            os.replace(target / name, target / class_of(wnids, name) / name)
    elif not target.is_dir():
        need(tar_file, SOURCE)
        wnids = validation_classes(folder)
        with whole_folder(target) as part, sound_tar(tar_file, str(tar_file)) as tar:
            place = functools.partial(class_of, wnids)
            count = unpack(tar, lambda name: part / place(name) / name, "val")
            if count != len(wnids):
                raise ValueError(
                    f"'{tar_file}' has {count} images, the devkit {len(wnids)}; {SOURCE} again"
                )
    report(target)


def report(folder: Path) -> None:
    """Print what is in a split, and that it is a part where it is one."""
    classes = [entry.path for entry in os.scandir(folder) if WNID.fullmatch(entry.name)]
    images = sum(len(os.listdir(path)) for path in classes)
    part = "" if len(classes) == CLASSES else f": a part, ImageNet-1K has {CLASSES} classes"
    print(f"'{folder}': {images} images of {len(classes)} classes{part}")


def prepare(chosen: argparse.Namespace) -> None:
    """Prepare both splits."""
    folder = need(chosen.root / "imagenet", SOURCE)
    prepare_train(folder, chosen.workers)
    prepare_val(folder)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and prepare; returns the exit status."""
    return command(prepare, options(__doc__), arguments)


if __name__ == "__main__":
    sys.exit(main())
