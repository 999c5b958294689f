"""MuST on small real datasets: labels, where they come from, and the network of Figure 3, thin.

The teacher is the lego run of configs/real/pack_r18.py: four of its tasks label other sets' images.
"""

from .evaluations import boxes, metres, miou, top1
from .must import boxes as boxes_head
from .must import classes as classes_head
from .must import depth as depth_head
from .must import labelled, of_label
from .must import segments as segments_head
from .must import student as network_with
from .pack import LONGEST, SHORT

CHANNELS, SIZE = 64, 160
# label -> dataset that has it, kind, number of classes
SUPERVISED = dict(
    classes=("cifar10_images_train", "classes", 10),
    cells=("nuclei_train", "instances", 1),
    segments=("camvid_train", "sem_seg", 11),
    depth=("seven_scenes_train", "depth", None),
)


def head(label):
    """The head of a label."""
    if label == "classes":
        return classes_head(10)
    if label == "cells":
        return boxes_head(
            1, masks=True, channels=CHANNELS, fc_dim=256, proposals=200, samples=64,
            anchor_sizes=(12, 24, 40, 64, 96),
        )  # fmt: skip
    if label == "segments":
        return segments_head(11, channels=CHANNELS)
    return depth_head(10.0, 0.3, channels=CHANNELS)


def network(labels):
    """The trunk with the heads of some labels; depth weighs a tenth, as in its teacher."""
    weights = dict(depth=0.1) if "depth" in labels else {}
    return network_with({label: head(label) for label in labels}, weights, channels=CHANNELS)


def mapper(labels, pseudo=True):
    """Images of 160 pixels with their labels."""
    sources = {}
    for label in labels:
        dataset, kind, count = SUPERVISED[label]
        sources[label] = dict(
            kind=kind,
            supervised=[dataset],
            pseudo=pseudo,
            num_classes=count,
            masks=kind == "instances",
        )
    return labelled(sources, size=SIZE, scale=(0.75, 1.5))


def evaluations(labels):
    """The held-out split of each label's own dataset."""
    found = dict(
        classes=top1("cifar10_images_test", image_size=140),
        cells=boxes("nuclei_val", short=SHORT, longest=LONGEST),
        segments=miou("camvid_val", short=SHORT, longest=LONGEST),
        depth=metres("seven_scenes_val", short=SHORT, longest=LONGEST),
    )
    return [of_label(label, found[label]) for label in labels]
