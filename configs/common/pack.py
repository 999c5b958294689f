"""Tasks on the small real datasets: augmentation, and a thin detector with its data."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.mappers import DetectionMapper
from gppf_d2.tasks.spec import Task

from .evaluations import FORMAT, boxes
from .heads import rcnn

SHORT, LONGEST = 160, 256


def augment(low, high, longest=LONGEST):
    """A random shorter side, and flip."""
    return [
        L(T.ResizeShortestEdge)(
            short_edge_length=(low, high), sample_style="range", max_size=longest
        ),
        L(T.RandomFlip)(horizontal=True),
    ]


def detection(train, test, num_classes, masks, weight=1.0, anchors=(16, 32, 64, 128, 256)):
    """Faster or Mask R-CNN of 64 channels on images of 144 to 192 pixels."""
    return L(Task)(
        train=train,
        mapper=L(DetectionMapper)(
            is_train=True,
            augmentations=augment(144, 192),
            image_format=FORMAT,
            use_instance_mask=masks,
            num_classes=num_classes,
        ),
        batch_size=4,
        weight=weight,
        head=rcnn(
            num_classes,
            masks,
            channels=64,
            fc_dims=(256, 256),
            proposals=200,
            anchor_sizes=anchors,
            fpn_norm="BN",
        ),
        evaluators=[boxes(test, masks=masks, short=SHORT, longest=LONGEST)],
    )
