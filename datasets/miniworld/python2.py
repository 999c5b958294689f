"""Pickles as Python 2 wrote them, for miniatures of datasets that are as old as that.

Python 3 writes others also with protocol 2: texts are unicode there and numpy's modules have other
names, so that a reader that only knows its own pickles would pass.
"""

from __future__ import annotations

import struct

import numpy as np


def python2_pickle(value: object) -> bytes:
    """What Python 2 writes, with protocol 2, for a dict of lists, texts, numbers and arrays."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: object) -> bytes:
    match value:
        case None:
            return b"N"
        case int():
            return b"J" + struct.pack("<i", value)
        case str():
            return _opcodes(value.encode("latin1"))
        case bytes() if len(value) < 256:
            return b"U" + bytes([len(value)]) + value
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_opcodes, value)) + b"t"
        case dict():
            return (
                b"}(" + b"".join(_opcodes(part) for pair in value.items() for part in pair) + b"u"
            )
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8, type(value)
    dtype = b"cnumpy\ndtype\n" + _opcodes(("u1", 0, 1)) + b"R"
    dtype += _opcodes((3, "|", None, None, None, -1, -1, 0)) + b"b"
    empty = b"(cnumpy\nndarray\n" + _opcodes((0,)) + _opcodes("b") + b"t"
    state = _opcodes(1) + _opcodes(value.shape) + dtype + b"\x89" + _opcodes(value.tobytes())
    return b"cnumpy.core.multiarray\n_reconstruct\n" + empty + b"R(" + state + b"tb"
