"""Samples with large-scale jitter [Ghiasi et al., Simple Copy-Paste], the fast way.

The result is the one of Detectron2's ``DatasetMapper`` with the augmentations of its 100-epoch
baselines, ``ResizeScale``, ``FixedSizeCrop`` and ``RandomFlip``, and ``recompute_boxes``, from the
same draws of the same generator. What differs is the order of work: scale, window and flip are
known first, then only what lands on the canvas is resized, and polygons are moved before they are
rasterised, each in its own window. Masks stay windows (``WindowMasks``, which is a ``BitMasks``).

Deviations from the slow way, all where it is wrong: a mask given as RLE does not spill into the
padding (``FixedSizeCrop`` fills masks up with 255), polygons that cross themselves keep the area
that COCO's tools give them (``CropTransform`` drops a lobe or fills a hole), and images without
objects are negatives (``recompute_boxes`` fails on them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from gppf_d2.data.mappers.detection import check_annotations
from gppf_d2.data.mappers.large_scale_jitter_geometry import Jitter
from gppf_d2.data.mappers.reading import check_image_format, load_image
from gppf_d2.data.window_masks import Window, WindowMasks

RESIZES = ("cv2", "pil")


class LargeScaleJitterMapper:
    """Read an image and its objects, scale, crop or pad to a square, and flip.

    Crowds are left out, objects of which nothing is left in the square are dropped; boxes are taken
    from the masks where masks are used. A semantic map in the record is left alone.

    Args:
        is_train: True; evaluation does not jitter and has ``DetectionMapper``.
        size: side S of the square, in pixels.
        scale: range of the random factor: the image is fitted into a square of ``factor * size``.
        flip: probability of a horizontal flip.
        image_format: "RGB" or "BGR".
        use_instance_mask: whether the sample's instances carry masks; every object must have one.
        num_classes: number of classes K; categories are checked against it where it is given.
        resize: "pil" is Detectron2's way; "cv2" is faster where the image is enlarged (and PIL
            where it shrinks), at most one grey level off.

    Raises:
        ValueError: an argument that cannot be meant.
    """

    def __init__(
        self,
        is_train: bool = True,
        *,
        size: int = 1024,
        scale: tuple[float, float] = (0.1, 2.0),
        flip: float = 0.5,
        image_format: str = "RGB",
        use_instance_mask: bool = False,
        num_classes: int | None = None,
        resize: str = "cv2",
    ) -> None:
        if not is_train:
            raise ValueError(
                "is_train is False, but large-scale jitter is for training; evaluate with "
                "DetectionMapper and ResizeShortestEdge"
            )
        if size < 1:
            raise ValueError(f"size is {size}, expected a number of pixels from 1")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is {tuple(scale)}, expected two factors, 0 < least <= most")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is {flip}, expected a probability from 0 to 1")
        if resize not in RESIZES:
            raise ValueError(f"resize is {resize!r}; choose 'cv2' or 'pil'")
        self.size = size
        self.scale = (float(scale[0]), float(scale[1]))
        self.flip = flip
        self.image_format = check_image_format(image_format)
        self.use_instance_mask = use_instance_mask
        self.num_classes = num_classes
        self.resize = resize

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            record: Detectron2 record with "file_name" and "annotations".

        Returns:
            The record without its annotations, with "image" uint8 [3, S, S] and "instances" with
            gt_boxes, gt_classes and, if asked for, gt_masks.

        Raises:
            OSError: the image cannot be read.
            ValueError: no annotations, a category out of range, or an object without a mask.
        """
        check_annotations(record, self.num_classes, "bitmask" if self.use_instance_mask else None)
        sample = dict(record)
        objects = [a for a in sample.pop("annotations") if not a.get("iscrowd", 0)]
        image = load_image(sample)
        jitter = Jitter.draw((image.height, image.width), self.size, self.scale, self.flip)
        sample["image"] = jitter.image(image, self.resize, self.image_format == "BGR")
        sample["instances"] = self._instances(jitter, objects, sample["file_name"])
        return sample

    def _instances(
        self, jitter: Jitter, objects: Sequence[Mapping[str, Any]], file_name: str
    ) -> Instances:
        instances = Instances((self.size, self.size))
        instances.gt_classes = torch.tensor([int(a["category_id"]) for a in objects]).long()
        if self.use_instance_mask:
            windows = [_window(jitter, a["segmentation"], file_name) for a in objects]
            instances.gt_masks = WindowMasks(windows, (self.size, self.size))
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        else:
            boxes = np.array([_corners(a) for a in objects], dtype=np.float64).reshape(-1, 4)
            instances.gt_boxes = Boxes(torch.from_numpy(jitter.boxes(boxes)).float())
        return instances[instances.gt_boxes.nonempty(threshold=1e-5)]


def _window(jitter: Jitter, segmentation: Any, file_name: str) -> Window:
    """The mask of one object on the canvas."""
    if isinstance(segmentation, list):
        return jitter.polygons(segmentation)
    mask = mask_util.decode(segmentation)
    if mask.shape != jitter.source:
        raise ValueError(
            f"'{file_name}' has a mask of {mask.shape[1]} x {mask.shape[0]}, its image is "
            f"{jitter.source[1]} x {jitter.source[0]}; correct the dataset"
        )
    return jitter.bitmask(mask)


def _corners(annotation: Mapping[str, Any]) -> Sequence[float]:
    """The box of an annotation as x0 y0 x1 y1."""
    box, mode = annotation["bbox"], annotation["bbox_mode"]
    if mode == BoxMode.XYWH_ABS:
        return box[0], box[1], box[0] + box[2], box[1] + box[3]
    return BoxMode.convert(list(box), mode, BoxMode.XYXY_ABS)
