"""Build the whole miniature world: which pictures each dataset gets, the manifest, the rename.

A picture is a function of (seed, dataset, split, index) alone, so no order, thread or clock can
change a byte. The world is written into a temporary folder beside its place, its manifest (settings
and sha256 of every file) last, and renamed: what is found under its name is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from . import formats
from .scene import CLASSES
from .shot import Shot, shoot

MANIFEST = "manifest.json"
SPLITS = ("train", "val")
# dataset -> size of its pictures relative to --size, and the (view, style) of its pictures in turn
DATASETS = {
    "imagenet": (
        (0.4, 0.4),
        [("crop", s) for s in ("photo", "poster", "photo", "night", "photo", "drawing")],
    ),
    "coco": ((1.0, 0.75), [("street", s) for s in ("photo", "poster", "photo", "night", "photo")]),
    "ade20k": ((1.0, 0.75), [("street", s) for s in ("photo", "photo", "poster", "photo")]),
    "kitti": ((1.2, 0.6), [("road", s) for s in ("photo", "photo", "night")]),
    "voc": (
        (0.8, 0.8),
        [("street", "drawing"), ("aerial", "photo"), ("street", "drawing"), ("aerial", "drawing")],
    ),
}
# pictures that nobody has labelled: twice as many as a scene dataset has, (view, style) in turn
UNLABELLED = [
    ("street", "photo"), ("crop", "photo"), ("road", "photo"), ("street", "poster"),
    ("street", "photo"), ("crop", "poster"), ("road", "night"), ("street", "night"),
]  # fmt: skip
SIZE_OF_VIEW = {"street": "coco", "crop": "imagenet", "road": "kitti"}
PILE_EVERY, PILE_AT = 8, 2
EMPTY_EVERY, EMPTY_AT = 25, 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the bytes depend on.

    ``size`` is the width in pixels of a COCO picture, the others scale with it; ``scenes`` counts
    the training pictures per scene dataset and ``objects`` those per class of the classification
    set; a quarter of each comes on top for validation, and twice ``scenes`` without labels.
    """

    seed: int = 0
    size: int = 160
    scenes: int = 100
    objects: int = 36

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("size", 48), ("scenes", 8), ("objects", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}, must be at least {least}")

    def count(self, dataset: str, split: str) -> int:
        """Pictures of a split (per class for imagenet)."""
        total, least = (self.objects, 1) if dataset == "imagenet" else (self.scenes, 4)
        return total if split == "train" else max(total // 4, least)


def generator(settings: Settings, *key: str | int) -> np.random.Generator:
    """Random generator of one purpose, independent of every other."""
    entropy = [settings.seed, zlib.crc32(repr(key).encode())]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _size(settings: Settings, dataset: str) -> tuple[int, int]:
    wide, tall = DATASETS[dataset][0]
    return round(wide * settings.size), round(tall * settings.size)


def crops(settings: Settings, split: str) -> Iterator[tuple[str, Shot]]:
    """Pictures of one toy each, with its class name."""
    styles = DATASETS["imagenet"][1]
    for index in range(settings.count("imagenet", split)):
        for number, name in enumerate(CLASSES):
            view, style = styles[(index + number) % len(styles)]
            rng = generator(settings, "imagenet", split, name, index)
            yield name, shoot(rng, view, style, _size(settings, "imagenet"), [name])


def scenes(settings: Settings, dataset: str, split: str) -> Iterator[Shot]:
    """Pictures of two to five toys; COCO's have now and then a heap, and sometimes nothing at
    all."""
    styles = DATASETS[dataset][1]
    for index in range(settings.count(dataset, split)):
        rng = generator(settings, dataset, split, index)
        view, style = styles[index % len(styles)]
        count = int(rng.integers(2, 6))
        shapes = [str(name) for name in rng.permutation(CLASSES)[:count]]
        empty = dataset == "coco" and index % EMPTY_EVERY == EMPTY_AT
        pile = dataset == "coco" and index % PILE_EVERY == PILE_AT
        size = _size(settings, dataset)
        yield shoot(rng, view, style, size, [] if empty else shapes, pile and not empty)


def unlabelled(settings: Settings) -> Iterator[tuple[str, Shot]]:
    """Pictures as the other datasets have them, with the class of those that show one toy."""
    for index in range(2 * settings.scenes):
        rng = generator(settings, "unlabelled", index)
        view, style = UNLABELLED[index % len(UNLABELLED)]
        shapes = [str(name) for name in rng.permutation(CLASSES)[: int(rng.integers(2, 6))]]
        if view == "crop":
            shapes = shapes[:1]
        shot = shoot(rng, view, style, _size(settings, SIZE_OF_VIEW[view]), shapes)
        yield shapes[0] if view == "crop" else "", shot


def write_world(folder: formats.Folder, settings: Settings, say: Callable[[str], None]) -> None:
    """Write all datasets and the manifest into a folder."""
    for split in SPLITS:
        formats.write_imagenet(folder, split, crops(settings, split))
        formats.write_coco(folder, split, scenes(settings, "coco", split))
        formats.write_ade20k(folder, split, scenes(settings, "ade20k", split))
        lost = generator(settings, "kitti", split, "lost")
        formats.write_kitti(folder, split, scenes(settings, "kitti", split), lost)
        formats.write_voc(folder, split, scenes(settings, "voc", split))
        say(f"{split}: {len(folder.digests)} files so far")
    formats.write_unlabelled(folder, unlabelled(settings))
    manifest = {"settings": describe(settings), "files": dict(sorted(folder.digests.items()))}
    (folder.path / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def describe(settings: Settings) -> dict:
    """Settings and a digest of this code, so that a world of another version is made anew."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return {**dataclasses.asdict(settings), "code": code.hexdigest()[:16]}


def complete(target: Path, settings: Settings) -> bool:
    """True where ``target`` holds the world of these settings, every file in its place."""
    try:
        manifest = json.loads((target / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    same = manifest["settings"] == describe(settings)
    return same and all((target / name).is_file() for name in manifest["files"])


def build(root: Path, settings: Settings, say: Callable[[str], None] = print) -> Path:
    """Make ``<root>/mini`` unless it is there already.

    Args:
        root: folder of the datasets; made if missing.
        settings: see Settings.
        say: receives a line now and then.

    Returns:
        Path of the world.

    Raises:
        ValueError: ``<root>/mini`` exists and was not written by this program.
    """
    target = root / "mini"
    if complete(target, settings):
        say(f"'{target}' is complete: left alone")
        return target
    if target.exists() and not (target / MANIFEST).is_file():
        raise ValueError(
            f"'{target}' exists and is no miniature world; move it away or give another --root"
        )
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".mini-", dir=root))
    try:
        # mkdtemp makes private folders: the world gets the mode that mkdir gives.
        (work / "new").mkdir()
        write_world(formats.Folder(work / "new"), settings, say)
        if target.exists():
            os.replace(target, work / "old")
        try:
            os.replace(work / "new", target)
        except OSError:
            if not complete(target, settings):
                raise
    finally:
        shutil.rmtree(work)
    say(f"'{target}' is ready")
    return target
