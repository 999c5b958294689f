"""Class folders of images, or a tar per class, coded in a few bytes an image.

A root holds one entry per class: a folder ``<class>`` or a tar ``<class>.tar`` (the folder counts
where there are both); the label is the rank of the class in the list of classes. ImageNet names
files ``<class>_<number>.JPEG``: where all names of a class are one template around a number, the
template is stored once and the number in 2 or 4 bytes; other names are stored as they are. An image
in a tar adds where its data begin, in tar's blocks of 512 bytes (4 bytes: tars up to 2 TiB); how
long they are stands in the tar's header in front of them.

F entries (class folders and tars) in the order of their names, N images, in the order of theirs.
Columns: label [N]; number2, number4, name and block, as long as there are images of that kind; per
entry [F]: entry, head, tail (texts), digits, form, row (of its first number or name), block_row
(-1: a folder), and first [F + 1], its first image. ``image_files`` has the same without labels.
"""

from __future__ import annotations

import bisect
import collections
import functools
import hashlib
import itertools
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gppf_d2.data.index.source import Columns, RecordOf, Writer

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
NARROW, WIDE, NAMES = 0, 1, 2  # forms: numbers of 2 bytes, of 4 bytes, whole names
COLUMNS = ("number2", "number4", "name")  # of the three forms
BLOCK = tarfile.BLOCKSIZE
THREADS = 16
_TEMPLATE = re.compile(r"(.*?)([0-9]{1,10})(\.[A-Za-z]+)", re.DOTALL)


@dataclass(frozen=True)
class Coded:
    """The file names of one entry.

    Args:
        head: what stands before the number; "" without a template.
        tail: what stands after it.
        digits: width of the number, padded with zeros; 0 for no padding.
        numbers: uint16 or uint32 [n], or None without a template.
        names: the names themselves where there is no template.
        blocks: uint32 [n], where the data begin in a tar, in blocks of 512 bytes; None for a
            folder.
    """

    head: str = ""
    tail: str = ""
    digits: int = 0
    numbers: np.ndarray | None = None
    names: Sequence[str] = ()
    blocks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names) if self.numbers is None else len(self.numbers)

    @property
    def form(self) -> int:
        """NARROW, WIDE or NAMES."""
        if self.numbers is None:
            return NAMES
        return NARROW if self.numbers.dtype == np.uint16 else WIDE


def code_names(names: Sequence[str], blocks: np.ndarray | None = None) -> Coded:
    """Code file names as one template and numbers, where they are that.

    Args:
        names: file names.
        blocks: see ``Coded``.

    Returns:
        What ``Coded.head + number + Coded.tail`` gives every name back from, exactly.
    """
    match = _TEMPLATE.fullmatch(names[0]) if names else None
    if match is None:
        return Coded(names=names, blocks=blocks)
    head, first, tail = match.groups()
    digits = len(first) if first.startswith("0") and len(first) > 1 else 0
    cut = slice(len(head), -len(tail))
    numbers = []
    for name in names:
        text = name[cut]
        # what int() takes and does not give back (signs, blanks, zeros) is no number of a template
        if not (text.isascii() and text.isdigit() and f"{head}{text}{tail}" == name):
            return Coded(names=names, blocks=blocks)
        number = int(text)
        if f"{number:0{digits}d}" != text or number >= 1 << 32:
            return Coded(names=names, blocks=blocks)
        numbers.append(number)
    kind = np.uint16 if max(numbers) < 1 << 16 else np.uint32
    return Coded(head, tail, digits, np.array(numbers, dtype=kind), (), blocks)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not os.path.basename(name).startswith(".")


def code_folder(path: str) -> Coded:
    """The images of a folder, by name; a folder with the name of an image is none."""
    with os.scandir(path) as entries:
        return code_names(
            sorted(
                entry.name
                for entry in entries
                if _is_image(entry.name) and not entry.is_dir(follow_symlinks=False)
            )
        )


def code_tar(path: str) -> Coded:
    """The images of a tar, by name.

    Raises:
        ValueError: the tar is damaged, ends too early or is not made of plain files.
    """
    members = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and _is_image(member.name):
                    members.append((member.name, member.offset_data // BLOCK))
            # TarFile takes a broken header for the end of the tar
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(BLOCK).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except tarfile.TarError as error:
        raise ValueError(
            f"the tar '{path}' is damaged ({error}); download it again or move it away"
        ) from error
    members.sort()
    blocks = np.array([block for _, block in members], dtype=np.int64)
    if blocks.size and blocks.max() >= 1 << 32:
        raise ValueError(f"the tar '{path}' is larger than 2 TiB; extract it into a folder")
    return code_names([name for name, _ in members], blocks.astype(np.uint32))


def _code(path: str) -> Coded:
    return code_tar(path) if path.endswith(".tar") and os.path.isfile(path) else code_folder(path)


def coded_entries(paths: Sequence[str]) -> Iterator[Coded]:
    """The file names of folders and tars, listed in threads, in the order of ``paths``."""
    return _in_order(_code, paths)


def _in_order(work: Callable[[str], Coded], items: Sequence[str]) -> Iterator[Coded]:
    """``map`` in threads with a bounded lead, so that results do not pile up."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = collections.deque(pool.submit(work, item) for item in items[: 4 * THREADS])
        for item in itertools.chain(items[4 * THREADS :], itertools.repeat(None)):
            if not waiting:
                return
            result = waiting.popleft().result()
            if item is not None:
                waiting.append(pool.submit(work, item))
            yield result


def _append(writer: Writer, rows: dict[str, int], entry: str, coded: Coded) -> None:
    """Append an entry; ``rows`` counts the rows of the columns that differ in length."""
    column = COLUMNS[coded.form]
    for name, text in (("entry", entry), ("head", coded.head), ("tail", coded.tail)):
        writer.append_texts(name, [text])
    writer.append("digits", np.array([coded.digits], dtype=np.uint8))
    writer.append("form", np.array([coded.form], dtype=np.uint8))
    writer.append("row", np.array([rows[column]], dtype=np.int64))
    if coded.numbers is None:
        writer.append_texts(column, coded.names)
    else:
        writer.append(column, coded.numbers)
    rows[column] += len(coded)
    start = -1 if coded.blocks is None else rows["block"]
    writer.append("block_row", np.array([start], dtype=np.int64))
    if coded.blocks is not None:
        writer.append("block", coded.blocks)
        rows["block"] += len(coded)


def write_entries(writer: Writer, entries: Sequence[str], coded: Iterable[Coded]) -> list[int]:
    """Append the columns of the module's docstring but for the labels.

    Args:
        writer: of the index.
        entries: paths of folders and tars below the root.
        coded: their file names.

    Returns:
        The number of images of each entry.
    """
    rows = dict.fromkeys((*COLUMNS, "block"), 0)
    writer.append("number2", np.empty(0, dtype=np.uint16))
    writer.append("number4", np.empty(0, dtype=np.uint32))
    writer.append("block", np.empty(0, dtype=np.uint32))
    writer.append_texts("name", [])
    counts = []
    for entry, one in zip(entries, coded):
        _append(writer, rows, entry, one)
        counts.append(len(one))
        writer.progress(len(counts) / len(entries))
    writer.append("first", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return counts


@dataclass(frozen=True)
class ImageFolderSource:
    """Images in one folder or one tar per class.

    Args:
        root: the folder that holds them.
        classes: names of all classes in the order of their labels, for example WordNet ids. A root
            may lack some of them (it is then a part of the dataset, which is logged), but may not
            have others.
        name: the dataset's name, for messages.
    """

    root: str
    classes: tuple[str, ...]
    name: str

    @property
    def place(self) -> str:
        """The index lies beside the root."""
        return self.root

    def entries(self) -> dict[str, str]:
        """Class -> name of its folder or tar, by class.

        Raises:
            FileNotFoundError: there is no root.
            ValueError: a folder or tar belongs to no class, or none to any.
        """
        found: dict[str, str] = {}
        with os.scandir(self.root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                folder = not entry.name.endswith(".tar")
                if not entry.name.startswith(".") and (entry.is_dir() if folder else True):
                    # in this order the folder comes after the tar and takes its place
                    found[entry.name.removesuffix(".tar")] = entry.name
        strange = sorted(set(found) - set(self.classes))
        if strange:
            raise ValueError(
                f"'{self.root}' holds '{found[strange[0]]}', which is none of the "
                f"{len(self.classes)} classes of {self.name} (as '{self.classes[0]}' is); restore "
                "the original folders or move it away"
            )
        if not found:
            raise ValueError(
                f"'{self.root}' holds no class folder and no tar of {self.name} (such as "
                f"'{self.classes[0]}'); check that it was unpacked completely"
            )
        return dict(sorted(found.items()))

    def files(self) -> list[str]:
        """The root, the class folders, whose times change with what they hold, and the tars."""
        return [self.root, *(os.path.join(self.root, name) for name in self.entries().values())]

    def identity(self) -> dict[str, Any]:
        """Kind, version, and a digest of the classes."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        return {"kind": "image_folder", "version": 2, "of": digest.hexdigest()}

    def coded(self, paths: Sequence[str]) -> Iterator[Coded]:
        """The file names of each entry; listing is what takes the time."""
        return coded_entries(paths)

    def write(self, writer: Writer) -> int:
        """List all folders and tars, in threads, and append their columns.

        Folders take about 4 microseconds an image, tars, whose headers are read one by one, 40.
        """
        found = self.entries()
        paths = [os.path.join(self.root, name) for name in found.values()]
        counts = write_entries(writer, list(found.values()), self.coded(paths))
        labels = {name: label for label, name in enumerate(self.classes)}
        kind = np.int16 if len(self.classes) < 1 << 15 else np.int32
        writer.append("label", np.repeat(np.array([labels[n] for n in found], kind), counts))
        writer.note(classes_found=len(found))
        return sum(counts)

    def decoder(self) -> Callable[[Columns], RecordOf]:
        """See ``source.Source``."""
        return functools.partial(decode_entries, self.root)

    def publish(self, columns: Columns) -> None:
        """Log where the root is a part of the dataset."""
        found = columns.notes["classes_found"]
        if found < len(self.classes):
            logging.getLogger(__name__).warning(
                "%s: '%s' holds %d of the %d classes; labels are those of the complete dataset",
                self.name,
                self.root,
                found,
                len(self.classes),
            )


def decode_entries(root: str, columns: Columns) -> RecordOf:
    """Prepare decoding of the columns; see ``Source.decoder``.

    Args:
        root: folder that the entries lie in.
        columns: with or without "label".
    """
    # memoryviews: their elements are Python's integers, several times as fast as numpy's
    first, form, row, digits, block, block_row = (
        memoryview(columns[name])
        for name in ("first", "form", "row", "digits", "block", "block_row")
    )
    label = memoryview(columns["label"]) if "label" in columns else None
    numbers = memoryview(columns["number2"]), memoryview(columns["number4"])
    entry, head, tail, names = (columns.texts(name) for name in ("entry", "head", "tail", "name"))

    def record(index: int) -> dict[str, Any]:
        place = bisect.bisect_right(first, index) - 1
        offset = index - first[place]
        kind, at = form[place], row[place] + offset
        if kind == NAMES:
            name = names(at)
        else:
            name = f"{head(place)}{numbers[kind][at]:0{digits[place]}d}{tail(place)}"
        below = entry(place)
        path = f"{root}{os.sep}{below}" if below else root
        result = {"file_name": path, "image_id": index}
        if label is not None:
            result["label"] = label[index]
        if block_row[place] < 0:
            result["file_name"] = f"{path}{os.sep}{name}"
        else:
            result["file_name"] = f"{path}:{name}"
            result["tar_file"] = path
            result["tar_offset"] = block[block_row[place] + offset] * BLOCK
        return result

    return record
