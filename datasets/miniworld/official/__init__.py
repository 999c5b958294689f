"""Miniatures of the official downloads: what one gets from each dataset's site, with few pictures.

Every module of this folder except ``world`` is one dataset and has ``write(root, world)``, which
writes the download's files under ``root`` in their official places and formats, ready for
``datasets/prepare_<module>.py`` (where there is one) and registered by the module of
``gppf_d2.data.catalog`` of the same name. ``world`` is a ``world.World``: pictures with instance
masks and class maps. A module may share a folder with another one (``lvis`` stands on ``coco``),
never a file.

``build`` writes all of them into a temporary folder, renames their top folders into place, and
lists what it wrote in ``official_mini.json``: a real dataset under the same root is never touched.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .world import World

MANIFEST = "official_mini.json"


def modules() -> list[str]:
    """Names of the datasets, sorted."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "world")


def describe(seed: int) -> dict:
    """What the bytes depend on: the seed and the code that draws and writes."""
    code = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.parent.rglob("*.py"), *folder.rglob("*.txt")]):
        code.update(path.read_bytes())
    return {"seed": seed, "code": code.hexdigest()[:16]}


def _read(root: Path) -> dict:
    try:
        return json.loads((root / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {"settings": None, "files": []}


def build(root: Path, seed: int = 0, say: Callable[[str], None] = print) -> Path:
    """Write the miniatures of all official downloads under ``root``, unless they are there.

    Args:
        root: folder of the datasets; made if missing.
        seed: another seed is another world.
        say: receives a line per dataset.

    Returns:
        ``root``.

    Raises:
        ValueError: a folder of one of the datasets exists and was not written by this program.
    """
    found = _read(root)
    settings = describe(seed)
    if found["settings"] == settings and all((root / name).is_file() for name in found["files"]):
        say(f"the official miniatures in '{root}' are complete: left alone")
        return root
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".official-", dir=root))
    try:
        new = work / "new"
        new.mkdir()
        world = World(seed)
        for name in modules():
            importlib.import_module(f"{__name__}.{name}").write(new, world)
            say(f"{name}: written")
        files = sorted(p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file())
        _move(root, work, set(found["files"]), files)
        _note(root, work, settings, files)
    finally:
        shutil.rmtree(work)
    say(f"the official miniatures are ready in '{root}'")
    return root


def _note(root: Path, work: Path, settings: dict | None, files: list[str]) -> None:
    (work / MANIFEST).write_text(json.dumps({"settings": settings, "files": files}) + "\n")
    os.replace(work / MANIFEST, root / MANIFEST)


def _move(root: Path, work: Path, before: set[str], files: list[str]) -> None:
    """Put the new folders in the places of those of an earlier call (and of what was prepared
    there)."""
    ours = {name.split("/")[0] for name in before}
    entries = sorted({name.split("/")[0] for name in files})
    for entry in entries:
        if (root / entry).exists() and entry not in ours:
            raise ValueError(
                f"'{root / entry}' exists and is no official miniature; give another --root"
            )
    # Without settings the list says what is ours, and that it is not complete.
    _note(root, work, None, sorted(before | set(files)))
    (work / "old").mkdir()
    for entry in sorted(ours):
        if (root / entry).exists():
            os.replace(root / entry, work / "old" / entry)
    for entry in entries:
        os.replace(work / "new" / entry, root / entry)
