"""Reading and writing the pictures of those sets of UODB whose images have to be converted."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from preparing import whole_file

# Aerial images are larger than what PIL takes for an attack.
Image.MAX_IMAGE_PIXELS = None


def read_pixels(path: Path, mode: str | None = None) -> np.ndarray:
    """The values of an image [H, W] or [H, W, C], converted to ``mode`` ("RGB") if given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise ValueError(f"'{path}' is damaged ({error}); restore the original") from error


def write_picture(target: Path, values: np.ndarray, **settings: int) -> None:
    """Write uint8 [H, W, 3] (RGB) as JPEG or PNG, by the name's ending; settings are PIL's."""
    kind = {".jpg": "JPEG", ".png": "PNG"}[target.suffix]
    with whole_file(target) as path:
        Image.fromarray(values).save(path, kind, **settings)
