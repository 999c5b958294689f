"""Measure the index of annotations against Detectron2's way, on a synthetic Objects365.

    python -m gppf_d2.tools.bench_index [--scale 1.0] [--folder DIR]

Writes a COCO-style JSON of a tenth of Objects365 (170,000 images, 2.5 million boxes, 365 classes)
and compares, in fresh processes of the same run, ``load_coco_json`` and ``DatasetFromList`` with
building, opening and reading the index; then the size of ImageNet-21K's 11 million records. Every
target is printed with PASS or MISS; times are ratios, because machines differ.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.common import DatasetFromList
from detectron2.data.datasets import load_coco_json, register_coco_instances

IMAGES, BOXES, CLASSES = 170_000, 2_500_000, 365
IMAGENET_IMAGES, IMAGENET_CLASSES = 11_000_000, 21_841
READS, ROUNDS = 10_000, 5
NAME = "bench_index_objects365"


def write_json(path: Path, scale: float) -> None:
    """Write the synthetic set; objects are not in the order of their images, as in the original."""
    images, boxes = max(int(IMAGES * scale), 1), int(BOXES * scale)
    generator = np.random.default_rng(0)
    ids = np.sort(generator.choice(3_000_000, images, replace=False))
    owners = ids[generator.integers(0, images, boxes)]
    corners = np.round(generator.random((boxes, 4)) * [400, 300, 200, 200], 10)
    labels = generator.integers(1, CLASSES + 1, boxes)
    crowds = generator.random(boxes) < 0.02
    with open(path, "w") as file:
        names = [{"id": i + 1, "name": f"class_{i}"} for i in range(CLASSES)]
        file.write(f'{{"categories": {json.dumps(names)}, "images": [')
        for place, one in enumerate(ids.tolist()):
            file.write(
                f'{", " if place else ""}{{"height": 512, "id": {one}, "license": 5, "width": '
                f'{600 + one % 400}, "file_name": "images/v1/patch{one % 50}/{one:08d}.jpg", '
                '"url": ""}'
            )
        file.write('], "annotations": [')
        rows = zip(owners.tolist(), corners.tolist(), labels.tolist(), crowds.tolist())
        for place, (owner, box, label, crowd) in enumerate(rows):
            file.write(
                f'{", " if place else ""}{{"id": {place + 1}, "iscrowd": {int(crowd)}, "isfake": 0,'
                f' "area": {box[2] * box[3]:.6f}, "isreflected": 0, "bbox": {box}, "image_id": '
                f'{owner}, "category_id": {label}}}'
            )
        file.write("]}")


def in_new_process(function: Callable[..., dict], *arguments: Any) -> dict[str, float]:
    """Call a function of this module in a fresh process and return what it returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_mb() -> float:
    """The most memory that this process ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def private_mb() -> float:
    """Memory that no other process shares with this one."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def build(json_file: str) -> dict[str, float]:
    """Build the index: seconds, MB of peak memory, MB on disk."""
    records_of, before, start = opener(json_file), peak_mb(), time.perf_counter()
    records_of()
    seconds = time.perf_counter() - start
    files = Path(f"{json_file}.index").iterdir()
    size = sum(file.stat().st_size for file in files) / 1e6
    return {"seconds": seconds, "peak": peak_mb() - before, "disk": size}


def opener(json_file: str) -> Callable[[], Sequence]:
    """What opens the index, with everything imported that a rank of a run has imported anyway."""
    from gppf_d2.data.index import open_records

    if NAME not in DatasetCatalog:
        register_coco_instances(NAME, {}, json_file, "images")
    return lambda: open_records(NAME)


def compare(json_file: str) -> dict[str, float]:
    """Detectron2's way, then ours in the same process, reading in turns."""
    records_of, before, start = opener(json_file), peak_mb(), time.perf_counter()
    loaded = load_coco_json(json_file, "images", NAME)
    load_seconds, load_peak = time.perf_counter() - start, peak_mb() - before
    theirs = DatasetFromList(loaded, copy=False)
    openings = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        ours = records_of()
        openings.append(time.perf_counter() - start)
    picks = random.Random(0).sample(range(len(loaded)), min(2000, len(loaded)))
    wrong = sum(ours[index] != loaded[index] for index in picks) + (len(ours) != len(loaded))
    del loaded
    rates = []
    for turn in range(ROUNDS):
        order = random.Random(turn).choices(range(len(ours)), k=READS)
        rates.append(_seconds(theirs, order) / _seconds(ours, order))
    return {
        "wrong": wrong,
        "load": load_seconds,
        "load_peak": load_peak,
        "open": statistics.median(openings),
        "rate": statistics.median(rates),
    }


def _seconds(records: Sequence, order: Sequence[int]) -> float:
    start = time.perf_counter()
    for index in order:
        records[index]
    return time.perf_counter() - start


def extra_rank(json_file: str) -> dict[str, float]:
    """Private MB that opening adds, the modules of the index included."""
    before = private_mb()
    HELD.append(opener(json_file)())
    return {"private": private_mb() - before}


HELD: list = []


def imagenet(folder: str, images: int) -> dict[str, float]:
    """Index synthetic names: MB on disk, bytes per record, records per second."""
    from gppf_d2.data.index import open_source
    from gppf_d2.data.index.image_folder import Coded, ImageFolderSource, code_names

    class Synthetic(ImageFolderSource):
        """ImageNet-21K's names without its files."""

        def entries(self) -> dict[str, str]:
            return {name: name for name in self.classes}

        def files(self) -> list[str]:
            return []

        def coded(self, paths: Sequence[str]) -> Iterator[Coded]:
            generator = np.random.default_rng(0)
            each = np.full(len(paths), images // len(paths))
            each[: images % len(paths)] += 1
            for path, count in zip(paths, each):
                name = os.path.basename(path)
                numbers = np.cumsum(generator.integers(1, 300, count))
                yield code_names([f"{name}_{number}.JPEG" for number in numbers.tolist()])

    numbers = np.random.default_rng(0).choice(15_000_000, IMAGENET_CLASSES, replace=False)
    classes = tuple(f"n{number:08d}" for number in np.sort(numbers).tolist())
    place = os.path.join(folder, "imagenet21k")
    records = open_source(Synthetic(place, classes, "imagenet_21k_train"))
    order = random.Random(0).choices(range(len(records)), k=READS)
    speed = READS / _seconds(records, order)
    sizes = [file.stat().st_size for file in Path(f"{place}.index").iterdir()]
    return {"disk": sum(sizes) / 1e6, "records": len(records), "speed": speed}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the synthetic set")
    parser.add_argument("--folder", default="", help="for the files, by default a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder or None) as folder:
        os.environ.pop("GPPF_D2_INDEX_DIR", None)
        measure(Path(folder), options.scale)


def measure(folder: Path, scale: float) -> None:
    """Write the files, measure and print."""
    json_file = str(folder / "objects365.json")
    write_json(Path(json_file), scale)
    size = os.path.getsize(json_file) / 1e6
    built = in_new_process(build, json_file)
    found = in_new_process(compare, json_file)
    with multiprocessing.get_context("spawn").Pool(1) as first:
        first.apply(extra_rank, (json_file,))  # has the index open meanwhile
        rank = in_new_process(extra_rank, json_file)
    names = in_new_process(imagenet, os.path.dirname(json_file), int(IMAGENET_IMAGES * scale))
    print(
        f"{int(IMAGES * scale)} images, {int(BOXES * scale)} boxes, JSON {size:.0f} MB, index "
        f"{built['disk']:.0f} MB\nload_coco_json {found['load']:.1f} s, building "
        f"{built['seconds']:.1f} s, opening {1e3 * found['open']:.2f} ms"
    )
    assert not found["wrong"], f"{found['wrong']} of 2000 records differ from load_coco_json's"
    target("opened, times faster than load_coco_json", found["load"] / found["open"], at_least=1e3)
    target("private MB of an extra rank at opening", rank["private"], at_most=5)
    target("records/s in random order, ratio", found["rate"], at_least=1.5)
    target("peak memory of the build, ratio", built["peak"] / found["load_peak"], at_most=0.2)
    print(f"ImageNet-21K: {names['records']} records, {names['speed']:.0f} records/s")
    target("MB on disk", names["disk"], at_most=100)


def target(
    what: str, value: float, at_least: float | None = None, at_most: float | None = None
) -> None:
    """Print a figure with its target and the verdict."""
    good = value >= at_least if at_least is not None else value <= at_most
    bound = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}"
    print(f"{what:45}{value:12.2f}   target {bound:9} {'PASS' if good else 'MISS'}", flush=True)


if __name__ == "__main__":
    main()
