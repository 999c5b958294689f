"""Draw what a head says about an image, and the truth in the same way.

Detectron2's Visualizer draws boxes, masks, keypoints and semantic maps; classes become bars, depth
a perceptual colour map with a colour bar, normals colours beside a ball of all directions. Colours
belong to classes, not to instances, so that prediction and truth can be compared; small images are
enlarged first, so that labels do not cover them. Several kinds become a picture each, with titles.

H, W size of the image, K classes, R regions. Outputs are the dicts of ``MultiTaskModel.inference``
or of ``truth_of``: {"instances"} | {"sem_seg": scores [K, H, W] or labels [H, W]} | {"classes":
[K]} | {"label"} | {"depth": [H, W] metres, 0 = unknown} | {"inverse_depth": [H, W], larger is
nearer} | {"normals": [3, H, W], 0 = unknown}. Of two label heads of one kind the second's key is
"<label>.<kind>".
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import GenericMask, Visualizer

from gppf_d2.analysis.figures import LIGHT, new_figure, style_axes, to_array
from gppf_d2.analysis.pictures import fit, panels
from gppf_d2.analysis.pixel_maps import (
    as_array,
    draw_depth,
    draw_inverse_depth,
    draw_normals,
    hatched,
)

MOST_REGIONS = 25  # the best-scored regions that are drawn
# kind of output -> title of its picture, in the order in which several are shown
KINDS = {
    "instances": "instances",
    "sem_seg": "segments",
    "classes": "classes",
    "label": "class",
    "depth": "depth",
    "inverse_depth": "inverse depth",
    "normals": "normals",
}
OVER_THE_IMAGE = {"instances", "sem_seg"}  # the others do not show the image itself
# where the names of a kind's classes are looked for first
NAMES = {"instances": "thing_classes", "sem_seg": "stuff_classes"}


def draw(
    image: np.ndarray,
    output: Mapping[str, Any],
    metadata: Metadata | None = None,
    **options: Any,
) -> np.ndarray:
    """One picture of an output; several kinds are put side by side, each under its title.

    Args:
        image: as of ``draw_kinds``, like the other arguments.

    Returns:
        RGB uint8 [H', W', 3].

    Raises:
        ValueError: the output holds nothing that can be drawn.
    """
    drawn = draw_kinds(image, output, metadata, **options)
    if len(drawn) == 1:
        return next(iter(drawn.values()))
    return panels({title_of(key): picture for key, picture in drawn.items()})


def draw_kinds(
    image: np.ndarray,
    output: Mapping[str, Any],
    metadata: Metadata | None = None,
    *,
    limits: tuple[float, float] | None = None,
    true_label: int | None = None,
    min_score: float = 0.3,
) -> dict[str, np.ndarray]:
    """Draw every kind of an output.

    Args:
        image: RGB uint8 [H, W, 3].
        output: of a head, or from ``truth_of``.
        metadata: names (and colours) of the classes.
        limits: nearest and farthest metres of the colour map of depth; None takes the output's own.
        true_label: class index whose bar is marked.
        min_score: regions below it are left out.

    Returns:
        Key of the output -> RGB uint8 [H', W', 3], enlarged or reduced to a size that labels can be
        read in, in the order of ``KINDS``.

    Raises:
        ValueError: the output holds nothing that can be drawn.
    """
    metadata = metadata or Metadata()
    image = fit(image)
    size = image.shape[:2]
    how = {
        "instances": lambda key: _draw_instances(image, output[key], names_of(key), min_score),
        "sem_seg": lambda key: _draw_sem_seg(image, labels_of(output[key]), names_of(key)),
        "classes": lambda key: _draw_classes(size, output[key], names_of(key), true_label),
        "label": lambda key: _draw_label(size, int(output[key]), names_of(key)),
        "depth": lambda key: draw_depth(size, as_array(output[key]), limits),
        "inverse_depth": lambda key: draw_inverse_depth(size, as_array(output[key])),
        "normals": lambda key: draw_normals(size, as_array(output[key])),
    }
    names_of = functools.partial(metadata_of, metadata)
    drawn = {key: how[kind](key) for kind in KINDS for key in output if split_key(key)[1] == kind}
    if not drawn:
        raise ValueError(
            f"An output with {sorted(output)} cannot be drawn; known are {', '.join(KINDS)}."
        )
    return drawn


def split_key(key: str) -> tuple[str, str]:
    """Label head ("" where it does not matter) and kind of an output's key."""
    label, _, kind = key.rpartition(".")
    return label, kind


def title_of(key: str) -> str:
    """What is written over the picture of an output's key."""
    label, kind = split_key(key)
    return f"{label}: {KINDS[kind]}" if label else KINDS[kind]


def metadata_of(metadata: Metadata, key: str) -> Metadata:
    """The metadata that an output's key is about: of "<label>.<kind>" the entry of that name."""
    label, _ = split_key(key)
    return metadata.get(key, metadata) if label else metadata


def class_name(metadata: Metadata, index: int, kind: str = "") -> str:
    """The name of a class, or "class 7" where the metadata has none; ``kind`` of the output tells
    which list of several is meant."""
    first = NAMES.get(kind, "classes")
    for key in sorted(("classes", "thing_classes", "stuff_classes"), key=lambda key: key != first):
        names = metadata.get(key) or ()
        if 0 <= index < len(names):
            return str(names[index])
    return f"class {index}"


def class_colors(count: int, given: Sequence[Sequence[int]] | None = None) -> list[tuple]:
    """RGB colours in [0, 1] for ``count`` classes: the given ones (0 to 255), or well-spread ones.

    Hues advance by the golden ratio and lightness takes three steps, so that neighbours differ in
    both.
    """
    if given and len(given) >= count:
        return [tuple(channel / 255 for channel in color) for color in given[:count]]
    return [
        colorsys.hls_to_rgb((0.58 + index * 0.618034) % 1, (0.52, 0.66, 0.38)[index % 3], 0.72)
        for index in range(count)
    ]


def labels_of(sem_seg: Any) -> np.ndarray:
    """Class of every pixel, [H, W], from scores [K, H, W] or from labels."""
    array = as_array(sem_seg)
    return array.argmax(0) if array.ndim == 3 else array


def _draw_instances(
    image: np.ndarray, instances: Instances, metadata: Metadata, min_score: float
) -> np.ndarray:
    instances = instances.to("cpu")
    if instances.has("scores"):
        order = instances.scores.argsort(descending=True)
        order = order[instances.scores[order] >= min_score][:MOST_REGIONS]
        instances = instances[order]
    if not len(instances):
        return _write_note(
            image, "nothing found" if instances.has("scores") else "nothing annotated"
        )
    ratio = np.asarray(image.shape[:2]) / np.asarray(instances.image_size)
    classes = instances.pred_classes.tolist()
    names = [class_name(metadata, index, "instances") for index in classes]
    if instances.has("scores"):
        names = [f"{name} {score:.0%}" for name, score in zip(names, instances.scores.tolist())]
    palette = class_colors(max(classes) + 1, metadata.get("thing_colors"))
    boxes = instances.pred_boxes.tensor.numpy() * np.tile(ratio[::-1], 2)
    visualizer = Visualizer(image, metadata, font_size_scale=1.5)
    visualizer.overlay_instances(
        boxes=boxes,
        labels=names,
        masks=_masks(instances, image.shape[:2]),
        keypoints=_keypoints(instances, ratio),
        assigned_colors=[palette[index] for index in classes],
        alpha=0.45,
    )
    return visualizer.output.get_image()


def _masks(instances: Instances, size: tuple[int, int]) -> list[GenericMask] | None:
    if not instances.has("pred_masks"):
        return None
    height, width = size
    masks = []
    for mask in np.asarray(instances.pred_masks).astype(np.uint8):
        scaled = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        masks.append(GenericMask(scaled, height, width))
    return masks


def _keypoints(instances: Instances, ratio: np.ndarray) -> np.ndarray | None:
    if not instances.has("pred_keypoints"):
        return None
    return as_array(instances.pred_keypoints)[..., :3] * np.array([ratio[1], ratio[0], 1.0])


def _write_note(image: np.ndarray, text: str) -> np.ndarray:
    visualizer = Visualizer(image)
    visualizer.draw_text(
        text, (image.shape[1] / 2, 6), font_size=11, color="w", horizontal_alignment="center"
    )
    return visualizer.output.get_image()


def _draw_sem_seg(image: np.ndarray, labels: np.ndarray, metadata: Metadata) -> np.ndarray:
    height, width = image.shape[:2]
    labels = cv2.resize(labels.astype(np.int32), (width, height), interpolation=cv2.INTER_NEAREST)
    ignore = metadata.get("ignore_label", 255)
    present = [int(label) for label in np.unique(labels) if label != ignore and label >= 0]
    count = max([len(metadata.get("stuff_classes") or ()) - 1, *present], default=0) + 1
    palette = class_colors(count, metadata.get("stuff_colors"))
    blended = image.astype(np.float32)
    for label in present:
        mask = labels == label
        blended[mask] = 0.35 * blended[mask] + 0.65 * 255 * np.asarray(palette[label])
    drawn = hatched(blended.astype(np.uint8), labels == ignore)
    visualizer = Visualizer(drawn, metadata)
    for label in present:
        _name_largest_patch(visualizer, labels == label, class_name(metadata, label, "sem_seg"))
    return visualizer.output.get_image()


def _name_largest_patch(visualizer: Visualizer, mask: np.ndarray, name: str) -> None:
    """Write a class's name where its largest connected patch is widest, if it has room there."""
    _, patches, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    if statistics[largest, cv2.CC_STAT_AREA] < 0.006 * mask.size:
        return
    inside = np.pad((patches == largest).astype(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    size = float(np.clip(np.sqrt(mask.size) / 30, 9, 15))
    visualizer.draw_text(name, (x, y - size * 0.7), font_size=size, color="w")


def _draw_classes(
    size: tuple[int, int], scores: Any, metadata: Metadata, true_label: int | None
) -> np.ndarray:
    scores = as_array(scores)
    best = np.argsort(-scores, kind="stable")[:5]
    height, width = _panel_inches(size)
    figure = new_figure(width, height, LIGHT)
    axes = figure.add_subplot()
    style_axes(axes, LIGHT)
    right, other = LIGHT.palette[2], LIGHT.palette[0]
    for row, index in enumerate(best):
        axes.barh(row, scores[index], height=0.42, color=right if index == true_label else other)
        mark = " ✓" if index == true_label else ""
        axes.text(
            0, row - 0.32, f"{class_name(metadata, int(index))}{mark}", va="bottom", fontsize=9,
            color=LIGHT.ink,
        )  # fmt: skip
        axes.text(
            1, row - 0.32, f"{scores[index]:.1%}", va="bottom", ha="right", fontsize=9,
            color=LIGHT.muted,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(4.5, -0.9), xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return to_array(figure, dpi=100)


def _draw_label(size: tuple[int, int], label: int, metadata: Metadata) -> np.ndarray:
    height, width = _panel_inches(size)
    figure = new_figure(width, height, LIGHT)
    name = class_name(metadata, label)
    points = min(20.0, 72 * width / (0.72 * max(len(name), 1)))
    figure.text(0.5, 0.5, name, ha="center", va="center", fontsize=points, color=LIGHT.ink)
    return to_array(figure, dpi=100)


def _panel_inches(size: tuple[int, int]) -> tuple[float, float]:
    return max(size[0] / 100, 2.2), max(size[1] / 100, 2.2)
