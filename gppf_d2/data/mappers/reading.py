"""Read the files of a record, with errors that carry their names.

An image that PIL cannot decode is an OSError, an annotation that cannot be right a ValueError, so
that whoever calls a mapper can tell a broken file from a wrong dataset. Detectron2's own
``read_image`` is not used: it looks for EXIF data first and swallows what goes wrong, and a
truncated PNG comes back as a picture that is black where the data ended.

An image may lie in a tar: the record then has "tar_file" and "tar_offset", where its data begin,
and its "file_name" is a label, "<tar>:<member>". Nothing is unpacked and no tar stays open, so any
number of processes may read from as many tars as there are.

Several mappers for one image (one per teacher, in pseudo labelling) decode it once: whoever has
decoded it calls them inside ``already_decoded``.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import BinaryIO

import numpy as np
from detectron2.data import detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps, UnidentifiedImageError

# what PIL's decoders raise for damaged files, beside OSError and its UnidentifiedImageError
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    tarfile.TarError,
)
_decoded: ContextVar[tuple[str, Image.Image] | None] = ContextVar("decoded", default=None)


@contextmanager
def already_decoded(file_name: str, image: Image.Image) -> Iterator[None]:
    """Context in which ``load_image`` and ``read_image`` give this image for ``file_name``.

    Args:
        file_name: of the records that it belongs to.
        image: what ``load_image`` returned; nobody may draw on it.
    """
    reset = _decoded.set((file_name, image))
    try:
        yield
    finally:
        _decoded.reset(reset)


@contextmanager
def readable(file_name: str) -> Iterator[None]:
    """Context in which ``file_name`` is decoded; what goes wrong is an OSError that names it.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: the file cannot be decoded; an error of the system keeps its errno, so that a full
            machine can be told from a broken file.
    """
    try:
        yield
    except _DAMAGED as error:
        if getattr(error, "filename", None):
            raise
        # PIL names the object that it read from, whose address is another one every time
        unknown = isinstance(error, UnidentifiedImageError)
        why = "of no known format, or cut off in its head" if unknown else error
        text = f"cannot read '{file_name}' ({why}); replace the file or leave it out"
        number = getattr(error, "errno", None)
        raise (OSError(text) if number is None else OSError(number, text, file_name)) from error


def read_image(record: dict, image_format: str) -> np.ndarray:
    """Read the image of a record as an array; see ``load_image``.

    Args:
        record: as of ``load_image``.
        image_format: "RGB" or "BGR".

    Returns:
        uint8 [H, W, 3].
    """
    pixels = np.asarray(load_image(record))
    return pixels[:, :, ::-1] if image_format == "BGR" else pixels


def load_image(record: dict, data: bytes | None = None) -> Image.Image:
    """Read the image of a record; grey, palette and RGBA files become three channels of 8 bits, and
    of files with 16 bits the upper 8 are kept.

    Args:
        record: with "file_name", optionally "tar_file" and "tar_offset" (in bytes), and "height"
            and "width", which are filled in where they are missing.
        data: what ``read_bytes`` returned, so that the file is not opened again.

    Returns:
        The decoded image, upright, of mode "RGB".

    Raises:
        OSError: the file is missing or damaged.
        ValueError: the image has another size than the record says.
    """
    given = _decoded.get()
    if given is not None and given[0] == record["file_name"]:
        return _checked(record, given[1])
    with readable(record["file_name"]):
        file = _open_image(record) if data is None else io.BytesIO(data)
        with file:
            image = Image.open(file)
            image.load()
    # what is wrong with the EXIF block is not wrong with the pixels: as good as none
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    _checked(record, image)
    with readable(record["file_name"]):
        if image.mode.startswith("I;16"):  # PIL itself would make everything above 255 white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image if image.mode == "RGB" else image.convert("RGB")


def _checked(record: dict, image: Image.Image) -> Image.Image:
    """The image, if its size is what the record says; a record that does not say it is told."""
    # of an array, the check looks at the shape alone
    detection_utils.check_image_size(record, np.empty((image.height, image.width, 0)))
    return image


def read_bytes(record: dict) -> bytes:
    """The encoded image of a record, as it lies in its file or tar.

    Raises:
        OSError: the file is missing or damaged.
    """
    with readable(record["file_name"]), _open_image(record) as file:
        return file.read()


def _open_image(record: dict) -> BinaryIO:
    """The encoded image of a record as a file."""
    if "tar_file" not in record:
        return PathManager.open(record["file_name"], "rb")
    with PathManager.open(record["tar_file"], "rb") as tar:
        tar.seek(record["tar_offset"] - tarfile.BLOCKSIZE)
        header = tar.read(tarfile.BLOCKSIZE)
        # raises where there is no header: the tar is shorter, or another one than was indexed
        size = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape").size
        data = tar.read(size)
    if len(data) < size:
        raise EOFError(f"the tar ends after {len(data)} of its {size} bytes")
    return io.BytesIO(data)


def read_map(file_name: str, height: int, width: int) -> np.ndarray:
    """Read a single-channel map (labels or depth), 8 or 16 bit, palette files as their indices.

    Args:
        file_name: path of the map.
        height: height of the image it belongs to, in pixels.
        width: its width.

    Returns:
        int64 [height, width], the values of the file.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: the file has several channels or another size than its image.
    """
    with readable(file_name), PathManager.open(file_name, "rb") as file:
        values = np.asarray(Image.open(file)).astype(np.int64)
    if values.ndim != 2:
        raise ValueError(
            f"'{file_name}' has {values.shape[-1]} channels, expected a map with one; "
            "convert it to a single-channel PNG"
        )
    if values.shape != (height, width):
        raise ValueError(
            f"'{file_name}' is {values.shape[1]} x {values.shape[0]}, its image {width} x "
            f"{height}; restore the file that belongs to the image"
        )
    return values


def check_image_format(image_format: str) -> str:
    """Return ``image_format`` if it is one that the mappers read."""
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format is '{image_format}'; choose 'RGB' or 'BGR'")
    return image_format
