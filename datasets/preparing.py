"""What the prepare scripts share: the command line, whole files, progress, work over processes.

A prepare script turns an official download into what gppf_d2 reads. It may be called again: what is
there and not older than its source is left alone. A file or a folder appears under its name only
when it is complete, so a script that was interrupted goes on where it stopped. Needs numpy, PIL,
scipy and tqdm, not gppf_d2.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from tqdm import tqdm


def options(text: str) -> argparse.ArgumentParser:
    """A parser with ``--root`` and ``--workers``; ``text`` says what the script does."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of the datasets (default: $DETECTRON2_DATASETS or datasets)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes to spread the work over (default: %(default)s)",
    )
    return parser


def command(
    prepare: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line and prepare; what is wrong with the data is one line on stderr.

    Returns:
        The exit status: 0, or 2 after an error.
    """
    chosen = parser.parse_args(arguments)
    chosen.root = chosen.root.expanduser()
    if chosen.workers < 1:
        parser.error(f"--workers is {chosen.workers}, must be at least 1")
    try:
        prepare(chosen)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def spread(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int, label: str
) -> Iterator[Any]:
    """Results of ``work`` for all items, in their order, with a progress bar.

    Args:
        work: function of a module (processes find it by name); its errors end the script.
        items: what there is to do.
        workers: processes; one, or a single item, is done in this process.
        label: text beside the bar.
    """
    workers = min(workers, len(items))
    with contextlib.ExitStack() as stack:
        if workers > 1:
            pool = stack.enter_context(multiprocessing.Pool(workers))
            results: Iterable = pool.imap(work, items, chunksize=min(len(items) // workers, 16))
        else:
            results = map(work, items)
        yield from tqdm(results, desc=label, total=len(items), mininterval=1, file=sys.stderr)


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``target`` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(number)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, renamed to ``target`` when the block ends without an error.

    What an interrupted call left is removed first, so there is one writer per target.
    """
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    os.replace(part, target)


def up_to_date(target: Path, *sources: Path) -> bool:
    """Whether ``target`` exists and none of its sources is newer."""
    try:
        made = target.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return all(source.stat().st_mtime_ns <= made for source in sources)


def read_mat(path: Path, variable: str) -> Any:
    """One variable of a MATLAB file.

    Raises:
        ValueError: the file is damaged or has no such variable.
    """
    try:
        return loadmat(path, variable_names=[variable])[variable]
    except FileNotFoundError:
        raise
    except (MatReadError, KeyError, TypeError, ValueError, OSError, zlib.error) as error:
        raise ValueError(
            f"'{path}' is no MATLAB file with '{variable}' ({error}); restore the original"
        ) from error


def read_png(path: Path) -> np.ndarray:
    """The values of a label map uint8 [H, W].

    Raises:
        ValueError: the file is damaged or has several channels.
    """
    try:
        values = np.asarray(Image.open(path))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise ValueError(f"'{path}' is damaged ({error}); restore the original") from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise ValueError(
            f"'{path}' holds {values.dtype} {list(values.shape)}, expected one channel of 8 bit; "
            "restore the original"
        )
    return values


@contextlib.contextmanager
def sound_tar(file: Path | BinaryIO, name: str) -> Iterator[tarfile.TarFile]:
    """An uncompressed tar, of which the block reads all members.

    Args:
        file: path of the tar, or the tar as a seekable file.
        name: what messages call it.

    Raises:
        ValueError: the tar is damaged or ends too early.
    """
    where = {"name": file} if isinstance(file, Path) else {"fileobj": file}
    try:
        with tarfile.open(mode="r:", **where) as tar:
            yield tar
            # what TarFile cannot read as a header it takes for the end
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except tarfile.TarError as error:
        raise ValueError(f"'{name}' is damaged ({error}); download it again") from error


def read_text(path: Path) -> str:
    """A text in UTF-8, with "\\n" between its lines whatever the file has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no text ({error.reason}); restore the original") from error


def need(path: Path, advice: str) -> Path:
    """``path``, which must exist.

    Raises:
        FileNotFoundError: it does not; the message ends in ``advice``.
    """
    if not path.exists():
        raise FileNotFoundError(f"'{path}' does not exist; {advice}")
    return path
