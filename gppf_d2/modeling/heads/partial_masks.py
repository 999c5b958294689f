"""Mask R-CNN's second stage for batches in which only some images have masks.

Pseudo boxes often come without masks and stand beside supervised masks (MuST, section 3.2). The
loss of masks is Detectron2's mean over the F foreground regions of the batch, where a region of an
image without masks counts with the loss zero:

    loss_mask = 1/F sum over the regions with a mask = (share of regions with a mask) * stock loss
"""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor


class PartlyMaskedROIHeads(StandardROIHeads):
    """Detectron2's StandardROIHeads, of the same arguments; targets may lack "gt_masks".

    With masks on all images, and in inference, nothing differs. Where no region has a mask the loss
    is a zero that all parameters of the mask head take part in, and its norms see nothing.
    """

    def _forward_mask(
        self, features: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        if not (self.training and self.mask_on):
            return super()._forward_mask(features, instances)
        found = [_foreground(image, self.num_classes) for image in instances]
        masked = sum(n for n, image in zip(found, instances) if image.has("gt_masks"))
        if not masked:
            return {"loss_mask": sum(0.0 * p.sum() for p in self.mask_head.parameters())}
        instances = [image if image.has("gt_masks") else image[:0] for image in instances]
        losses = super()._forward_mask(features, instances)
        return {name: loss * (masked / sum(found)) for name, loss in losses.items()}


def _foreground(image: Instances, num_classes: int) -> int:
    """Sampled regions that match an object."""
    classes = image.gt_classes
    return int(((classes >= 0) & (classes < num_classes)).sum())
