"""Read and write JSON files that do not fit into memory, one element at a time.

The files of COCO's family are an object whose large members are arrays ("images", "annotations").
``elements`` reads the elements of such arrays, whatever the order of the members and the white
space; ``Output`` writes such a file. Neither holds more than a few MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

PIECE = 1 << 20
SPACE = " \t\r\n"


class _Text:
    """A window of a text file that can be parsed from its front."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def _more(self, size: int = PIECE) -> None:
        piece = self._file.read(size)
        if not piece:
            raise ValueError(
                f"'{self._path}' ends in the middle or is no JSON (after "
                f"{self._file.buffer.tell():,} bytes); download it again"
            )
        self._text, self._at = self._text[self._at :] + piece, 0

    def next_mark(self) -> str:
        """The next character that is not white space, which stays where it is."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            self._more()

    def take(self, marks: str) -> str:
        """Step over the next character, which must be one of ``marks``."""
        mark = self.next_mark()
        if mark not in marks:
            raise ValueError(
                f"'{self._path}' is no JSON object of arrays: {mark!r} where one of {marks!r} was "
                "expected; download it again"
            )
        self._at += 1
        return mark

    def value(self) -> Any:
        """Parse the value that comes next."""
        self.next_mark()
        size = PIECE
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                # A number may go on in the next piece; everything else has an end of its own.
                if end < len(self._text):
                    self._at = end
                    return value
            except json.JSONDecodeError:
                pass
            self._more(size)
            size *= 2


def elements(path: Path, *names: str) -> Iterator[tuple[str, Any]]:
    """(name of the member, element) for every element of the named arrays, in the file's order.

    Args:
        path: a JSON file that holds an object.
        *names: members of interest, which must be arrays; the others are skipped, and so is what
            comes after the last of them.

    Raises:
        ValueError: the file is cut off or no such JSON.
    """
    _need_end(path)
    with open(path, encoding="utf-8") as file:
        text = _Text(file, path)
        text.take("{")
        left = set(names)
        while left and text.next_mark() != "}":
            name = text.value()
            text.take(":")
            if text.next_mark() == "[":
                text.take("[")
                while text.next_mark() != "]":
                    element = text.value()
                    if name in names:
                        yield name, element
                    if text.next_mark() == ",":
                        text.take(",")
                text.take("]")
                left.discard(name)
            else:
                text.value()
            if text.next_mark() == ",":
                text.take(",")


def _need_end(path: Path) -> None:
    """Look at the end of the file too: a download that stopped has its first members whole."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 4096))
        end = file.read().rstrip()
    if not end.endswith(b"}"):
        raise ValueError(
            f"'{path}' ends in the middle or is no JSON (after {size:,} bytes); download it again"
        )


class Output:
    """Writes an object of arrays; ``element`` goes on with the same array or begins the next."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  (closed by the context)
        self._name = ""

    def __enter__(self) -> Output:
        self._file.write("{")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.write("]}\n" if self._name else "}\n")
        self._file.close()

    def element(self, name: str, value: Any) -> None:
        """Append a value to the array ``name``; arrays cannot be taken up again."""
        if name == self._name:
            self._file.write(",\n")
        else:
            self._file.write((f'],\n"{name}": [\n') if self._name else f'"{name}": [\n')
            self._name = name
        self._file.write(json.dumps(value, separators=(",", ":")))
