"""Samples for detection and instance segmentation: Detectron2's ``DatasetMapper`` with checks.

What it adds: damaged images are found and named, categories and masks are checked before they
reach a loss, images without objects keep the fields of images with objects, and a semantic map in
the record (panoptic training) is read as ``semantic`` reads it. What remains is Detectron2's:
crowds are left out, instances without area after the augmentation are dropped, images that are left
with none stay as negatives. Keypoints and precomputed proposals are for Detectron2's own mapper.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, PolygonMasks

from gppf_d2.data.mappers.reading import check_image_format, read_image
from gppf_d2.data.mappers.semantic import read_labels


def check_annotations(
    record: Mapping[str, Any], num_classes: int | None, mask_format: str | None
) -> None:
    """Refuse a record whose annotations cannot be trained on.

    Args:
        record: Detectron2 record.
        num_classes: number of classes K; categories are checked against it where it is given.
        mask_format: "bitmask" or "polygon" where every object but crowds needs such a mask, None
            where masks are not used.

    Raises:
        ValueError: no annotations, a category out of range, or an object without the kind of mask
            that is asked for.
    """
    file_name = record["file_name"]
    if "annotations" not in record:
        raise ValueError(
            f"'{file_name}' has no 'annotations' in its record; training on "
            "detection needs them, as an empty list for an image without objects"
        )
    for annotation in record["annotations"]:
        category = annotation["category_id"]
        if category < 0 or (num_classes is not None and category >= num_classes):
            limit = "" if num_classes is None else f" and below {num_classes}"
            raise ValueError(
                f"'{file_name}' has an object of category {category}, expected 0 or more{limit}; "
                "correct the dataset or the task's number of classes"
            )
        if mask_format is None or annotation.get("iscrowd", 0):
            continue
        mask = annotation.get("segmentation")
        if not mask:
            raise ValueError(
                f"'{file_name}' has an object of category {category} without a mask; set "
                "use_instance_mask=False or leave the object out"
            )
        if mask_format == "polygon" and not isinstance(mask, list):
            raise ValueError(
                f"'{file_name}' has an object of category {category} with a bitmap mask; set "
                "instance_mask_format='bitmask'"
            )


class DetectionMapper(DatasetMapper):
    """Read an image and its objects and augment both alike.

    Args:
        is_train: training or evaluation; in evaluation annotations are dropped.
        augmentations: Detectron2 augmentations.
        image_format: "RGB" or "BGR".
        use_instance_mask: whether the sample's instances carry masks; every object must have one.
        instance_mask_format: "bitmask" takes polygons and RLE, "polygon" takes polygons only.
        num_classes: number of classes K; categories are checked against it where it is given.
        recompute_boxes: take the boxes from the masks after the augmentation, for crops.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        use_instance_mask: bool = False,
        instance_mask_format: str = "bitmask",
        recompute_boxes: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=check_image_format(image_format),
            use_instance_mask=use_instance_mask,
            instance_mask_format=instance_mask_format,
            recompute_boxes=recompute_boxes,
        )
        if instance_mask_format not in ("bitmask", "polygon"):
            raise ValueError(
                f"instance_mask_format is '{instance_mask_format}'; choose 'bitmask' or 'polygon'"
            )
        self.num_classes = num_classes

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Args:
            dataset_dict: Detectron2 record with "file_name" and, in training, "annotations".

        Returns:
            The record with "image" uint8 [3, H', W'] and, in training, "instances" with gt_boxes,
            gt_classes and, if asked for, gt_masks.

        Raises:
            OSError: the image cannot be read.
            ValueError: no annotations in training, a category out of range, or an object without
                the kind of mask that is asked for.
        """
        if self.is_train:
            mask_format = self.instance_mask_format if self.use_instance_mask else None
            check_annotations(dataset_dict, self.num_classes, mask_format)
        sample = copy.deepcopy(dataset_dict)
        image = read_image(sample, self.image_format)
        augmented = T.AugInput(image)
        if "sem_seg_file_name" in sample:
            augmented.sem_seg = read_labels(sample)
        transforms = self.augmentations(augmented)
        image = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        sample["image"] = torch.as_tensor(image)
        if augmented.sem_seg is not None:
            sample["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype(np.int64))
        if self.is_train:
            self._transform_annotations(sample, transforms, augmented.image.shape[:2])
        else:
            sample.pop("annotations", None)
        return sample

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        instances = dataset_dict["instances"]
        if self.use_instance_mask and not instances.has("gt_masks"):
            assert len(instances) == 0, "objects without masks are refused before"
            instances.gt_masks = (
                PolygonMasks([])
                if self.instance_mask_format == "polygon"
                else BitMasks(torch.zeros((0, *image_shape), dtype=torch.bool))
            )
