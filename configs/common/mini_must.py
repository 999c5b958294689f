"""MuST on the miniature world: the network of Figure 3, thin, and its four labels.

Each label is taught by another dataset: crops (classes), COCO-like scenes (boxes and masks),
ADE20K-like ones (segments) and KITTI-like drives (depth).
"""

from gppf_d2.data.catalog.mini import CLASSES, DEPTH_RANGE, STUFF_CLASSES

from .evaluations import angles, boxes, metres, miou, top1
from .must import boxes as boxes_head
from .must import classes as classes_head
from .must import depth as depth_head
from .must import labelled, of_label
from .must import segments as segments_head
from .must import student as network_with

CHANNELS, SIZE, LONGEST = 64, 112, 224
SUPERVISED = dict(
    classes="mini_objects_train",
    boxes="mini_scenes_train",
    segments="mini_parsing_train",
    depth="mini_depth_train",
)
KINDS = dict(classes="classes", boxes="instances", segments="sem_seg", depth="depth")
COUNTS = dict(classes=len(CLASSES), boxes=len(CLASSES), segments=len(STUFF_CLASSES))


def head(label):
    """The head of a label."""
    if label == "classes":
        return classes_head(len(CLASSES))
    if label == "boxes":
        return detector(masks=True)
    if label == "segments":
        return segments_head(len(STUFF_CLASSES), channels=CHANNELS)
    return depth_head(DEPTH_RANGE[1], DEPTH_RANGE[0], channels=CHANNELS)


def detector(masks):
    """Mask or Faster R-CNN of the miniature world."""
    return boxes_head(
        len(CLASSES),
        masks=masks,
        channels=CHANNELS,
        fc_dim=256,
        anchor_sizes=(12, 24, 40, 64, 96),
        proposals=200,
        samples=64,
    )


def network(heads, **weighting):
    """The trunk with some label heads."""
    return network_with(heads, channels=CHANNELS, **weighting)


def source(label, supervised=True, pseudo=True):
    """Where a label comes from: its own dataset, pseudo labels, or both."""
    return dict(
        kind=KINDS[label],
        supervised=[SUPERVISED[label]] if supervised else [],
        pseudo=pseudo,
        num_classes=COUNTS.get(label),
        masks=label == "boxes",
    )


def mapper(labels):
    """Images with labels, 128 pixels."""
    return labelled(labels, size=128, scale=(0.75, 1.5))


def evaluation(label):
    """The validation set of a label's own dataset."""
    if label == "classes":
        found = top1("mini_objects_val", image_size=112)
    elif label == "boxes":
        found = boxes("mini_scenes_val", short=SIZE, longest=LONGEST)
    elif label == "segments":
        found = miou("mini_parsing_val", short=SIZE, longest=LONGEST)
    else:
        found = metres("mini_depth_val", short=SIZE, longest=LONGEST)
    return of_label(label, found)


def normals_val():
    """The validation set of the kind of label that no teacher has."""
    return angles("mini_normals_val", short=SIZE, longest=LONGEST)
