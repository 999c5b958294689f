"""Miniatures of the official downloads: what one gets from each dataset's site, with few pictures.

Every module of this folder except ``world`` is one dataset and has ``write(root, world)``, which
writes the download's files under ``root`` in their official places and formats, ready for
``datasets/prepare_<module>.py`` (where there is one) and registered by the module of
``gppf_d2.data.catalog`` of the same name; those called ``uodb_<set>`` belong to
``prepare_uodb.py`` and ``catalog.uodb``, and ``classification`` is ten sets. ``world`` is a
``world.World``: pictures with instance masks and class maps. A module may share a folder with
another one (``lvis`` stands on ``coco``), never a file.

``build`` writes all of them into a temporary folder, renames their top folders into place, and
lists what it wrote, with sizes, in ``official_mini.json``: a real dataset under the same root is
never touched, also where it took the place of a miniature.
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
    """The manifest: settings, and name -> the sizes that a file of ours may have."""
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        found = {}
    known = isinstance(found.get("files"), dict)
    return found if known else {"settings": None, "files": {}}


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
        written = sorted(path for path in new.rglob("*") if path.is_file())
        files = {path.relative_to(new).as_posix(): [path.stat().st_size] for path in written}
        _move(root, work, found["files"], files)
        _note(root, work, settings, files)
    finally:
        shutil.rmtree(work)
    say(f"the official miniatures are ready in '{root}'")
    return root


Sizes = dict[str, list[int]]


def _note(root: Path, work: Path, settings: dict | None, files: Sizes) -> None:
    (work / MANIFEST).write_text(json.dumps({"settings": settings, "files": files}) + "\n")
    os.replace(work / MANIFEST, root / MANIFEST)


def _is_ours(root: Path, entry: str, before: Sizes) -> bool:
    """Whether what lies in a top folder is still what was written there, as far as it is there.

    Official names are the same in the real dataset, sizes are not.
    """
    listed = {root / name: sizes for name, sizes in before.items() if name.startswith(f"{entry}/")}
    there = [path for path in listed if path.is_file()]
    return bool(there) and all(path.stat().st_size in listed[path] for path in there)


def _move(root: Path, work: Path, before: Sizes, files: Sizes) -> None:
    """Put the new folders in the places of those of an earlier call (and of what was prepared
    there)."""
    entries = sorted({name.split("/")[0] for name in files})
    old = [entry for entry in entries if (root / entry).exists()]
    for entry in old:
        if not _is_ours(root, entry, before):
            raise ValueError(
                f"'{root / entry}' exists and is no official miniature; give another --root"
            )
    # Without settings the list says what is ours, and that it is not complete.
    both = {
        name: before.get(name, []) + files.get(name, []) for name in sorted({**before, **files})
    }
    _note(root, work, None, both)
    (work / "old").mkdir()
    for entry in old:
        os.replace(root / entry, work / "old" / entry)
    for entry in entries:
        os.replace(work / "new" / entry, root / entry)
