"""Detection samples per second on one core, relative to Detectron2's ``DatasetMapper``.

    python -m gppf_d2.tools.bench_mapper [--images 32] [--repeats 5] [--data-root DIR]

Large-scale jitter 0.1 to 2.0 at 1024, flip, bit masks, boxes from the masks; 640 x 480 JPEGs with
seven polygons each, made up here, or with --data-root the photographs of ``DIR/coco128``. In one
run, interleaved with the same draws, medians of paired repeats:

- ``detectron2``: ``DatasetMapper`` with its own three augmentations, on full-size masks;
- ``exact``, ``default``: ``LargeScaleJitterMapper`` with resize="pil" and "cv2";
- ``boxes only``: ``default`` without masks;
- ``+ Copy-Paste``: ``default``, then ``CopyPaste`` on batches of 8; its target is relative to
  ``detectron2`` WITHOUT Copy-Paste;
- ``slow + Copy-Paste``: ``detectron2`` and a plain Copy-Paste on full masks.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, BoxMode, Instances

from gppf_d2.data.batch_transforms import CopyPaste
from gppf_d2.data.mappers import LargeScaleJitterMapper

SIZE, BATCH = 1024, 8
# times faster than Detectron2's DatasetMapper
TARGETS = {"exact": 4.0, "default": 6.0, "default + Copy-Paste": 3.0}


def make_records(
    folder: Path, count: int, *, width: int = 640, height: int = 480, objects: int = 7
) -> list[dict[str, Any]]:
    """Write noisy, smoothly shaded JPEGs with star-shaped objects.

    Args:
        folder: where the files go.
        count: number of images.
        width: of each image, in pixels.
        height: of each image, in pixels.
        objects: polygons per image, of 12 to 59 corners; of 80 classes.

    Returns:
        Detectron2 records, the same ones at every call.
    """
    generator = np.random.default_rng(0)
    records = []
    for number in range(count):
        shades = generator.uniform(0, 220, (height // 16, width // 16, 3))
        image = cv2.resize(shades, (width, height), interpolation=cv2.INTER_CUBIC)
        image = (image + generator.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)
        annotations = []
        for _ in range(objects):
            points = _star(generator, width, height)
            color = generator.integers(0, 256, 3).tolist()
            cv2.fillPoly(image, [points.astype(np.int32)], color)
            annotations.append(
                {
                    "bbox": [*points.min(0).tolist(), *points.max(0).tolist()],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": int(generator.integers(80)),
                    "iscrowd": 0,
                    "segmentation": [points.ravel().tolist()],
                }
            )
        name = folder / f"{number:04d}.jpg"
        cv2.imwrite(str(name), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        records.append(
            {
                "file_name": str(name),
                "height": height,
                "width": width,
                "image_id": number,
                "annotations": annotations,
            }
        )
    return records


def _star(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Corners [N, 2] of a star-shaped polygon inside the image, of 20 pixels to half its width."""
    box = np.exp(generator.uniform(np.log(20), np.log(width / 2), 2))
    box = np.minimum(box, (width, height))
    centre = generator.uniform(box / 2, np.array([width, height]) - box / 2)
    corners = int(generator.integers(12, 60))
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = generator.uniform(0.6, 1, corners)[:, None]
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centre + box / 2 * radius * direction).round(2)


def photographs(data_root: Path) -> list[dict[str, Any]]:
    """The training records of coco128 that have an object: Detectron2's mapper needs one.

    Args:
        data_root: folder that holds ``coco128``.
    """
    folder = data_root / "coco128"
    records = load_coco_json(
        str(folder / "coco_instances/annotations/instances_train2017.json"),
        str(folder / "images/train2017"),
    )
    return [r for r in records if not all(a["iscrowd"] for a in r["annotations"])]


def slow_mapper(size: int = SIZE, seg_pad_value: int = 255) -> DatasetMapper:
    """Detectron2's mapper with the augmentations of its 100-epoch baselines.

    Args:
        size: side of the square that it makes.
        seg_pad_value: what masks given as RLE are filled up with; Detectron2's default makes the
            padding part of the object, 0 does not.
    """
    return DatasetMapper(
        True,
        augmentations=[
            T.ResizeScale(0.1, 2.0, size, size),
            T.FixedSizeCrop((size, size), seg_pad_value=seg_pad_value),
            T.RandomFlip(),
        ],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )


def slow_paste(
    sample: dict[str, Any],
    partner: dict[str, Any],
    chosen: Sequence[int],
    min_visible: float,
    min_area: int,
) -> dict[str, Any]:
    """What ``CopyPaste.paste`` does, on full masks."""
    pasted = partner["instances"][torch.as_tensor(chosen)]
    covered = pasted.gt_masks.tensor.any(0)
    image = torch.where(covered, partner["image"], sample["image"])
    own = sample["instances"]
    visible = own.gt_masks.tensor & ~covered
    before, after = own.gt_masks.tensor.sum((1, 2)), visible.sum((1, 2))
    keep = (after == before) | ((after >= min_area) & (after >= min_visible * before))
    remaining = own[keep]
    remaining.gt_masks = BitMasks(visible[keep])
    instances = Instances.cat([remaining, pasted])
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    return {**sample, "image": image, "instances": instances}


class SlowCopyPaste(CopyPaste):
    """``CopyPaste`` with the same draws, on full masks."""

    def paste(
        self, sample: dict[str, Any], partner: dict[str, Any], chosen: Sequence[int]
    ) -> dict[str, Any]:
        return slow_paste(sample, partner, chosen, self.min_visible, self.min_area)


def variants() -> dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]:
    """Name -> from the records of a batch to its samples."""
    slow = slow_mapper()
    exact = LargeScaleJitterMapper(use_instance_mask=True, resize="pil")
    default = LargeScaleJitterMapper(use_instance_mask=True)
    boxes = LargeScaleJitterMapper()
    paste, slow_copy_paste = CopyPaste(), SlowCopyPaste()
    return {
        "detectron2": lambda batch: [slow(r) for r in batch],
        "exact": lambda batch: [exact(r) for r in batch],
        "default": lambda batch: [default(r) for r in batch],
        "default + Copy-Paste": lambda batch: paste([default(r) for r in batch]),
        "boxes only": lambda batch: [boxes(r) for r in batch],
        "slow + Copy-Paste": lambda batch: slow_copy_paste([slow(r) for r in batch]),
    }


def measure(records: list[dict[str, Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds per image of all variants, one number a repeat, after one round to warm up."""
    batches = [records[i : i + BATCH] for i in range(0, len(records), BATCH)]
    makers = variants()
    times: dict[str, list[float]] = {name: [] for name in makers}
    names = list(makers)
    for repeat in range(repeats + 1):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            np.random.seed(repeat)
            start = time.perf_counter()
            for batch in batches if repeat else batches[:1]:
                makers[name](batch)
            if repeat:
                times[name].append((time.perf_counter() - start) / len(records))
    return times


def report(times: dict[str, list[float]], megabytes: dict[str, float]) -> None:
    """Print the table; a target that is not reached says MISS."""
    print(f"{'variant':22s} {'images/s':>9s} {'x detectron2':>13s} {'MB/image':>9s}   target")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["detectron2"], seconds))
        target = TARGETS.get(name)
        verdict = "" if target is None else f"{target:.0f} {'PASS' if ratio >= target else 'MISS'}"
        print(
            f"{name:22s} {1 / statistics.median(seconds):9.1f} {ratio:13.2f} "
            f"{megabytes[name]:9.2f}   {verdict}"
        )


def mask_target_speed(sample: dict[str, Any], proposals: int = 128) -> float:
    """How many times faster the mask head's targets come from ``WindowMasks`` than from full ones.

    Args:
        sample: of ``LargeScaleJitterMapper`` with masks, not without objects.
        proposals: regions with a mask in an image, a quarter of 512.
    """
    windows = sample["instances"].gt_masks
    rows = torch.arange(proposals) % len(windows)
    boxes = sample["instances"].gt_boxes.tensor[rows]
    seconds = []
    for masks in (BitMasks(windows.tensor), windows):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            masks[rows].crop_and_resize(boxes, 28)
            times.append(time.perf_counter() - start)
        seconds.append(statistics.median(times))
    return seconds[0] / seconds[1]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32, help="at least 2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data-root", help="folder that holds coco128")
    options = parser.parse_args(arguments)
    if options.images < 2 or options.repeats < 1:
        parser.error("at least 2 images and 1 repeat are needed")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.data_root:
            records = photographs(Path(options.data_root))[: options.images]
        else:
            records = make_records(Path(folder), options.images)
        times = measure(records, options.repeats)
        megabytes = {}
        for name, make in variants().items():
            np.random.seed(0)
            samples = make(records[:BATCH])
            megabytes[name] = sum(len(pickle.dumps(s)) for s in samples) / len(samples) / 1e6
            if name == "default":
                most = max(samples, key=lambda sample: len(sample["instances"]))
                target_speed = mask_target_speed(most)
    objects = statistics.mean(len(r["annotations"]) for r in records)
    print(f"{len(records)} images, {objects:.1f} objects each, {SIZE} x {SIZE}, one thread")
    report(times, megabytes)
    print(f"mask targets of 128 proposals: {target_speed:.1f} x BitMasks")


if __name__ == "__main__":
    main()
