"""Precision over recall of instances, counted by a library: hotcoco, pycocotools or lvis-api.

All give the same array, precision [T, R, K, A]:

    T = 10 IoU thresholds 0.50 to 0.95      K categories, by ascending id
    R = 101 recalls 0.00 to 1.00            A = all, small, medium, large areas

with -1 where a category has no ground truth. hotcoco (a compiled library, 25 to 70 times faster)
gives pycocotools' numbers to the last bit and lvis-api's, where those two agree on what counts:
lvis-api leaves out instances without area, before it counts but after it has taken an image's 300
best, and so does ``federated``. pycocotools takes an image's 100 best per category.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gppf_d2.evaluation.instance_truth import InstanceTruth
from gppf_d2.evaluation.prediction_store import Predictions

IMAGES_AT_ONCE = 1000  # of which hotcoco's input exists as Python objects
LVIS_LIMIT = 300  # instances an image
AREAS = {"s": 1, "m": 2, "l": 3}

logger = logging.getLogger(__name__)


def choose_library(backend: str, reference: str) -> str:
    """The library that counts.

    Args:
        backend: "auto", "hotcoco", or the name of the reference.
        reference: "pycocotools" or "lvis".

    Returns:
        "hotcoco" or the reference.

    Raises:
        ValueError: unknown backend, or a library that is not installed.
    """
    if backend not in ("auto", "hotcoco", reference):
        raise ValueError(f"backend is '{backend}'; choose 'auto', 'hotcoco' or '{reference}'")
    wanted = ("hotcoco", reference) if backend == "auto" else (backend,)
    for library in wanted:
        if _installed(library):
            if library != wanted[0]:
                logger.info("hotcoco is not installed; counting with %s, which is slower", library)
            return library
    raise ValueError(
        f"backend '{backend}' needs {' or '.join(wanted)}, which is not installed; "
        f"run 'pip install {wanted[0]}'"
    )


def _installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ValueError:  # a module that was blocked in sys.modules
        return False


def mean_precision(precision: np.ndarray) -> float:
    """Mean in percent over the entries that have ground truth, NaN without any."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else float("nan")


def standard_metrics(precision: np.ndarray) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl in percent of precision [T, R, K, A]."""
    every = precision[:, :, :, 0]
    result = {
        "AP": mean_precision(every),
        "AP50": mean_precision(every[0]),
        "AP75": mean_precision(every[5]),
    }
    for name, area in AREAS.items():
        result[f"AP{name}"] = mean_precision(precision[:, :, :, area])
    return result


def count_with_hotcoco(
    truth: InstanceTruth,
    predictions: Predictions,
    categories: np.ndarray,
    task: str,
    federated: bool = False,
) -> np.ndarray:
    """Precision [T, R, K, A] by hotcoco.

    Args:
        truth: the ground truth.
        predictions: with images as numbers of the truth.
        categories: category id per contiguous class.
        task: "bbox" or "segm".
        federated: LVIS's rules: images list what is absent and what is not exhaustive, 300
            instances an image, none without area.
    """
    import hotcoco

    annotations = truth.annotations
    if federated:
        predictions = limit_per_image(predictions, LVIS_LIMIT)
        predictions = predictions.select(_areas(predictions, task) > 0)
        annotations = [entry for entry in annotations if entry["area"] > 0]
    of_image: list[list[dict]] = [[] for _ in truth.images]
    for entry in annotations:
        of_image[entry["image_id"] - 1].append(entry)
    order = np.argsort(predictions.image, kind="stable")
    sorted_images = predictions.image[order]
    evaluation = hotcoco.StreamingEval(truth.categories, task, lvis_style=federated)
    for start in range(0, len(truth.images), IMAGES_AT_ONCE):
        images = truth.images[start : start + IMAGES_AT_ONCE]
        limits = np.searchsorted(sorted_images, [start + 1, start + len(images) + 1])
        part = predictions.select(order[slice(*limits)])
        objects = [entry for group in of_image[start : start + len(images)] for entry in group]
        masks = {"segmentation": _rles(truth, part)} if task == "segm" else {}
        evaluation.update(images, objects, _table(part, categories, task), **masks)
    counter = evaluation.finalize()
    counter.accumulate()
    return counter.eval["precision"][..., -1]


def count_with_pycocotools(
    truth: InstanceTruth, predictions: Predictions, categories: np.ndarray, task: str
) -> np.ndarray:
    """Precision [T, R, K, A] by pycocotools; arguments as for ``count_with_hotcoco``."""
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = truth.content()
        expected.createIndex()
        found = COCO()
        found.dataset = {**truth.content(), "annotations": []}
        found.createIndex()
        if len(predictions.rows):
            found = expected.loadRes(_results(truth, predictions, categories, task))
        counter = COCOeval(expected, found, task)
        counter.evaluate()
        counter.accumulate()
    return counter.eval["precision"][..., -1]


def count_with_lvis(
    truth: InstanceTruth, predictions: Predictions, categories: np.ndarray, task: str
) -> np.ndarray:
    """Precision [T, R, K, A] by lvis-api; arguments as for ``count_with_hotcoco``."""
    from lvis import LVIS, LVISEval, LVISResults

    class Truth(LVIS):
        """lvis-api reads files only; here the content is there already."""

        def _load_json(self, path: dict) -> dict:
            return path

    results = _results(truth, predictions, categories, task)
    if not results:
        # lvis-api fails without any result, and leaves out one without area
        nothing = {"image_id": 1, "category_id": truth.categories[0]["id"], "score": 0.0}
        results = [{**nothing, "bbox": [0.0, 0.0, 0.0, 0.0]}]
        results[0]["segmentation"] = _empty_mask(truth.images[0])
    logging.getLogger("lvis").setLevel(logging.ERROR)
    expected = Truth(truth.content())
    counter = LVISEval(expected, LVISResults(expected, results, max_dets=LVIS_LIMIT), task)
    counter.evaluate()
    with _old_numpy_names():
        counter.accumulate()
    return counter.eval["precision"]


def limit_per_image(predictions: Predictions, limit: int) -> Predictions:
    """The ``limit`` best instances of every image; of equal scores the first."""
    order = np.lexsort((-predictions.rows["score"], predictions.image))
    images = predictions.image[order]
    place = np.arange(len(order)) - np.searchsorted(images, images)
    return predictions.select(np.sort(order[place < limit]))


def _table(predictions: Predictions, categories: np.ndarray, task: str) -> np.ndarray:
    """Image, x, y, width, height, score, category, float64 [P, 7]."""
    rows = predictions.rows
    table = np.empty((len(rows), 7))
    table[:, 0] = predictions.image
    table[:, 1:5] = rows["box"]
    table[:, 5] = rows["score"]
    table[:, 6] = categories[rows["category"]]
    if task == "segm":
        # small, medium and large are of the mask, and the area is width times height
        table[:, 3] = rows["mask_area"]
        table[:, 4] = 1
    return table


def _rles(truth: InstanceTruth, predictions: Predictions) -> list[dict]:
    if predictions.rles is None:  # nothing was found
        return []
    sizes = {
        number: [truth.images[number - 1][side] for side in ("height", "width")]
        for number in np.unique(predictions.image).tolist()
    }
    return [
        {"size": sizes[number], "counts": rle}
        for number, rle in zip(predictions.image.tolist(), predictions.rles)
    ]


def _areas(predictions: Predictions, task: str) -> np.ndarray:
    if task == "segm":
        return predictions.rows["mask_area"]
    sides = predictions.rows["box"].astype(np.float64)
    return sides[:, 2] * sides[:, 3]


def _results(
    truth: InstanceTruth, predictions: Predictions, categories: np.ndarray, task: str
) -> list[dict]:
    """COCO's results: boxes, or masks without boxes so that areas are those of the masks."""
    rows = predictions.rows
    if task == "segm":
        shapes = [{"segmentation": rle} for rle in _rles(truth, predictions)]
    else:
        shapes = [{"bbox": box} for box in rows["box"].tolist()]
    return [
        {"image_id": image, "category_id": category, "score": score, **shape}
        for image, category, score, shape in zip(
            predictions.image.tolist(),
            categories[rows["category"]].tolist(),
            rows["score"].tolist(),
            shapes,
        )
    ]


def _empty_mask(image: dict) -> dict:
    import pycocotools.mask as mask_util

    size = [image["height"], image["width"]]
    return mask_util.frPyObjects({"size": size, "counts": [size[0] * size[1]]}, *size)


@contextlib.contextmanager
def _old_numpy_names() -> Iterator[None]:
    """lvis-api uses ``np.float``, which numpy has not had since 1.24."""
    missing = "float" not in vars(np)
    if missing:
        np.float = float
    try:
        yield
    finally:
        if missing:
            del np.float


def category_order(truth: InstanceTruth, categories: Sequence[int]) -> list[int]:
    """Place along K of each contiguous class."""
    place = {key: index for index, key in enumerate(sorted(c["id"] for c in truth.categories))}
    return [place[int(key)] for key in categories]
