"""Stateless randomness: the same keys give the same number in every process, version and platform.

Whatever has to be drawn alike by several processes, or again after a resume (schedules, orders,
seeds of mappers and gates), is a function of its keys instead of the next number of a generator.
Keys are integers and strings; each is hashed with its type and length, so that no two lists of keys
meet by concatenation.
"""

from __future__ import annotations

import operator
from hashlib import blake2b


def hash64(*keys: int | str) -> int:
    """Hash keys to an integer.

    Args:
        keys: integers of any size and sign (also numpy's), and strings.

    Returns:
        A 64-bit integer in [0, 2**64).

    Raises:
        TypeError: a key is neither an integer nor a string.
    """
    digest = blake2b(digest_size=8)
    for key in keys:
        if isinstance(key, str):
            data = key.encode()
            digest.update(b"s%d:%b" % (len(data), data))
        else:
            data = b"%d" % operator.index(key)
            digest.update(b"i%d:%b" % (len(data), data))
    return int.from_bytes(digest.digest(), "little")


def uniform(*keys: int | str) -> float:
    """Hash keys to a float, uniform in [0, 1) over the keys, with 53 random bits."""
    return (hash64(*keys) >> 11) * 2.0**-53
