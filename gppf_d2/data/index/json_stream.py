"""Read a large JSON object front to back: the elements of its arrays come in pieces.

The file is cut where an object of an array ends, and a cut is right if and only if "[" + piece +
"]" is valid JSON: a comma between braces inside a string or inside a nested list makes the piece
invalid, and a shorter one is tried. So the result is exactly that of parsing the whole, at the
memory of one piece. orjson parses the pieces where it is installed, and the standard library where
it is not or where orjson is stricter (NaN, lone surrogates).
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None

PIECE = 4 << 20  # bytes
SMALLEST_PIECE = 1 << 14
LARGEST_VALUE = 256 << 20
_SEAM = re.compile(rb"\}\s*,\s*(?=\{)")
_SPACE = re.compile(rb"\s*")
_DECODER = json.JSONDecoder()


def loads(data: bytes) -> Any:
    """Parse JSON: what ``json.loads`` gives, faster.

    Raises:
        ValueError: it is not valid.
    """
    if orjson is not None:
        try:
            return orjson.loads(data)
        except ValueError:
            pass  # the standard library takes more
    return json.loads(data)


class JsonStream:
    """The arrays of a JSON file whose top level is an object, in the order of the file.

    Args:
        path: of the file.

    Raises:
        ValueError: the file is empty.
        FileNotFoundError: there is none.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:
                raise ValueError(f"'{path}' is empty; put the complete file there") from error
        self._size = PIECE

    def pieces(self, *keys: str) -> Iterator[tuple[str, list, float]]:
        """The elements of some of the top-level arrays.

        Args:
            keys: of the arrays; all else is skipped.

        Yields:
            Key, some consecutive elements, fraction of the file that is read. An empty array comes
            as one empty piece.

        Raises:
            ValueError: the file is not such a JSON, with the place of the error.
        """
        position = self._expect(b"{", 0)
        if self._byte(position) == b"}":
            return
        while True:
            key, position = self._value(position)
            position = self._expect(b":", position)
            if self._byte(position) == b"[":
                for piece, position in self._array(position):  # noqa: B020
                    if key in keys:
                        yield key, piece, position / len(self._data)
            else:
                _, position = self._value(position)
            position = self._space(position)
            if self._byte(position) == b"}":
                return
            position = self._space(self._expect(b",", position))

    def _array(self, position: int) -> Iterator[tuple[list, int]]:
        """Pieces of the array that begins here, each with the position behind it."""
        position = self._expect(b"[", position)
        if self._byte(position) == b"]":
            yield [], position + 1
            return
        while True:
            piece, position, more = self._piece(position)
            # page cache keeps what was read, this process does not
            page = position // mmap.PAGESIZE * mmap.PAGESIZE
            self._data.madvise(mmap.MADV_DONTNEED, 0, page)
            yield piece, position
            if not more:
                return

    def _piece(self, position: int) -> tuple[list, int, bool]:
        """Elements from here on, the position behind them and whether the array goes on."""
        while self._size >= SMALLEST_PIECE:
            seam = self._last_seam(position, min(position + self._size, len(self._data)))
            if seam is None:
                break
            cut, behind = seam
            try:
                piece = loads(b"[" + self._data[position:cut] + b"]")
            except ValueError:
                self._size = (cut - position) // 2
                continue
            self._size = min(self._size * 2, PIECE)
            return piece, behind, True
        self._size = max(self._size, SMALLEST_PIECE)
        value, behind = self._value(position)
        behind = self._space(behind)
        if self._byte(behind) == b"]":
            return [value], behind + 1, False
        return [value], self._space(self._expect(b",", behind)), True

    def _last_seam(self, start: int, end: int) -> tuple[int, int] | None:
        """Where an object ends and the next begins, as late as possible in a window."""
        while (brace := self._data.rfind(b"}", start, end)) >= 0:
            if found := _SEAM.match(self._data, brace):
                return brace + 1, found.end()
            end = brace
        return None

    def _value(self, position: int) -> tuple[Any, int]:
        """The one value that begins here and the position behind it."""
        size = 1 << 12
        while True:
            window = self._data[position : position + size]
            text = window.decode("utf-8", "surrogateescape")
            whole = position + size >= len(self._data)
            try:
                value, end = _DECODER.raw_decode(text)
                if end < len(text) or whole:  # a number might go on behind the window
                    return value, position + len(text[:end].encode("utf-8", "surrogateescape"))
            except ValueError as error:
                if whole or size > LARGEST_VALUE:
                    raise self._broken(position) from error
            size *= 4

    def _space(self, position: int) -> int:
        return _SPACE.match(self._data, position).end()  # type: ignore[union-attr]

    def _byte(self, position: int) -> bytes:
        return self._data[position : position + 1]

    def _expect(self, byte: bytes, position: int) -> int:
        position = self._space(position)
        if self._byte(position) != byte:
            raise self._broken(position)
        return self._space(position + 1)

    def _broken(self, position: int) -> ValueError:
        where = (
            "it ends too early"
            if position >= len(self._data)
            else (f"the error is in the value that begins at byte {position}")
        )
        return ValueError(
            f"'{self.path}' is not a valid JSON object: {where} of {len(self._data)}; "
            "put the complete file there"
        )
