"""The five tasks of the miniature world (datasets/make_mini.py), of four kinds, with thin heads."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.catalog.mini import CLASSES, STUFF_CLASSES
from gppf_d2.data.mappers import (
    ClassificationMapper,
    DepthMapper,
    DetectionMapper,
    SemanticMapper,
)
from gppf_d2.tasks.spec import Task

from .evaluations import FORMAT, boxes, metres, miou, top1
from .heads import classification, depth, rcnn, semantic_fpn

SIZE = 112
CROP = 64


def _augment(low=0.8, high=1.25):
    """Flip, and a random scale around the size of the images."""
    return [
        L(T.ResizeShortestEdge)(
            short_edge_length=(int(SIZE * low), int(SIZE * high)),
            sample_style="range",
            max_size=2 * SIZE,
        ),
        L(T.RandomFlip)(horizontal=True),
    ]


def _detector(masks):
    return rcnn(
        num_classes=len(CLASSES),
        masks=masks,
        channels=64,
        fc_dims=(256, 256),
        anchor_sizes=(12, 24, 40, 64, 96),
        proposals=200,
        fpn_norm="BN",
    )


tasks = dict(
    objects=L(Task)(
        train="mini_objects_train",
        mapper=L(ClassificationMapper)(
            is_train=True, image_size=CROP, image_format=FORMAT, num_classes=len(CLASSES)
        ),
        batch_size=16,
        weight=1.0,
        head=classification(len(CLASSES), label_smoothing=0.1),
        evaluators=[top1("mini_objects_val", image_size=CROP)],
    ),
    scenes=L(Task)(
        train="mini_scenes_train",
        mapper=L(DetectionMapper)(
            is_train=True,
            augmentations=_augment(),
            image_format=FORMAT,
            use_instance_mask=True,
            num_classes=len(CLASSES),
        ),
        batch_size=4,
        weight=2.0,
        head=_detector(masks=True),
        evaluators=[boxes("mini_scenes_val", short=SIZE, longest=2 * SIZE)],
    ),
    boxes=L(Task)(
        train="mini_voc_train",
        mapper=L(DetectionMapper)(
            is_train=True, augmentations=_augment(), image_format=FORMAT, num_classes=len(CLASSES)
        ),
        batch_size=4,
        weight=2.0,
        head=_detector(masks=False),
        evaluators=[boxes("mini_voc_val", masks=False, short=SIZE, longest=2 * SIZE)],
    ),
    parsing=L(Task)(
        train="mini_parsing_train",
        mapper=L(SemanticMapper)(
            is_train=True,
            augmentations=_augment(),
            image_format=FORMAT,
            num_classes=len(STUFF_CLASSES),
        ),
        batch_size=4,
        weight=1.0,
        head=semantic_fpn(len(STUFF_CLASSES), channels=64, conv_dims=64),
        evaluators=[miou("mini_parsing_val", short=SIZE, longest=2 * SIZE)],
    ),
    depth=L(Task)(
        train="mini_depth_train",
        mapper=L(DepthMapper)(is_train=True, augmentations=_augment(1.0, 1.0), image_format=FORMAT),
        batch_size=4,
        weight=1.0,
        loss_weight=0.1,  # as in the paper's depth finetuning (D.2)
        head=depth(max_depth=20.0, min_depth=0.5, channels=64),
        evaluators=[metres("mini_depth_val", short=SIZE, longest=2 * SIZE)],
    ),
)
