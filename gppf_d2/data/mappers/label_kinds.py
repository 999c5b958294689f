"""The kinds of labels of a multi-label sample: how each is read, checked and moved with its image.

A value comes from the record's own annotations, through the functions of the kind's own mapper, or
from pseudo labels, decoded. Both have one form before they are moved (K classes, H W of the file):

    classes         int in [0, K), or probabilities float32 [K]
    instances       Detectron2 annotations
    sem_seg         uint8 [H, W], 255 = ignored
    depth           float32 [H, W] in metres, 0 = unknown
    inverse_depth   float32 [H, W] > 0 up to a scale and a shift of the image, 0 = unknown
    normals         float32 [H, W, 3], (0, 0, 0) = none
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances
from detectron2.structures.masks import polygons_to_bitmask
from torch import Tensor

from gppf_d2.data.mappers.classification import read_class
from gppf_d2.data.mappers.depth import read_depth, transform_depth
from gppf_d2.data.mappers.detection import check_annotations
from gppf_d2.data.mappers.normals import read_normals, transform_normals
from gppf_d2.data.mappers.pixel_sources import pixel_sources
from gppf_d2.data.mappers.semantic import IGNORE, read_labels
from gppf_d2.data.window_masks import Window, WindowMasks

if TYPE_CHECKING:
    from gppf_d2.data.mappers.multi_label import Label

Size = tuple[int, int]


class LabelKind(ABC):
    """One kind of label.

    Attributes:
        key: of the value in a sample.
        annotation: key of a record that has such annotations of its own.
        options: fields of ``Label`` that mean something to the kind.
    """

    key: str
    annotation: str
    options: tuple[str, ...] = ()

    @abstractmethod
    def own(self, record: dict[str, Any], label: Label) -> Any:
        """The value from the annotations of a record whose "height" and "width" are known.

        Raises:
            OSError: a file cannot be read.
            ValueError: annotations that cannot be right.
        """

    def stored(self, value: Any, label: Label) -> Any:
        """The value from a decoded pseudo label.

        Raises:
            ValueError: classes that are out of range.
        """
        return value

    @abstractmethod
    def moved(self, value: Any, transforms: T.Transform, size: Size, label: Label) -> Any:
        """What goes into a sample.

        Args:
            value: of ``own`` or ``stored``.
            transforms: what the augmentations did to the image.
            size: height and width of the result.
            label: the settings.
        """


class Classes(LabelKind):
    """Classes of whole images; no augmentation changes them."""

    key, annotation, options = "label", "label", ("num_classes",)

    def own(self, record: dict[str, Any], label: Label) -> int:
        return read_class(record, label.num_classes)

    def moved(
        self, value: int | np.ndarray, transforms: T.Transform, size: Size, label: Label
    ) -> int | Tensor:
        return value if isinstance(value, int) else torch.from_numpy(value)


class Objects(LabelKind):
    """Boxes and, where all objects of an image have one, masks."""

    key, annotation = "instances", "annotations"
    options = ("num_classes", "masks", "min_score")

    def own(self, record: dict[str, Any], label: Label) -> list[dict[str, Any]]:
        check_annotations(record, label.num_classes, mask_format=None)
        found = [one for one in record["annotations"] if not one.get("iscrowd", 0)]
        shape = [record["height"], record["width"]]
        for mask in (one.get("segmentation") for one in found if label.masks):
            if isinstance(mask, Mapping) and list(mask["size"]) != shape:
                raise ValueError(
                    f"'{record['file_name']}' has a mask of {mask['size'][1]} x "
                    f"{mask['size'][0]}, its image is {shape[1]} x {shape[0]}; correct the dataset"
                )
        return found

    def stored(self, value: Sequence[dict[str, Any]], label: Label) -> list[dict[str, Any]]:
        largest = max((annotation["category_id"] for annotation in value), default=0)
        if label.num_classes is not None and largest >= label.num_classes:
            raise ValueError(
                f"a pseudo label has the category {largest}, expected one below "
                f"{label.num_classes}; correct num_classes, or take other pseudo labels"
            )
        least = np.float32(label.min_score)  # as scores are stored
        return [annotation for annotation in value if annotation["score"] >= least]

    def moved(
        self,
        value: Sequence[Mapping[str, Any]],
        transforms: T.Transform,
        size: Size,
        label: Label,
    ) -> Instances:
        masked = label.masks and all(one.get("segmentation") for one in value)
        corners = [
            BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS) for one in value
        ]
        # of floats also where a file has whole numbers: transforms write into the array
        boxes = transforms.apply_box(np.array(corners, np.float64).reshape(-1, 4))
        moved = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": one["category_id"]}
            for one, box in zip(value, boxes.clip(0, [*size[::-1], *size[::-1]]))
        ]
        instances = detection_utils.annotations_to_instances(moved, size)
        if masked:
            windows = [_moved_mask(one["segmentation"], transforms, size) for one in value]
            instances.gt_masks = WindowMasks(windows, size)
        return detection_utils.filter_empty_instances(instances)


def _moved_mask(mask: Any, transforms: T.Transform, size: Size) -> Window:
    """A mask of the file, polygons or RLE, on the image as it is now."""
    if isinstance(mask, list):  # copied: transforms write into arrays
        polygons = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in mask]
        flat = [polygon.reshape(-1) for polygon in transforms.apply_polygons(polygons)]
        return Window(0, 0, polygons_to_bitmask(flat, *size))
    values = mask_util.decode(mask)
    sources = pixel_sources(transforms, values.shape)
    if sources is not None:
        return sources.window(Window(0, 0, values))
    # what is padded, with 255, is not in the mask; Detectron2's own way would have it there
    return Window(0, 0, transforms.apply_segmentation(values) == 1)


def _moved_classes(values: np.ndarray, transforms: T.Transform) -> np.ndarray:
    """A map of classes, uint8 [H, W], with 255 where a transform pads."""
    sources = pixel_sources(transforms, values.shape)
    if sources is not None:
        return sources.take(values, IGNORE)
    # what is padded is no class; Detectron2's rotations would make it class 0
    seen = transforms.apply_segmentation(np.ones_like(values)) == 1
    return np.where(seen, transforms.apply_segmentation(values), np.uint8(IGNORE))


class Segments(LabelKind):
    """A class for every pixel; what a transform pads is ignored."""

    key, annotation, options = "sem_seg", "sem_seg_file_name", ("num_classes",)

    def own(self, record: dict[str, Any], label: Label) -> np.ndarray:
        return read_labels(record, label.num_classes)

    def stored(self, value: np.ndarray, label: Label) -> np.ndarray:
        limit = IGNORE if label.num_classes is None else label.num_classes
        wrong = value[(value >= limit) & (value != IGNORE)]
        if wrong.size:
            raise ValueError(
                f"a pseudo label holds the class {wrong.max()}, expected 0 to {limit - 1} or "
                f"{IGNORE}; correct num_classes, or take other pseudo labels"
            )
        return value

    def moved(self, value: np.ndarray, transforms: T.Transform, size: Size, label: Label) -> Tensor:
        return torch.from_numpy(_moved_classes(value, transforms).astype(np.int64))


class Depth(LabelKind):
    """Metres."""

    key, annotation = "depth", "depth_file_name"

    def own(self, record: dict[str, Any], label: Label) -> np.ndarray:
        return read_depth(record)

    def stored(self, value: np.ndarray, label: Label) -> np.ndarray:
        return np.where(np.isfinite(value) & (value > 0), value, np.float32(0))

    def moved(self, value: np.ndarray, transforms: T.Transform, size: Size, label: Label) -> Tensor:
        return torch.from_numpy(transform_depth(transforms, value))


class InverseDepth(Depth):
    """Inverse depth up to a scale and a shift; of measured depth it is 1 / metres."""

    key = "inverse_depth"

    def own(self, record: dict[str, Any], label: Label) -> np.ndarray:
        depth = read_depth(record)
        return np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)

    def stored(self, value: np.ndarray, label: Label) -> np.ndarray:
        known = np.isfinite(value)
        if not known.any():
            return np.zeros_like(value)
        least, most = np.min(value[known]), np.max(value[known])
        # shifted into [span, 2 span]: far enough from 0, and no digit is lost
        span = most - least or np.float32(1)
        return np.where(known, value - least + span, np.float32(0))


class Normals(LabelKind):
    """Unit vectors."""

    key, annotation = "normals", "normals_file_name"

    def own(self, record: dict[str, Any], label: Label) -> np.ndarray:
        return read_normals(record)

    def moved(self, value: np.ndarray, transforms: T.Transform, size: Size, label: Label) -> Tensor:
        moved = transform_normals(transforms, value).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(moved))


KINDS: dict[str, LabelKind] = {
    "classes": Classes(),
    "instances": Objects(),
    "sem_seg": Segments(),
    "depth": Depth(),
    "inverse_depth": InverseDepth(),
    "normals": Normals(),
}
