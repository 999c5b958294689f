"""A permutation of any number of elements that is computed per index instead of being stored.

Orders of samples come from it: shuffling a list of 11 million indices takes seconds and almost a
gigabyte in every process and epoch, this takes eight 64-bit keys and a few microseconds per index.
"""

from __future__ import annotations

import math

from gppf_d2.tasks.random import hash64

_MASK = (1 << 64) - 1
_ROUND_PAIRS = 4


class KeyedPermutation:
    """A pseudo-random bijection of [0, size), computed per index in O(1) memory.

    A Feistel network over a grid of about sqrt(size) x sqrt(size) cells: row and column take turns
    in being shifted by a hash of the other, which can be undone whatever the hash. The grid has
    fewer than sqrt(size) cells too many; an index that lands on one of those walks on until it is
    inside.

    Args:
        size: number of elements, >= 1.
        key: selects the permutation.
    """

    def __init__(self, size: int, key: int) -> None:
        assert size >= 1, f"a permutation needs at least one element, got {size}"
        self.size = size
        self._columns = math.isqrt(size - 1) + 1
        self._rows = -(-size // self._columns)
        keys = [hash64("round", key, number) for number in range(2 * _ROUND_PAIRS)]
        self._keys = tuple(zip(keys[::2], keys[1::2]))

    def __call__(self, index: int) -> int:
        """The element at ``index``.

        Raises:
            IndexError: the index is outside [0, size).
        """
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside a permutation of {self.size}")
        columns, rows = self._columns, self._rows
        while True:
            row, column = divmod(index, columns)
            for row_key, column_key in self._keys:
                # Two multiply-and-fold steps mix 64 bits; written out, as calls cost double.
                bits = (row ^ row_key) * 0xBF58476D1CE4E5B9 & _MASK
                bits = (bits ^ bits >> 29) * 0x94D049BB133111EB & _MASK
                column = (column + (bits >> 16)) % columns
                bits = (column ^ column_key) * 0xBF58476D1CE4E5B9 & _MASK
                bits = (bits ^ bits >> 29) * 0x94D049BB133111EB & _MASK
                row = (row + (bits >> 16)) % rows
            index = row * columns + column
            if index < self.size:
                return index
