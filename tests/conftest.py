"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MAKE_MINI = Path(__file__).resolve().parent.parent / "datasets" / "make_mini.py"


def make_mini(root: Path, *options: str) -> subprocess.CompletedProcess:
    """Run ``datasets/make_mini.py`` in a process of its own, as a user does."""
    command = [sys.executable, str(MAKE_MINI), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny miniature world, registered; DETECTRON2_DATASETS names the folder that holds it.

    12 + 4 scenes of 64 x 48 pixels per dataset and 2 + 1 crops of 26 x 26 per class.
    """
    from gppf_d2.data.catalog import mini

    root = tmp_path_factory.mktemp("datasets")
    made = make_mini(root, "--scenes", "12", "--size", "64", "--objects", "2")
    assert made.returncode == 0, made.stderr
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = str(root)
    # Only these: the real sets stay registered where they are.
    mini.register(str(root))
    yield root
    if before is None:
        del os.environ["DETECTRON2_DATASETS"]
    else:
        os.environ["DETECTRON2_DATASETS"] = before
