"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gppf_d2.data import catalog

MAKE_MINI = Path(__file__).resolve().parent.parent / "datasets" / "make_mini.py"
# Sets without a miniature: they stay registered where they are.
ELSEWHERE = {
    "bccd", "camvid", "cifar10_images", "coco128", "diligent_ball", "facemask", "nuclei", "pools",
    "seven_scenes",
}  # fmt: skip

# One process for all scripts: what they import is imported once.
PREPARE = """
import os, runpy, sys
root, *scripts = sys.argv[1:]
sys.path.insert(0, os.path.dirname(scripts[0]))
for script in scripts:
    sys.argv = [script, "--root", root]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{script} ended with {end.code!r}")
"""


def make_mini(root: Path, *options: str) -> subprocess.CompletedProcess:
    """Run ``datasets/make_mini.py`` in a process of its own, as a user does."""
    command = [sys.executable, str(MAKE_MINI), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="session", autouse=True)
def indexes_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes of annotations are not written beside the real data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPPF_D2_INDEX_DIR", str(tmp_path_factory.mktemp("indexes")))
        yield


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


def prepare_official(root: Path, *names: str) -> subprocess.CompletedProcess:
    """Run ``datasets/prepare_<name>.py --root root`` for the names, or for all there are."""
    scripts = [MAKE_MINI.parent / f"prepare_{name}.py" for name in names]
    scripts = scripts or sorted(MAKE_MINI.parent.glob("prepare_*.py"))
    command = [sys.executable, "-c", PREPARE, str(root), *map(str, scripts)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="session")
def official_root(mini_root: Path) -> Path:
    """The miniatures of all official downloads, prepared and registered, beside the miniature
    world: 16 + 6 pictures per dataset, with sides of 64 to 160 pixels."""
    made = make_mini(mini_root, "--official")
    assert made.returncode == 0, made.stderr
    prepared = prepare_official(mini_root)
    assert prepared.returncode == 0, prepared.stderr
    for module in sorted(found.name for found in pkgutil.iter_modules(catalog.__path__)):
        if module not in ELSEWHERE:
            importlib.import_module(f"gppf_d2.data.catalog.{module}").register(str(mini_root))
    return mini_root
