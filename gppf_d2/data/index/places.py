"""Where indexes lie, who builds one, and what tells that a source has changed.

An index lies in ``<place>.index`` beside its source, or, where nothing can be written there, in the
user's cache folder; with $GPPF_D2_INDEX_DIR set, all lie in that folder. What serves one run only
lies in a folder of the run below it, private to the user and held by a shared file lock: the last
process to leave removes it, and one that all its processes left behind is removed by the next run.

Processes that need the same index at once agree through a file lock, without knowing each other:
one builds, the others wait, say so, and open. File systems without locks lose nothing but time, as
everything is renamed into place and equal sources make equal indexes.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gppf_d2.data.index.source import Source

HEAD = 64 << 10  # bytes of a file that are hashed
FEW = 100  # files of a source; of more, heads are not read, and one digest stands for all
REPORT_SECONDS = 10.0
UNUSED_DAYS = 60

logger = logging.getLogger(__name__)


def fingerprint(source: Source) -> dict[str, Any]:
    """What an index of the source must say about it: identity and files; plain JSON.

    Raises:
        FileNotFoundError: a file is missing.
    """
    identity = json.loads(json.dumps(dict(source.identity())))
    files = source.files()
    states = [_state(path, with_head=len(files) <= FEW) for path in files]
    if len(files) > FEW:
        states = [hashlib.sha256(json.dumps(states).encode()).hexdigest()]
    return {"identity": identity, "files": states}


def _state(path: str, with_head: bool) -> list:
    """Name, time of change and, of a file, size and hash of the head."""
    status, name = os.stat(path), os.path.basename(os.path.abspath(path))
    if stat.S_ISDIR(status.st_mode):
        return [name, status.st_mtime_ns]
    if not with_head:
        return [name, status.st_mtime_ns, status.st_size]
    with open(path, "rb") as file:
        head = hashlib.sha256(file.read(HEAD)).hexdigest()[:16]
    return [name, status.st_mtime_ns, status.st_size, head]


def index_paths(place: str | None, expected: Mapping[str, Any]) -> list[Path]:
    """Where the header of a source's index may lie, the best place first.

    Beside the source an index of other files is replaced. A folder of the cache may serve machines
    that have the data on disks of their own, so the name there says which files the index is of.

    Args:
        place: of the source.
        expected: its fingerprint.
    """
    name = f"{_digest(expected['identity'])}.json"
    if place is None:
        return [_RUN.folder() / name]
    where = os.path.abspath(place)
    folder = cache_folder() / f"{os.path.basename(where)}-{_digest(where)}.index"
    cached = folder / f"{_digest(expected)}.json"
    beside = Path(f"{where}.index", name)
    return [cached] if os.environ.get("GPPF_D2_INDEX_DIR") else [beside, cached]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def remove_unused(header: Path) -> None:
    """Remove what lies in the folder of an index and was last opened ``UNUSED_DAYS`` ago."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for other in header.parent.glob("*.json"):
        with contextlib.suppress(OSError):
            if other != header and other.stat().st_mtime < oldest:
                other.unlink()
                other.with_suffix(".arrow").unlink()


def cache_folder() -> Path:
    """$GPPF_D2_INDEX_DIR, or a folder in the user's cache."""
    chosen = os.environ.get("GPPF_D2_INDEX_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(cache).expanduser() / "gppf_d2" / "index"


def writable_path(paths: Sequence[Path]) -> Path:
    """The first path whose folder can be made and written to.

    Raises:
        ValueError: none; with what the system says about each.
    """
    reasons = []
    for path in paths:
        folder = path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
            return path
        except OSError as error:
            reasons.append(f"'{folder}': {error.strerror}")
    raise ValueError(
        f"An index of annotations can be written nowhere ({', '.join(reasons)}); name a folder for "
        "it with GPPF_D2_INDEX_DIR"
    )


class BuildLock:
    """Held while building; tells those who wait how far it is, or what went wrong.

    Attributes:
        failure: with what words the process that this one waited for gave up; "" otherwise.
    """

    def __init__(self, file: IO[str], failure: str) -> None:
        self._file, self.failure = file, failure

    def clear(self) -> None:
        """Forget what was said."""
        self._file.seek(0)
        self._file.truncate()
        self._file.flush()

    def say(self, word: str, text: str) -> None:
        """Leave a line for the others."""
        self.clear()
        self._file.write(f"{word} {text}")
        self._file.flush()


@contextlib.contextmanager
def build_lock(path: Path, what: str) -> Iterator[BuildLock]:
    """Wait until this process is the only one to build an index.

    Args:
        path: of the lock file, which stays.
        what: is built, for the log.
    """
    with _lock_file(path) as file:
        start, said, waited = time.monotonic(), 0.0, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = True
            except OSError as error:
                logger.info("No file locks in '%s': %s", path.parent, error.strerror)
                break
            time.sleep(0.05 if time.monotonic() - start < 2 else 0.5)
            if time.monotonic() - max(start, said) > REPORT_SECONDS:
                said = time.monotonic()
                logger.info("Waiting for another process to index %s: %s", what, _read(file))
        told = _read(file)
        failure = told.removeprefix("failed ") if waited and told.startswith("failed ") else ""
        lock = BuildLock(file, failure)
        lock.clear()
        yield lock


def _lock_file(path: Path) -> IO[str]:
    try:
        return open(path, "a+")
    except PermissionError:  # another user's; what both build is equal
        return tempfile.TemporaryFile("a+")


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read(4096)


class _Run:
    """The folder of what serves this run only."""

    def __init__(self) -> None:
        self._token = ""
        self._held: tuple[int, Path, IO[str]] | None = None

    def join(self, token: str) -> None:
        if token != self._token:
            self.leave()
            self._token = token

    def folder(self) -> Path:
        if self._held is not None and (self._held[0] == os.getpid() or self._held[1].is_dir()):
            return self._held[1]  # a forked process uses its parent's
        self._token = self._token or secrets.token_hex(8)
        # no name of a machine holds an @
        folder = writable_path([cache_folder() / "runs" / f"{socket.gethostname()}@{self._token}"])
        _remove_abandoned(folder.parent)
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise ValueError(f"'{folder}' belongs to another user; set GPPF_D2_INDEX_DIR")
            with contextlib.suppress(FileNotFoundError):
                file = open(folder / "held", "a+")  # noqa: SIM115
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_SH)
                # between the two another process may have taken the folder for abandoned
                if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / "held")):
                    break
        self._held = (os.getpid(), folder, file)
        atexit.register(self.leave)
        return folder

    def leave(self) -> None:
        held, self._held = self._held, None
        if held is not None and held[0] == os.getpid():
            _remove_if_last(held[1], held[2])


_RUN = _Run()


def join_run(token: str) -> None:
    """Share what serves one run only with all processes on this machine that say the same.

    Args:
        token: of the run; processes that never call this are runs of their own.
    """
    _RUN.join(token)


def _remove_if_last(folder: Path, file: IO[str]) -> None:
    with file, contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(runs: Path) -> None:
    """Remove the folders of this machine's runs whose processes are all gone."""
    for held in runs.glob(f"{socket.gethostname()}@*/held"):
        with contextlib.suppress(OSError):
            _remove_if_last(held.parent, open(held, "a+"))  # noqa: SIM115
