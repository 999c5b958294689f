"""Where a prediction is wrong, drawn beside prediction and truth.

    instances   boxes that are right, wrong, and objects that were missed, as ``image_scores`` says
    sem_seg     wrong pixels on the grey image, with what was taken for what; ignored ones hatched
    depth       (p - g) / g from too near to too far, one scale for all images of a sheet
    normals     degrees between prediction and truth, one scale for all images of a sheet

H, W size of the image. Classes have no error map: their bars say all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer

from gppf_d2.analysis.figures import LIGHT
from gppf_d2.analysis.predictions.class_names import class_name
from gppf_d2.analysis.predictions.drawing import (
    labels_of,
    names_of_regions,
    patch_labels,
    scaled_boxes,
    strongest,
    title_of,
)
from gppf_d2.analysis.predictions.image_scores import ANSWERS, depth_errors, match, normal_errors
from gppf_d2.analysis.predictions.keys import Scale, Swatch, pixels_of
from gppf_d2.analysis.predictions.pictures import Drawn, fit, panels
from gppf_d2.analysis.predictions.pixel_maps import as_array, draw_map, hatched
from gppf_d2.analysis.predictions.placement import Label, box_places, middles, write_labels

MISSED, WRONG, RIGHT = LIGHT.palette[:3]
MOST_MISTAKES = 5  # named patches of wrong pixels
BOXES = (
    Swatch("right", RIGHT, "solid"),
    Swatch("wrong", WRONG, "solid"),
    Swatch("missed", MISSED, "dashed"),
)
PIXELS = (Swatch("wrong (true → predicted)", WRONG), "hatched: not labelled")
# kind -> ends that a scale may have, the unit of the map, its colours
STEPS = {
    "depth": ((0.1, 0.2, 0.5, 1.0), 100, "RdBu_r"),
    "normals": ((15.0, 30.0, 60.0, 90.0, 180.0), 1, "viridis"),
}


def errors_of(
    output: Mapping[str, Any], truth: Mapping[str, Any], metadata: Metadata
) -> dict[str, np.ndarray]:
    """The maps of errors that have a scale.

    Args:
        output: of a head.
        truth: of ``truth_of``.
        metadata: of the dataset.

    Returns:
        "depth" (of "inverse_depth" too) and "normals" -> errors [H, W], NaN where unknown.
    """
    found = {}
    for kind in ("inverse_depth", "depth"):
        if kind in output and "depth" in truth:
            prediction, true = as_array(output[kind]), as_array(truth["depth"])
            found["depth"] = depth_errors(kind, prediction, true, metadata)
    if "normals" in output and "normals" in truth:
        found["normals"] = normal_errors(as_array(output["normals"]), as_array(truth["normals"]))
    return found


def error_scales(errors: Iterable[Mapping[str, np.ndarray]]) -> dict[str, Scale]:
    """One scale for every kind of errors of several images: its end is the first of ``STEPS`` that
    nine of ten pixels stay below, or the last one."""
    by_kind: dict[str, list[np.ndarray]] = {}
    for of_image in errors:
        for kind, values in of_image.items():
            by_kind.setdefault(kind, []).append(np.abs(values[np.isfinite(values)]))
    scales = {}
    for kind, parts in by_kind.items():
        values = np.concatenate(parts)
        steps, unit, colors = STEPS[kind]
        usual = np.percentile(values, 90) if values.size else 0.0
        end = next((step for step in steps if usual <= step), steps[-1])
        words = (f"{end * unit:.0f}% too near", f"{end * unit:.0f}% too far")
        if kind == "normals":
            words = ("0°", f"{end:.0f}°")
        scales[kind] = Scale(0.0 if kind == "normals" else -end, end, words, colors)
    return scales


def draw_errors(
    image: np.ndarray,
    output: Mapping[str, Any],
    truth: Mapping[str, Any],
    metadata: Metadata | None = None,
    *,
    scales: Mapping[str, Scale] | None = None,
    min_score: float = 0.3,
) -> Drawn | None:
    """A picture of what is wrong; several kinds are put side by side, each under its title.

    Args:
        image: RGB uint8 [H, W, 3].
        output: of a head.
        truth: of ``truth_of``.
        metadata: names of classes, "ignore_label", "depth_range".
        scales: of ``error_scales``; None takes those of this image.
        min_score: boxes below it do not count.

    Returns:
        RGB uint8 [H', W', 3] with the key to its colours, None where there is nothing to compare.
    """
    metadata = metadata or Metadata()
    image = fit(image)
    maps = errors_of(output, truth, metadata)
    scales = error_scales([maps]) if scales is None else scales
    drawn: dict[str, Drawn] = {}
    for kind in ("instances", "sem_seg", "depth", "inverse_depth", "normals"):
        if kind not in output or ANSWERS.get(kind, kind) not in truth:
            continue
        if kind == "instances":
            shown = strongest(output[kind], min_score)
            drawn[kind] = _draw_boxes(image, shown, truth, metadata)
        elif kind == "sem_seg":
            said, true = labels_of(output[kind]), as_array(truth[kind])
            drawn[kind] = _draw_wrong_pixels(image, said, true, metadata)
        else:
            name = "normals" if kind == "normals" else "depth"
            picture = draw_map(image.shape[:2], maps[name], np.isfinite(maps[name]), scales[name])
            drawn[kind] = Drawn(picture, scales[name])
    if len(drawn) < 2:
        return next(iter(drawn.values()), None)
    return Drawn(panels({title_of(kind): one for kind, one in drawn.items()}))


def _grey(image: np.ndarray) -> np.ndarray:
    """An image without its colours and with less contrast, so that others stand out on it."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.repeat((90 + 0.6 * grey).astype(np.uint8)[..., None], 3, axis=2)


def _draw_boxes(
    image: np.ndarray,
    predicted: Instances,
    truth: Mapping[str, Any],
    metadata: Metadata,
) -> Drawn:
    objects = truth["instances"].to("cpu")
    matches = match(predicted, objects, truth.get("crowds"), truth.get("verified"))
    visualizer = Visualizer(_grey(image), metadata)
    labels: list[Label] = []
    drawn: list[np.ndarray] = []

    def add(instances: Instances, chosen: np.ndarray, color: str, style: str, named: bool) -> None:
        names = names_of_regions(instances, metadata)
        for place, box in enumerate(scaled_boxes(instances, image.shape[:2])):
            if chosen[place]:
                visualizer.draw_box(box, alpha=1, edge_color=color, line_style=style)
                labels.extend([Label(names[place], color, box_places(box))] * named)
                drawn.append(box)

    add(objects, ~matches.found, MISSED, "--", True)
    add(predicted, ~matches.right & ~matches.left_out, WRONG, "-", True)
    add(predicted, matches.right, RIGHT, "-", False)
    picture = write_labels(visualizer.output.get_image(), labels, middles(drawn))
    return Drawn(picture, BOXES)


def _draw_wrong_pixels(
    image: np.ndarray, said: np.ndarray, true: np.ndarray, metadata: Metadata
) -> Drawn:
    size = image.shape[1::-1]
    said, true = (
        cv2.resize(part.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
        for part in (said, true)
    )
    ignored = true == metadata.get("ignore_label", 255)
    wrong = (said != true) & ~ignored
    picture = _grey(image)
    picture[wrong] = (0.3 * picture[wrong] + 0.7 * np.array(pixels_of(WRONG))).astype(np.uint8)
    pairs = np.unique(np.stack([true[wrong], said[wrong]]), axis=1).T
    mistakes = [
        (
            wrong & (true == one) & (said == other),
            f"{class_name(metadata, int(one), 'sem_seg')} → "
            f"{class_name(metadata, int(other), 'sem_seg')}",
            "black",
        )
        for one, other in pairs
    ]
    labels = patch_labels(mistakes)[:MOST_MISTAKES]
    return Drawn(write_labels(hatched(picture, ignored), labels), PIXELS)
