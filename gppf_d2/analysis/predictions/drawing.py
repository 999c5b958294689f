"""Draw what a head says about an image, and the truth in the same way.

Detectron2's Visualizer draws boxes, masks and keypoints, names are placed so that none covers
another; classes become bars, depth a perceptual colour map, normals colours of directions. Colours
belong to classes, not to instances, so that prediction and truth can be compared; small images are
enlarged first, so that labels do not cover them. Several kinds become a picture each, with titles.

H, W size of the image, K classes, R regions. Outputs are the dicts of ``MultiTaskModel.inference``
or of ``truth_of``: {"instances"} | {"sem_seg": scores [K, H, W] or labels [H, W]} | {"classes":
[K]} | {"label"} | {"depth": [H, W] metres, 0 = unknown} | {"inverse_depth": [H, W], larger is
nearer} | {"normals": [3, H, W], 0 = unknown}. Of two label heads of one kind the second's key is
"<label>.<kind>".
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import GenericMask, Visualizer

from gppf_d2.analysis.predictions.class_bars import draw_classes, draw_label
from gppf_d2.analysis.predictions.class_names import class_colors, class_name
from gppf_d2.analysis.predictions.pictures import Drawn, fit, panels, with_key
from gppf_d2.analysis.predictions.pixel_maps import (
    as_array,
    draw_depth,
    draw_inverse_depth,
    draw_normals,
    hatched,
)
from gppf_d2.analysis.predictions.placement import (
    Label,
    Place,
    box_places,
    middles,
    spot_places,
    write_labels,
)

MOST_REGIONS = 100  # the best-scored regions that are drawn; COCO counts as many an image
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


def draw(
    image: np.ndarray,
    output: Mapping[str, Any],
    metadata: Metadata | None = None,
    **options: Any,
) -> np.ndarray:
    """One picture of an output; several kinds are put side by side, each under its title. Keys to
    colours stand below a single picture, or beside the titles.

    Args:
        image: as of ``draw_kinds``, like the other arguments.

    Returns:
        RGB uint8 [H', W', 3].

    Raises:
        ValueError: the output holds nothing that can be drawn.
    """
    return joined(draw_kinds(image, output, metadata, **options))


def joined(drawn: Mapping[str, Drawn]) -> np.ndarray:
    """Pictures of ``draw_kinds`` as one, RGB uint8 [H', W', 3]."""
    if len(drawn) == 1:
        return with_key(next(iter(drawn.values())))
    return panels({title_of(key): one for key, one in drawn.items()})


def draw_kinds(
    image: np.ndarray,
    output: Mapping[str, Any],
    metadata: Metadata | None = None,
    *,
    limits: tuple[float, float] | None = None,
    true_label: int | None = None,
    min_score: float = 0.3,
) -> dict[str, Drawn]:
    """Draw every kind of an output.

    Args:
        image: RGB uint8 [H, W, 3].
        output: of a head, or from ``truth_of``.
        metadata: names (and colours) of the classes.
        limits: nearest and farthest metres of the colour map of depth; None takes the output's own.
        true_label: class index whose bar is marked.
        min_score: regions below it are left out.

    Returns:
        Key of the output -> picture RGB uint8 [H', W', 3], enlarged or reduced to a size that
        labels can be read in, with the key to its colours and a note, in the order of ``KINDS``.

    Raises:
        ValueError: the output holds nothing that can be drawn.
    """
    metadata = metadata or Metadata()
    image = fit(image)
    size = image.shape[:2]
    how = {
        "instances": lambda key: _draw_instances(image, output[key], names_of(key), min_score),
        "sem_seg": lambda key: _draw_sem_seg(image, labels_of(output[key]), names_of(key)),
        "classes": lambda key: Drawn(
            draw_classes(size, as_array(output[key]), names_of(key), true_label)
        ),
        "label": lambda key: Drawn(draw_label(size, int(output[key]), names_of(key))),
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


def labels_of(sem_seg: Any) -> np.ndarray:
    """Class of every pixel, [H, W], from scores [K, H, W] or from labels."""
    array = as_array(sem_seg)
    return array.argmax(0) if array.ndim == 3 else array


def strongest(instances: Instances, min_score: float) -> Instances:
    """The regions that are drawn, on the CPU: the ``MOST_REGIONS`` best of at least ``min_score``,
    the best first; all where they have no scores."""
    instances = instances.to("cpu")
    if not instances.has("scores"):
        return instances
    order = instances.scores.argsort(descending=True)
    return instances[order[instances.scores[order] >= min_score][:MOST_REGIONS]]


def scaled_boxes(instances: Instances, size: tuple[int, int]) -> np.ndarray:
    """Boxes x0, y0, x1, y1 [R, 4] in a picture of another size (height, width)."""
    ratio = np.asarray(size) / np.asarray(instances.image_size)
    return instances.pred_boxes.tensor.numpy() * np.tile(ratio[::-1], 2)


def names_of_regions(instances: Instances, metadata: Metadata) -> list[str]:
    """What is written at every region: its class, where there are several, and its score, where it
    has one."""
    several = len(metadata.get("thing_classes") or ()) != 1
    classes = instances.pred_classes.tolist()
    names = [class_name(metadata, index, "instances") if several else "" for index in classes]
    if not instances.has("scores"):
        return names
    scores = instances.scores.tolist()
    return [f"{name} {score:.0%}".strip() for name, score in zip(names, scores)]


def _draw_instances(
    image: np.ndarray, instances: Instances, metadata: Metadata, min_score: float
) -> Drawn:
    shown = strongest(instances, min_score)
    if not len(shown):
        return _without_regions(image, instances, min_score)
    size = image.shape[:2]
    classes = shown.pred_classes.tolist()
    palette = class_colors(max(classes) + 1, metadata.get("thing_colors"))
    boxes = scaled_boxes(shown, size)
    visualizer = Visualizer(image, metadata, font_size_scale=1.5)  # thicker lines
    visualizer.overlay_instances(
        boxes=boxes,
        masks=_masks(shown, size),
        keypoints=_keypoints(shown, size),
        assigned_colors=[palette[index] for index in classes],
        alpha=0.45,
    )
    named = zip(names_of_regions(shown, metadata), classes, boxes)
    labels = [Label(name, palette[index], box_places(box)) for name, index, box in named]
    return Drawn(write_labels(visualizer.output.get_image(), labels, middles(boxes)))


def _without_regions(image: np.ndarray, instances: Instances, min_score: float) -> Drawn:
    predicted = instances.has("scores")
    note = ""
    if predicted and len(instances):
        best = float(instances.scores.max())
        note = f"No score reaches {min_score:.0%}; the highest is {best:.1%}."
    middle = [Place(image.shape[1] / 2, 6, 0.5, 0)]
    words = "nothing found" if predicted else "nothing annotated"
    return Drawn(write_labels(image, [Label(words, "black", middle)]), note=note)


def _masks(instances: Instances, size: tuple[int, int]) -> list[GenericMask] | None:
    if not instances.has("pred_masks"):
        return None
    height, width = size
    masks = []
    for mask in np.asarray(instances.pred_masks).astype(np.uint8):
        scaled = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        masks.append(GenericMask(scaled, height, width))
    return masks


def _keypoints(instances: Instances, size: tuple[int, int]) -> np.ndarray | None:
    if not instances.has("pred_keypoints"):
        return None
    down, across = np.asarray(size) / np.asarray(instances.image_size)
    return as_array(instances.pred_keypoints)[..., :3] * np.array([across, down, 1.0])


def _draw_sem_seg(image: np.ndarray, labels: np.ndarray, metadata: Metadata) -> Drawn:
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
    names = [
        (labels == label, class_name(metadata, label, "sem_seg"), palette[label])
        for label in present
    ]
    drawn = hatched(blended.astype(np.uint8), labels == ignore)
    return Drawn(write_labels(drawn, patch_labels(names)))


def patch_labels(
    named: Iterable[tuple[np.ndarray, str, tuple]], least: float = 0.006
) -> list[Label]:
    """Labels for the largest connected patch of every mask, the largest patch first.

    Args:
        named: (mask [H, W], name, colour) each.
        least: share of the picture below which a patch has no room for a name.
    """
    found: list[tuple[float, Label]] = []
    for mask, name, color in named:
        _, patches, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        areas = statistics[1:, cv2.CC_STAT_AREA]
        if not areas.size or areas.max() < least * mask.size:
            continue
        inside = np.pad((patches == 1 + areas.argmax()).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        found.append((float(areas.max()), Label(name, color, spot_places(x, y))))
    return [label for _, label in sorted(found, key=lambda one: -one[0])]
