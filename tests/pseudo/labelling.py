"""A small world to label: pictures, rules that stand for a teacher, and a labelling of them."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gppf_d2.pseudo import CallableTeacher, Settings, label_images

CALLABLES = str(Path(__file__).with_name("callables.py"))
KINDS = {
    "classes": {"kind": "classes", "classes": list("abcd")},
    "boxes": {"kind": "instances", "classes": ["cat", "dog"]},
    "segments": {"kind": "sem_seg", "classes": ["dark", "bright"]},
    "depth": {"kind": "depth"},
    "relative": {"kind": "inverse_depth"},
}
COUNT, BROKEN = 11, 5


def make_pictures(root: Path) -> Path:
    """Eleven small pictures of three sizes in two folders; number 5 is cut off."""
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        size = [(20, 30), (30, 20), (24, 24)][index % 3]
        folder = root / ("first" if index < 7 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    broken = root / "first" / f"{BROKEN:02d}.png"
    broken.write_bytes(broken.read_bytes()[:300])
    return root


def teacher(**options) -> CallableTeacher:
    return CallableTeacher(f"{CALLABLES}:rules", KINDS, options)


def settings(pictures: Path, output: Path, **changes) -> Settings:
    given = {
        "images": str(pictures), "output": str(output),
        "options": {"boxes": {"threshold": 0.2}}, "shard_size": 4, "batch_size": 2,
        "num_workers": 0, "device": "cpu",
    }  # fmt: skip
    return Settings(**{**given, **changes})


def label(pictures: Path, output: Path, part=(0, 1), bias: float = 0.0, **changes):
    teachers = {"rules": teacher(bias=bias)}
    return label_images(settings(pictures, output, teachers=teachers, **changes), part)


def equal(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = sorted(os.listdir(one))
    return names == sorted(os.listdir(other)) and not any(
        not filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )
