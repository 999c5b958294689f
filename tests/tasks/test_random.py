"""Stateless randomness: the same numbers everywhere, and no two keys that meet by accident."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gppf_d2.tasks.random import hash64, uniform


def test_hash_is_the_same_in_every_version_and_process() -> None:
    assert hash64("stream", 7, "coco", 3) == 13695504728666476087
    assert uniform("gate", -1) == 0.5974377762279311
    code = "from gppf_d2.tasks.random import hash64; print(hash64('stream', 7, 'coco', 3))"
    other = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert int(other.stdout) == hash64("stream", 7, "coco", 3)


def test_keys_do_not_meet() -> None:
    keys = [(), ("",), ("", ""), ("a", "b"), ("ab",), (1,), ("1",), (-1,), (1, 2), (12,), (2, 1)]
    keys += [("i1:1",), (2**64,), (0,), (2**64 + 1,), (10**30,)]
    assert len({hash64(*key) for key in keys}) == len(keys)


def test_numpy_integers_count_as_integers_and_floats_are_refused() -> None:
    assert hash64(np.int64(-5), "x") == hash64(-5, "x")
    with pytest.raises(TypeError):
        hash64(1.5)  # type: ignore[arg-type]


def test_uniform_is_uniform() -> None:
    values = np.array([uniform("u", i) for i in range(20000)])
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
