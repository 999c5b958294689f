"""Draw what a head says about an image, and the truth in the same way, side by side.

Detectron2's Visualizer draws boxes, masks, keypoints and semantic maps; classes become bars, depth
a perceptual colour map with a colour bar, normals colours beside a ball of all directions. Colours
belong to classes, not to instances, so that prediction and truth can be compared; small images are
enlarged first, so that labels do not cover them.

H, W size of the image, K classes, R regions. Outputs are the dicts of ``MultiTaskModel.inference``
or of ``truth_of``: {"instances"} | {"sem_seg": scores [K, H, W] or labels [H, W]} | {"classes":
[K]} | {"label"} | {"depth": [H, W] metres, 0 = unknown} | {"normals": [3, H, W], 0 = unknown}.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import GenericMask, Visualizer
from matplotlib.figure import Figure

from gppf_d2.analysis.figures import LIGHT, Theme, new_figure, style_axes, to_array
from gppf_d2.analysis.pixel_maps import as_array, draw_depth, draw_normals

SHORT_SIDE, LONG_SIDE = 300, 560  # pixels of a drawing: at least, at most
WIDE, WIDE_SIDE = 0.45, 1120  # height over width of pictures that are put below one another
MOST_REGIONS = 25  # the best-scored regions that are drawn
KINDS = ("instances", "sem_seg", "classes", "label", "depth", "normals")


class SheetRow(NamedTuple):
    """One row of a contact sheet; drawings are uint8 [H, W, 3], None where there is none."""

    image: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None
    caption: str = ""


def draw(
    image: np.ndarray,
    output: Mapping[str, Any],
    metadata: Metadata | None = None,
    *,
    limits: tuple[float, float] | None = None,
    true_label: int | None = None,
    min_score: float = 0.3,
) -> np.ndarray:
    """Draw one output.

    Args:
        image: RGB uint8 [H, W, 3].
        output: of a head, or from ``truth_of``; of several kinds the first one of ``KINDS`` is
            drawn.
        metadata: names (and colours) of the classes.
        limits: nearest and farthest metres of the colour map of depth; None takes the output's own.
        true_label: class index whose bar is marked.
        min_score: regions below it are left out.

    Returns:
        RGB uint8 [H', W', 3], enlarged or reduced to a size that labels can be read in.

    Raises:
        ValueError: the output holds nothing that can be drawn.
    """
    metadata = metadata or Metadata()
    image = fit(image)
    kind = next((kind for kind in KINDS if kind in output), None)
    if kind is None:
        raise ValueError(f"An output with {sorted(output)} cannot be drawn; known are {KINDS}.")
    if kind == "instances":
        return _draw_instances(image, output["instances"], metadata, min_score)
    if kind == "sem_seg":
        return _draw_sem_seg(image, labels_of(output["sem_seg"]), metadata)
    if kind == "classes":
        return _draw_classes(image.shape[:2], output["classes"], metadata, true_label)
    if kind == "label":
        return _draw_label(image.shape[:2], int(output["label"]), metadata)
    if kind == "depth":
        return draw_depth(image.shape[:2], as_array(output["depth"]), limits)
    return draw_normals(image.shape[:2], as_array(output["normals"]))


def fit(image: np.ndarray) -> np.ndarray:
    """Scale an image so that its sides lie between ``SHORT_SIDE`` and ``LONG_SIDE`` where
    possible."""
    height, width = image.shape[:2]
    factor = max(1.0, SHORT_SIDE / min(height, width))
    longest = WIDE_SIDE if is_wide(image) else LONG_SIDE
    factor = min(factor, longest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        return image
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC if factor < 4 else cv2.INTER_NEAREST
    return cv2.resize(image, size, interpolation=method)


def is_wide(image: np.ndarray) -> bool:
    """Whether an image [H, W, ...] is so wide that others belong below it, not beside it."""
    return image.shape[0] < WIDE * image.shape[1]


def class_name(metadata: Metadata, index: int) -> str:
    """The name of a class, or "class 7" where the metadata has none."""
    for key in ("classes", "thing_classes", "stuff_classes"):
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
    names = [class_name(metadata, index) for index in classes]
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
    unknown = labels == ignore
    blended[unknown] *= 0.25
    visualizer = Visualizer(blended.astype(np.uint8), metadata)
    for label in present:
        _name_largest_patch(visualizer, labels == label, class_name(metadata, label))
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


def beside(*pictures: np.ndarray, gap: int = 12) -> np.ndarray:
    """Pictures in one row on white, brought to the height of the first; wide ones in one column, as
    in the paper's figure 12, brought to its width."""
    if is_wide(pictures[0]):
        turned = [np.swapaxes(picture, 0, 1) for picture in pictures]
        return np.ascontiguousarray(np.swapaxes(_in_a_row(turned, gap), 0, 1))
    return _in_a_row(pictures, gap)


def _in_a_row(pictures: Sequence[np.ndarray], gap: int) -> np.ndarray:
    height = pictures[0].shape[0]
    parts: list[np.ndarray] = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        if picture.shape[0] != height:
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        parts += [np.full((height, gap, 3), 255, np.uint8)] * bool(parts) + [picture]
    return np.concatenate(parts, axis=1)


def _write_heading(figure: Figure, title: str, subtitle: str, theme: Theme) -> None:
    inch = 1 / figure.get_figheight()
    heading = {"va": "top", "fontsize": 13, "fontweight": "bold", "color": theme.ink}
    figure.text(0.012, 1 - 0.12 * inch, title, **heading)
    figure.text(0.012, 1 - 0.38 * inch, subtitle, va="top", fontsize=8.5, color=theme.muted)


def contact_sheet(
    task: str, rows: Sequence[SheetRow | tuple], subtitle: str = "", theme: Theme = LIGHT
) -> Figure:
    """A sheet with a row per image: image, prediction, truth; of wide images these three are below
    one another, two images side by side.

    Args:
        task: heading of the sheet.
        rows: what to show; at least one.
        subtitle: one line under the heading.
        theme: colours.

    Raises:
        ValueError: no row.
    """
    if not rows:
        raise ValueError(f"A contact sheet of task {task!r} needs at least one row.")
    rows = [SheetRow(*row) for row in rows]
    parts = ["image", "prediction", *["truth"] * any(row.truth is not None for row in rows)]
    aspect = max(row.image.shape[0] / row.image.shape[1] for row in rows)
    aspect = min(aspect, 0.8)  # square and upright images get as much height as a photograph
    wide = all(is_wide(row.image) for row in rows)
    across = min(len(rows), 2) if wide else len(parts)
    down = -(-len(rows) // across) * len(parts) if wide else len(rows)
    cell = 4.65 if wide else 3.1
    head = 0.62 if subtitle else 0.42
    height = head + 0.28 + down * (cell * aspect + (0.15 if wide else 0.3))
    figure = new_figure(cell * across + 0.2, height, theme)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / height), w_pad=0.03, h_pad=0.03)
    _write_heading(figure, task, subtitle, theme)
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
        axes.set_anchor("NW")
    if wide:  # [lines x parts, across] to [images, parts]
        panels = panels.reshape(-1, len(parts), across).swapaxes(1, 2).reshape(-1, len(parts))
    for number, (row, axes_row) in enumerate(zip(rows, panels)):
        for axes, name, drawn in zip(axes_row, parts, row):
            if number == 0:
                axes.set_title(name, loc="left", fontsize=9, color=theme.muted, pad=4)
            if drawn is not None:
                axes.imshow(fit(drawn), interpolation="antialiased")
        axes = axes_row[-1 if wide else 0]
        axes.text(
            0, -0.02, row.caption, transform=axes.transAxes, va="top", fontsize=7.5,
            color=theme.muted,
        )  # fmt: skip
    return figure
