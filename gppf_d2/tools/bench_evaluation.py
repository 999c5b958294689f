"""Time of counting average precision, against pycocotools, lvis-api and Detectron2, and of masks.

Random predictions, seeded: for COCO's protocol 1,000 images, 80 classes and 30 detections an image;
for LVIS's 300 images, 1,203 classes and 300 detections. Both sides get the ground truth and the
stored predictions and give all numbers; they count the same, which is checked. The references have
one thread, hotcoco takes all cores. Masks are those of 100 instances an image, already pasted: ours
in their windows against one encoding of the whole image per instance, as Detectron2's evaluator
does. Ratios are medians over the repetitions; with fewer images they are smaller.

    python -m gppf_d2.tools.bench_evaluation [--images 1000] [--repeats 1]
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval
from detectron2.layers.mask_ops import paste_masks_in_image

from gppf_d2.evaluation.counting import (
    count_with_hotcoco,
    count_with_lvis,
    count_with_pycocotools,
    mean_precision,
)
from gppf_d2.evaluation.instance_truth import InstanceTruth
from gppf_d2.evaluation.masks import encode_masks
from gppf_d2.evaluation.prediction_store import ROW, Predictions
from gppf_d2.evaluation.voc import voc_precisions

HEIGHT, WIDTH = 480, 640
TARGETS = {"COCO": 25, "LVIS": 25, "VOC": 25, "masks": 2.5}  # times faster
AGREEMENT = {"COCO": 1e-12, "LVIS": 5e-6, "VOC": 1e-12}  # of AP in [0, 1]


def world(
    images: int, classes: int, objects: int, detections: int
) -> tuple[InstanceTruth, Predictions, np.ndarray]:
    """Random ground truth and predictions, half of them near an object."""
    generator = np.random.default_rng(0)
    categories = [
        {"id": n + 1, "name": f"class {n}", "frequency": "rcf"[n % 3]} for n in range(classes)
    ]
    frequency = generator.dirichlet(np.full(classes, 0.5))
    truth = InstanceTruth([], [], categories, {})
    rows = np.zeros(images * detections, dtype=ROW)
    rles: list[bytes] = []
    for number in range(1, images + 1):
        count = generator.poisson(objects) + 1
        boxes, labels = _boxes(count, generator), generator.choice(classes, count, p=frequency)
        present = set((labels + 1).tolist())
        absent = set(generator.integers(1, classes + 1, 20).tolist()) - present
        truth.images.append(
            {
                "id": number,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": sorted(absent),
                "not_exhaustive_category_ids": sorted(present)[:1],
            }
        )
        for box, label in zip(boxes, labels):
            rle, area = _blob(box, generator)
            truth.annotations.append(
                {
                    "id": len(truth.annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": box.tolist(),
                    "area": float(area),
                    "iscrowd": 0,
                    "segmentation": {"size": [HEIGHT, WIDTH], "counts": rle.decode()},
                }
            )
        found, found_labels = _detections(boxes, labels, classes, detections, generator)
        part = rows[(number - 1) * detections : number * detections]
        part["box"], part["category"] = found, found_labels
        part["score"] = generator.random(detections)
        blobs = [_blob(box, generator) for box in found]
        rles += [rle for rle, _ in blobs]
        part["mask_area"] = [area for _, area in blobs]
    truth.numbers.update({number: number for number in range(1, images + 1)})
    image = np.repeat(np.arange(1, images + 1), detections)
    sizes = np.tile([HEIGHT, WIDTH], (images, 1))
    masks = np.array(rles, dtype=object)
    return (
        truth,
        Predictions(list(truth.numbers), sizes, image, rows, masks),
        np.arange(1, classes + 1),
    )


def _boxes(count: int, generator: np.random.Generator) -> np.ndarray:
    """x, y, width, height [count, 4] of 8 to 300 pixels."""
    sides = np.exp(generator.uniform(np.log(8), np.log(300), (count, 2)))
    return np.concatenate([generator.random((count, 2)) * ((WIDTH, HEIGHT) - sides), sides], axis=1)


def _detections(
    boxes: np.ndarray, labels: np.ndarray, classes: int, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    chosen = generator.integers(0, len(boxes), count)
    noise = generator.choice([0.03, 0.1, 0.3], (count, 1))
    shift = generator.normal(size=(count, 4)) * noise
    found, near = boxes[chosen], generator.random(count) < 0.5
    found = np.concatenate(
        [found[:, :2] + shift[:, :2] * found[:, 2:], found[:, 2:] * np.exp(shift[:, 2:])], axis=1
    )
    found = np.where(near[:, None], found, _boxes(count, generator))
    right = near & (generator.random(count) < 0.85)
    return found, np.where(right, labels[chosen], generator.integers(0, classes, count))


def _blob(box: np.ndarray, generator: np.random.Generator) -> tuple[bytes, int]:
    """RLE and area of a star-shaped polygon in a box."""
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    radius = 0.7 + 0.3 * generator.random(10)
    centre = box[:2] + box[2:] / 2
    points = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] * box[2:] / 2
    rle = mask_util.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)[0]
    return rle["counts"], int(mask_util.area(rle))


def seconds(function: Callable, *arguments) -> tuple[float, object]:
    """Time of one call, and what it returned."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def bench_counting(
    protocol: str, data: tuple, ours: Callable, reference: Callable, repeats: int
) -> None:
    """Print the lines of one protocol."""
    truth, predictions, categories = data
    for task in ("bbox", "segm"):
        times, difference = [], 0.0
        for _ in range(repeats):
            # the references write into what they are given
            own = copy.deepcopy(truth)
            slow, expected = seconds(reference, own, predictions, categories, task)
            fast, found = seconds(ours, truth, predictions, categories, task)
            times.append((slow, fast))
            difference = max(difference, largest_difference(expected, found))
        report(f"{protocol} {task}", protocol, times, difference)


def report(name: str, protocol: str, times: list[tuple[float, float]], difference: float) -> None:
    """Print the ratio of times and the largest difference of AP."""
    ratio = statistics.median(slow / fast for slow, fast in times)
    slow, fast = (1e3 * statistics.median(side) for side in zip(*times))
    line(name, slow, fast, ratio, TARGETS[protocol])
    limit = AGREEMENT[protocol]
    verdict = "PASS" if difference <= limit else "MISS"
    print(f"{'':12s} AP differs by {difference:.1e}, at most {limit:g}: {verdict}")


def largest_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Of the AP, in [0, 1], over all, small, medium and large objects."""
    pairs = [[mean_precision(p[..., area]) / 100 for p in (expected, found)] for area in range(4)]
    return float(np.abs(np.diff(np.nan_to_num(pairs, nan=-1))).max())


def line(name: str, slow: float, fast: float, ratio: float, target: float) -> None:
    """Print a ratio and its target."""
    verdict = "PASS" if ratio >= target else "MISS"
    print(f"{name:12s} {slow:9.0f} {fast:9.0f} {ratio:7.1f} {target:7g}  {verdict}", flush=True)


OBJECT = """<object><name>{name}</name><pose/><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def write_voc(truth: InstanceTruth, predictions: Predictions, folder: Path) -> None:
    """The files of Detectron2's evaluator, without its rounding of detections."""
    objects: dict[int, list[str]] = {image["id"]: [] for image in truth.images}
    for entry in truth.annotations:
        x, y, width, height = entry["bbox"]
        text = OBJECT.format(x + 1, y + 1, x + width, y + height, name=entry["category_id"] - 1)
        objects[entry["image_id"]].append(text)
    for number, texts in objects.items():
        path = folder / f"{number}.xml"
        path.write_text(f"<annotation>{''.join(texts)}</annotation>")
        parse_rec(str(path))
    (folder / "images.txt").write_text("".join(f"{number}\n" for number in objects))
    lines: list[list[str]] = [[] for _ in truth.categories]
    for number, row in zip(predictions.image.tolist(), predictions.rows):
        x, y, width, height = row["box"].tolist()
        place = f"{x + 1} {y + 1} {x + width} {y + height}"
        lines[row["category"]].append(f"{number} {row['score']} {place}\n")
    for label, texts in enumerate(lines):
        (folder / f"{label}.txt").write_text("".join(texts))


def bench_voc(data: tuple, repeats: int) -> None:
    """Print the lines of VOC's AP50; true boxes are rounded to pixels, as its files have them."""
    truth, predictions, categories = copy.deepcopy(data)
    for entry in truth.annotations:
        entry["bbox"] = [round(value) for value in entry["bbox"]]
    times, difference = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_voc(truth, predictions, Path(folder))
        files = [f"{folder}/{{}}.txt", f"{folder}/{{}}.xml", f"{folder}/images.txt"]

        def detectron2s() -> np.ndarray:
            return np.array([voc_eval(*files, str(label))[2] for label in range(len(categories))])

        for _ in range(repeats):
            slow, expected = seconds(detectron2s)
            fast, found = seconds(voc_precisions, truth, predictions, categories)
            times.append((slow, fast))
            # a class without objects has no AP here, and 0 or none there
            difference = max(difference, float(np.nanmax(np.abs(expected - found))))
    report("VOC bbox", "VOC", times, difference)


def whole_images(masks: np.ndarray) -> list[bytes]:
    """The counts of masks as Detectron2's evaluator encodes them."""
    return [
        mask_util.encode(np.array(mask[:, :, None], order="F", dtype="uint8"))[0]["counts"]
        for mask in masks
    ]


def bench_masks(size: tuple[int, int], repeats: int) -> None:
    """Print the line of the encoding of 100 masks."""
    generator = np.random.default_rng(0)
    sides = np.exp(generator.uniform(np.log(10), np.log(0.6 * size[0]), (100, 2)))
    corners = generator.random((100, 2)) * (np.array(size[::-1]) - sides)
    boxes = torch.from_numpy(np.concatenate([corners, corners + sides], axis=1)).float()
    ramp = np.linspace(-1, 1, 28)
    disc = 0.8 - np.hypot(ramp[:, None], ramp[None])
    noise = generator.normal(0, 0.7, (100, 28, 28))
    masks = torch.from_numpy(1 / (1 + np.exp(-8 * disc + noise))).float()
    pasted = paste_masks_in_image(masks, boxes, size).numpy()
    times = []
    for _ in range(repeats + 1):
        slow, expected = seconds(whole_images, pasted)
        fast, (found, _) = seconds(encode_masks, pasted)
        assert found == expected, "an encoded mask differs from pycocotools'"
        times.append((slow, fast))
    ratio = statistics.median(slow / fast for slow, fast in times[1:])
    slow, fast = (1e3 * statistics.median(side) for side in zip(*times[1:]))
    line(f"masks {size[0]}", slow, fast, ratio, TARGETS["masks"])


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000, help="images of COCO's protocol")
    parser.add_argument("--repeats", type=int, default=1, help="repetitions of the counting")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':12s} {'reference':>9s} {'ours, ms':>9s} {'ratio':>7s} {'target':>7s}")
    coco = world(options.images, 80, 7, 30)
    if importlib.util.find_spec("hotcoco") is None:
        print("hotcoco is not installed: pycocotools counts, and there is nothing to compare")
    else:
        bench_counting("COCO", coco, count_with_hotcoco, count_with_pycocotools, options.repeats)
        if importlib.util.find_spec("lvis") is not None:
            lvis = world(max(1, 3 * options.images // 10), 1203, 12, 300)
            federated = functools.partial(count_with_hotcoco, federated=True)
            bench_counting("LVIS", lvis, federated, count_with_lvis, options.repeats)
    bench_voc(coco, options.repeats)
    for size in ((480, 640), (800, 1200)):
        bench_masks(size, 5)


if __name__ == "__main__":
    main()
