"""Simple Copy-Paste [Ghiasi et al., CVPR 2021] on a batch: objects of one image onto another.

For every sample a partner is drawn among the other samples of its batch, and a random subset of the
partner's objects is pasted where they are, over whatever is there. The objects below lose the
pixels that are covered; boxes are taken from the masks afterwards. Both images are to be jittered
and flipped before (``LargeScaleJitterMapper``), which is where the variety comes from; edges are
not blended, which the paper found to make no difference.

Our choices where the paper says nothing: the partner comes from the batch, so that no second image
is read and the batch stays a function of its positions (a batch of one stays as it is); every
subset is equally likely; every sample pastes its partner's objects as they were before the batch
was mixed; and of what is partly covered, small remains are dropped too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BitMasks, Instances

from gppf_d2.data.window_masks import Window, WindowMasks


class CopyPaste:
    """Paste objects between the samples of a batch, as a task's ``batch_transform``.

    Draws from numpy's global generator, which the loader seeds for each batch.

    Args:
        probability: share of the samples onto which objects are pasted.
        min_visible: an object that loses pixels is dropped with less than this share left.
        min_area: and with fewer than this many pixels left; untouched objects may be smaller.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, probability: float = 1.0, *, min_visible: float = 0.1, min_area: int = 64
    ) -> None:
        for name, value in (("probability", probability), ("min_visible", min_visible)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected a number from 0 to 1")
        if min_area < 0:
            raise ValueError(f"min_area is {min_area}, expected a number of pixels from 0")
        self.probability = probability
        self.min_visible = min_visible
        # without a pixel there is no object
        self.min_area = max(min_area, 1)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Mix a batch.

        Args:
            samples: with "image" uint8 [3, H, W], all of one size, and "instances" with gt_boxes
                and gt_masks as bit masks.

        Returns:
            As many samples in the same order; what was given is not changed.

        Raises:
            ValueError: images of different sizes, or instances without bit masks.
        """
        if len(samples) < 2:
            return list(samples)
        _check(samples)
        mixed = []
        for place, sample in enumerate(samples):
            other = np.random.randint(len(samples) - 1)
            partner = samples[other + (other >= place)]
            chosen = np.flatnonzero(np.random.uniform(size=len(partner["instances"])) < 0.5)
            if np.random.uniform() < self.probability and len(chosen):
                sample = self.paste(sample, partner, chosen)
            mixed.append(sample)
        return mixed

    def paste(
        self, sample: Mapping[str, Any], partner: Mapping[str, Any], chosen: Sequence[int]
    ) -> dict[str, Any]:
        """Paste some objects of one sample onto another.

        Args:
            sample: what is pasted onto.
            partner: what is pasted from.
            chosen: indices of the partner's instances.

        Returns:
            ``sample`` with a new image and new instances: what remains of its own, then the pasted.
        """
        image = sample["image"].clone()
        target, source = image.numpy(), partner["image"].numpy()
        covered = np.zeros(target.shape[1:], dtype=np.uint8)
        pasted = partner["instances"][np.asarray(chosen)]
        for window in WindowMasks.from_bitmasks(pasted.gt_masks).windows():
            mask, region = window.mask.view(np.uint8), window.region
            cv2.bitwise_or(covered[region], mask, covered[region])
            for plane, pixels in zip(target, source):
                cv2.copyTo(pixels[region], mask, plane[region])
        instances = Instances.cat([self._remaining(sample["instances"], covered), pasted])
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return {**sample, "image": image, "instances": instances}

    def _remaining(self, instances: Instances, covered: np.ndarray) -> Instances:
        """The instances without the covered pixels (1 in [H, W]) and without small remains."""
        keep, windows = [], []
        for index, window in enumerate(WindowMasks.from_bitmasks(instances.gt_masks).windows()):
            mask, above = window.mask.view(np.uint8), covered[window.region]
            visible = cv2.bitwise_and(mask, cv2.bitwise_not(above)) if mask.size else mask
            before, after = cv2.countNonZero(mask), cv2.countNonZero(visible)
            if after < before and after < max(self.min_area, self.min_visible * before):
                continue
            keep.append(index)
            windows.append(Window(window.x, window.y, visible))
        remaining = instances[np.asarray(keep, dtype=np.int64)]
        remaining.gt_masks = WindowMasks(windows, instances.image_size)
        return remaining


def _check(samples: Sequence[Mapping[str, Any]]) -> None:
    sizes = {tuple(sample["image"].shape[1:]) for sample in samples}
    if len(sizes) > 1:
        raise ValueError(
            f"CopyPaste got images of the sizes {sorted(sizes)} (height, width) in one batch; give "
            "the task LargeScaleJitterMapper, whose images are all of one size"
        )
    for sample in samples:
        instances = sample["instances"]
        if not (instances.has("gt_masks") and isinstance(instances.gt_masks, BitMasks)):
            raise ValueError(
                f"CopyPaste got '{sample.get('file_name')}' without bit masks; give the task's "
                "mapper use_instance_mask=True and bit masks"
            )
