"""The folder of a labelling: begun once, filled by any number of processes, finished by the last.

    labelling.json       from the start: images, teachers, labels; who comes later must ask the same
    shard-00000.arrow    complete or not there
    manifest.json        at the end: the same, with what was counted

Every file gets a temporary name, is synced and renamed, so that a process may be killed at any
point: what it had not finished is made again by the next one, equal byte by byte. Two processes
that make one shard at the same time write equal files. A temporary file is locked while it is
written; one that nobody holds is litter of a process that died, and is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gppf_d2.data.pseudo_labels import (
    FORMAT,
    MANIFEST,
    Row,
    Shard,
    StoredLabel,
    shard_batch,
    shard_name,
)
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo.counting import add_counts, summary

BEGUN = "labelling.json"
ABANDONED_SECONDS = 3600.0  # where the file system has no locks
FREE = ("source", "folder")  # keys that say where something is found, and do not count


class LabelFolder:
    """The folder that a labelling writes.

    Args:
        path: of the folder; made if it is not there.
        asked: what is to be done, JSON: "images" with "count", "teachers", "labels", "shard_size".

    Raises:
        UserError: the folder holds something else, or a labelling that was asked other things.
    """

    def __init__(self, path: str | os.PathLike, asked: Mapping[str, Any]) -> None:
        self.path = Path(path).expanduser()
        self._asked = {"format": FORMAT, **json.loads(json.dumps(asked))}
        self._labels = {name: StoredLabel.of(one) for name, one in asked["labels"].items()}
        self._begin()
        self._digest = hashlib.sha256((self.path / BEGUN).read_bytes()).hexdigest()

    @property
    def count(self) -> int:
        """The number of shards."""
        return -(-self._asked["images"]["count"] // self._asked["shard_size"])

    def missing(self, part: int = 0, parts: int = 1) -> list[int]:
        """Numbers of the shards that are not there.

        Args:
            part: of which process, from 0.
            parts: among how many the shards are dealt out.
        """
        there = set(os.listdir(self.path))
        return [n for n in range(part, self.count, parts) if shard_name(n) not in there]

    def write(self, number: int, rows: Sequence[Row]) -> None:
        """Write a shard, complete or not at all."""
        facts = {"labelling": self._digest, "counts": add_counts(self._labels, rows)}
        batch = shard_batch(self._labels, rows, facts)
        with _replacing(self.path / shard_name(number)) as file:
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)

    def finish(self) -> dict[str, Any] | None:
        """Remove litter, and write the manifest where all shards are there.

        Returns:
            The manifest's content; None while shards are missing.

        Raises:
            ValueError: a shard is damaged or belongs to another labelling.
        """
        remove_litter(self.path)
        if self.missing():
            return None
        path, content = self.path / MANIFEST, self._manifest()
        text = json.dumps(content, indent=1) + "\n"
        if not path.is_file() or path.read_text() != text:
            with _replacing(path) as file:
                file.write(text.encode())
        return content

    def _manifest(self) -> dict[str, Any]:
        """What was asked for, and what the shards say of themselves."""
        counts: dict[str, Any] = {}
        corrupt, hashes = [], hashlib.sha256()
        for number in range(self.count):
            shard = Shard(self.path / shard_name(number))
            if shard.facts.get("labelling") != self._digest:
                raise ValueError(
                    f"'{self.path / shard_name(number)}' belongs to another labelling than its "
                    "folder; remove it and give the same command again."
                )
            counts = add_counts(self._labels, [], counts, shard.facts["counts"])
            hashes.update(b"".join(shard.column("image_hash").to_pylist()))
            corrupt += [
                {"index": shard.cell("index", row), "file_name": shard.cell("file_name", row),
                 "error": error}
                for row, error in enumerate(shard.column("error").to_pylist()) if error
            ]  # fmt: skip
        labels = {
            name: {**self._asked["labels"][name], "counts": summary(label, counts[name])}
            for name, label in self._labels.items()
        }
        begun = json.loads((self.path / BEGUN).read_text())
        return {**begun, "labels": labels, "corrupt": corrupt, "image_hash": hashes.hexdigest()}

    def _begin(self) -> None:
        path = self.path / BEGUN
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = [name for name in os.listdir(self.path) if not name.startswith(".")]
        except OSError as error:
            raise UserError(f"The folder '{self.path}' cannot be made: {error}.") from None
        if others and not path.is_file():
            raise UserError(
                f"The folder '{self.path}' holds other things ('{sorted(others)[0]}'); give "
                "output=, an empty folder or one that this labelling has begun."
            )
        if not path.is_file():
            with _replacing(path, keep=True) as file:
                file.write((json.dumps(self._asked, indent=1) + "\n").encode())
        try:
            begun = json.loads(path.read_text())
        except ValueError:
            begun = {}
        found = difference(self._asked, begun)
        if found:
            raise UserError(
                f"The folder '{self.path}' was begun with another labelling: {found}; give "
                "another output, or the same labelling."
            )


def difference(asked: Any, begun: Any, where: str = "") -> str:
    """The first thing in which two labellings differ, as words; "" where they are equal.

    Args:
        asked: JSON.
        begun: JSON.
        where: they stand.
    """
    if isinstance(asked, Mapping) and isinstance(begun, Mapping):
        for key in [*asked, *(key for key in begun if key not in asked)]:
            if key in FREE:
                continue
            place = f"{where}.{key}" if where else str(key)
            if key not in begun or key not in asked:
                return f"{place} is {'new' if key in asked else 'missing now'}"
            found = difference(asked[key], begun[key], place)
            if found:
                return found
        return ""
    return "" if asked == begun else f"{where} was {_short(begun)} and is {_short(asked)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:40]}..."


@contextlib.contextmanager
def _replacing(path: Path, keep: bool = False) -> Iterator[IO[bytes]]:
    """A file that becomes ``path`` when the block ends without an error.

    Args:
        path: what it becomes.
        keep: leave a file that is there by then as it is.

    Raises:
        UserError: the disk is full.
    """
    try:
        with _temporary(path) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if keep:
                    _rename_if_new(file.name, path)
                else:
                    os.replace(file.name, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.name)
    except OSError as error:  # closing fails on a full disk too
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"There is no room left in '{path.parent}'; make some and give the same command again, "
            "which goes on from there."
        ) from error
    _sync_folder(path.parent)


def _temporary(path: Path) -> IO[bytes]:
    """A new locked file beside ``path``."""
    while True:
        name = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        file = open(name, "xb")  # noqa: SIM115
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if name.exists():
            return file
        file.close()  # somebody took it for litter before it was locked


def _rename_if_new(name: str, path: Path) -> None:
    try:
        os.link(name, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not path.exists():
            os.replace(name, path)


def _sync_folder(path: Path) -> None:
    """Make a rename last."""
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_litter(folder: Path) -> None:
    """Remove temporary files whose processes have died."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                dead = True
            except BlockingIOError:
                dead = False
            except OSError:
                dead = time.time() - path.stat().st_mtime > ABANDONED_SECONDS
            if dead:
                path.unlink()
