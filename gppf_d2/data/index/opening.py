"""Open the index of a source; build it first where there is none that fits.

An index is made anew when the source's files or options are others, when it is damaged or
incomplete, and when its format is of another version; one line in the log says why. Building is
safe in several processes at once: see ``places``.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gppf_d2.data.index.places import (
    BuildLock,
    build_lock,
    fingerprint,
    index_paths,
    remove_unused,
    writable_path,
)
from gppf_d2.data.index.records import Records, RecordSequence
from gppf_d2.data.index.source import DerivedSource, Source
from gppf_d2.data.index.store import BrokenIndex, ColumnWriter, MappedColumns, write_header

ABANDONED_SECONDS = 3600.0

logger = logging.getLogger(__name__)


def open_source(source: Source | DerivedSource) -> RecordSequence:
    """The records of a source, through its index.

    Args:
        source: is asked for its files, and read where there is no index that fits; a derived one
            opens another source.

    Returns:
        A sequence of records that are made when they are asked for; it is pickled as a path.

    Raises:
        FileNotFoundError: a file of the source is missing.
        ValueError: the source is broken, or an index can be written nowhere.
    """
    if isinstance(source, DerivedSource):
        return source.open_records()
    expected = fingerprint(source)
    paths = index_paths(source.place, expected)
    reasons: list[str] = []
    columns, path = _find(paths, expected, reasons)
    if columns is None:
        columns, path = _build_once(source, paths, expected, reasons)
    with contextlib.suppress(OSError):
        os.utime(path)  # in use
    source.publish(columns)
    return Records(path, source.decoder(), columns)


def _find(
    paths: list[Path], expected: Mapping[str, Any], reasons: list[str]
) -> tuple[MappedColumns | None, Path]:
    """The first index that fits; adds why others do not."""
    for path in paths:
        try:
            return MappedColumns(path, expected), path
        except BrokenIndex as error:
            reasons.append(f"{error} in '{path.parent}'")
        except OSError:
            continue  # there is none
    return None, Path()


def _build_once(
    source: Source, paths: list[Path], expected: Mapping[str, Any], reasons: list[str]
) -> tuple[MappedColumns, Path]:
    """Build, or wait for the process that does."""
    path = writable_path(paths)
    what = f"'{source.place}'" if source.place else str(expected["identity"].get("name"))
    with build_lock(path.with_suffix(".lock"), what) as lock:
        columns, found = _find(paths, expected, [])
        if columns is not None:
            return columns, found
        try:
            if lock.failure:  # of the process that this one waited for: the same would happen here
                raise ValueError(lock.failure)
            if reasons:
                logger.warning("The index of %s is made anew: %s", what, "; ".join(reasons))
            with _no_garbage_collection(), _full_disk_explained(path.parent, what):
                _build(source, path, expected, what, lock)
        except Exception as error:
            lock.say("failed", " ".join(str(error).split()) or type(error).__name__)
            raise
        return MappedColumns(path, expected), path


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Parsed annotations are many objects without cycles: looking for some doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _full_disk_explained(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"'{folder}' has no room for the index of {what}; make some, or name another folder "
            "for indexes with GPPF_D2_INDEX_DIR"
        ) from error


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what processes that were killed while they built left behind.

    Not what somebody still writes to: where locks do not work there may be such a process.
    """
    for leftover in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            touched = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if time.time() - touched > ABANDONED_SECONDS:
                shutil.rmtree(leftover)


def _build(
    source: Source, path: Path, expected: Mapping[str, Any], what: str, lock: BuildLock
) -> None:
    start = time.monotonic()
    folder, prefix = path.parent, f".{path.name}."

    def report(progress: str) -> None:
        lock.say("at", progress)
        logger.info("Indexing %s: %s", what, progress)

    _remove_leftovers(folder, prefix)
    lock.say("at", "the start")
    with tempfile.TemporaryDirectory(dir=folder, prefix=prefix) as scratch:
        with contextlib.closing(ColumnWriter(Path(scratch), report)) as writer:
            records = source.write(writer)
            arrow = Path(scratch) / "columns.arrow"
            header = writer.finish(arrow)
        if fingerprint(source) != expected:
            raise ValueError(f"{what} changed while it was read; start again when it is complete")
        if _find([path], expected, [])[0] is not None:
            return  # without file locks another process may have been faster, and be reading
        os.replace(arrow, path.with_suffix(".arrow"))
    write_header(path, {**expected, "records": records, **header})
    remove_unused(path)
    level = logging.INFO if source.place else logging.DEBUG
    logger.log(
        level, "Indexed %s: %d records, %.1f MB in '%s', %.1f s", what, records,
        header["bytes"] / 1e6, folder, time.monotonic() - start,
    )  # fmt: skip
