"""Any images: what lies in a folder, at any depth, and in the tars there. Nothing is labelled.

Names are coded as those of class folders (``image_folder``): an entry of the columns is a folder or
a tar, and the root itself is the entry "". Their order is that of a walk from the top: the images
of a folder by name, then its tars by name, then its folders by name. Hidden files and folders are
left out; links are followed, and a folder that is reached twice counts once.

At every opening the folders are listed, not their tars: about a second for a million plain files.
Hundreds of millions of images belong into tars.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gppf_d2.data.index.image_folder import (
    SUFFIXES,
    coded_entries,
    decode_entries,
    write_entries,
)
from gppf_d2.data.index.opening import open_source
from gppf_d2.data.index.records import RecordSequence
from gppf_d2.data.index.source import Columns, RecordOf, Writer


@dataclass(frozen=True)
class ImageFilesSource:
    """All images below a folder.

    Args:
        root: the folder.
        name: the dataset's name, for messages.
    """

    root: str
    name: str = ""

    @property
    def place(self) -> str:
        """The index lies beside the root."""
        return self.root

    def entries(self) -> list[str]:
        """Paths of all folders and tars below the root, "" for itself, in the order of the records.

        Raises:
            FileNotFoundError: there is no root.
            ValueError: the root is a file.
        """
        if os.path.isfile(self.root):
            raise ValueError(f"'{self.root}' is a file; name the folder that holds it")
        return list(_walk(self.root))

    def files(self) -> list[str]:
        """All folders, whose times change with what they hold, and all tars."""
        return [os.path.join(self.root, entry) for entry in self.entries()]

    def identity(self) -> dict[str, Any]:
        """Kind and version."""
        return {"kind": "image_files", "version": 1}

    def write(self, writer: Writer) -> int:
        """List all folders and tars, in threads; see ``ImageFolderSource.write``.

        Raises:
            ValueError: there is no image, or a tar is damaged.
        """
        entries = self.entries()
        paths = [os.path.join(self.root, entry) for entry in entries]
        total = sum(write_entries(writer, entries, coded_entries(paths)))
        if not total:
            whose = f" of {self.name}" if self.name else ""
            raise ValueError(
                f"'{self.root}' holds no image{whose}, neither as a file nor in a .tar (names end "
                f"with {', '.join(SUFFIXES)}); check the folder, and decompress compressed tars"
            )
        return total

    def decoder(self) -> Callable[[Columns], RecordOf]:
        """See ``source.Source``."""
        return functools.partial(decode_entries, self.root)

    def publish(self, columns: Columns) -> None:
        """There is nothing to say."""


def open_images(root: str | os.PathLike[str]) -> RecordSequence:
    """The images of a folder, at any depth and in tars, as records without annotations.

    The first call on a machine builds the index, later ones map it.

    Args:
        root: the folder.

    Returns:
        Records with "file_name" and "image_id", and, of images in tars, "tar_file" and
        "tar_offset".

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no image, or a damaged tar.
    """
    return open_source(ImageFilesSource(os.path.abspath(os.path.expanduser(os.fspath(root)))))


def _walk(root: str) -> Iterator[str]:
    """The folder, its tars and the folders below it, relative to ``root``."""
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise error

    for folder, below, names in os.walk(root, onerror=fail, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith("."))
        relative = folder[len(root) :].lstrip(os.sep)
        yield relative
        for name in sorted(names):
            if name.endswith(".tar") and not name.startswith("."):
                yield os.path.join(relative, name)
