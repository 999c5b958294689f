"""Objects365 v2 as gppf_d2 reads it: paths as on the disk, boxes inside their images.

    python datasets/prepare_objects365.py [--root datasets] [--partial]

reads ``objects365_v2/annotations/zhiyuan_objv2_{train,val}.json`` and looks for the images below
``objects365_v2/{train,val}``, in whatever folders the patches were unpacked to (the official names
begin with ``images/v1`` or ``images/v2``, which the training patches do not have). It writes
``objects365_v2/annotations/objects365_v2_{train,val}.json`` and keeps the original: boxes are
clipped to their image, those that are left without area are dropped, images that are missing are
left out; the last line says how many. Three images are in no patch; another one that is missing is
an error without ``--partial``. Memory: about 1 kB per image.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from downloads import allow_partial, folders_below, images_below, judge_missing
from json_stream import Output, elements
from preparing import command, need, options, up_to_date, whole_file
from tqdm import tqdm

SOURCE = (
    "download the annotations and patches of Objects365 v2 (https://www.objects365.org) and unpack "
    "them there, see datasets/README.md"
)
IN_NO_PATCH = {
    "objects365_v1_00320532.jpg",
    "objects365_v1_00320534.jpg",
    "objects365_v2_00908726.jpg",
}
LEAST_SIDE = 0.01  # pixels; what is smaller after clipping has no area
CATEGORIES = 365
Sizes = dict[int, tuple[int, int]]


def prepare(chosen: argparse.Namespace) -> None:
    """Rewrite the annotations of both splits."""
    folder = need(chosen.root / "objects365_v2", SOURCE)
    for split in ("train", "val"):
        source = need(folder / "annotations" / f"zhiyuan_objv2_{split}.json", SOURCE)
        target = folder / "annotations" / f"objects365_v2_{split}.json"
        images = need(folder / split, SOURCE)
        # A folder's time changes with its entries: patches that came later are noticed.
        if up_to_date(target, source, *folders_below(images)):
            print(f"'{target}' is up to date: left alone")
            continue
        with whole_file(target) as path:
            counts = rewrite(source, images, path, chosen.partial)
        facts = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        print(f"'{target}': {facts}")


def rewrite(source: Path, images: Path, target: Path, partial: bool) -> Counter:
    """Write ``target`` from the official ``source``; what was found, dropped and changed."""
    counts: Counter = Counter()
    with Output(target) as output:
        categories = {entry["id"]: entry for _, entry in elements(source, "categories")}
        if sorted(categories) != list(range(1, CATEGORIES + 1)):
            raise ValueError(
                f"'{source}' has {len(categories)} categories, expected the ids 1 to {CATEGORIES}; "
                "restore the official file of Objects365 v2"
            )
        for key in sorted(categories):
            output.element("categories", {"id": key, "name": categories[key]["name"].strip()})
        sizes = _images(source, images, output, partial)
        counts["images"] = len(sizes)
        entries = (entry for _, entry in elements(source, "annotations"))
        for entry in tqdm(entries, desc=source.name, unit=" boxes", mininterval=1):
            fate = _annotation(entry, sizes, categories, output)
            counts[fate] += 1
    return counts


def _images(source: Path, folder: Path, output: Output, partial: bool) -> Sizes:
    places = {name.rsplit("/", 1)[-1]: name for name in images_below(folder)}
    sizes: Sizes = {}
    missing = []
    for _, entry in elements(source, "images"):
        base = entry["file_name"].rsplit("/", 1)[-1]
        if base not in places:
            missing.append(entry["file_name"])
            continue
        sizes[entry["id"]] = (entry["width"], entry["height"])
        kept = {key: entry[key] for key in ("id", "width", "height")}
        output.element("images", {**kept, "file_name": places[base]})
    unexpected = [name for name in missing if name.rsplit("/", 1)[-1] not in IN_NO_PATCH]
    judge_missing(unexpected, len(sizes) + len(missing), folder, partial)
    if not sizes:
        raise ValueError(f"'{source}' lists no image; restore the official file")
    return sizes


def _annotation(entry: dict, sizes: Sizes, categories: dict, output: Output) -> str:
    size = sizes.get(entry["image_id"])
    if size is None:
        return "boxes dropped, their image is missing"
    if entry["category_id"] not in categories:
        raise ValueError(
            f"annotation {entry['id']} has category {entry['category_id']}, expected 1 to "
            f"{CATEGORIES}; restore the official file"
        )
    x, y, width, height = entry["bbox"]
    left, top = max(x, 0.0), max(y, 0.0)
    right, low = min(x + width, size[0]), min(y + height, size[1])
    if right - left < LEAST_SIDE or low - top < LEAST_SIDE:
        return "boxes dropped, without area"
    # What is inside stays as it is, to the last digit.
    inside = x >= 0 and y >= 0 and x + width <= size[0] and y + height <= size[1]
    box = entry["bbox"] if inside else [left, top, right - left, low - top]
    kept = {key: entry[key] for key in ("id", "image_id", "category_id", "iscrowd")}
    output.element("annotations", {**kept, "bbox": box, "area": box[2] * box[3]})
    return "boxes as they were" if inside else "boxes clipped"


if __name__ == "__main__":
    sys.exit(command(prepare, allow_partial(options(__doc__))))
