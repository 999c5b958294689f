"""Evaluations of the four kinds of task: dataset, evaluator and mapper together."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.mappers import (
    ClassificationMapper,
    DepthMapper,
    DetectionMapper,
    NormalsMapper,
    SemanticMapper,
)
from gppf_d2.evaluation import (
    ClassificationEvaluator,
    DepthEvaluator,
    DetectionEvaluator,
    LVISEvaluator,
    NormalsEvaluator,
    OpenImagesEvaluator,
    SemanticEvaluator,
    VOCEvaluator,
)
from gppf_d2.modeling.tta import SemanticTTA

FORMAT = "${input.pixel_format}"


def resize(short, longest):
    """The test-time resize of detection and pixel tasks."""
    return [L(T.ResizeShortestEdge)(short_edge_length=short, max_size=longest)]


def top1(dataset, image_size=224):
    return dict(
        dataset=dataset,
        evaluator=L(ClassificationEvaluator)(dataset_name=dataset),
        mapper=L(ClassificationMapper)(is_train=False, image_size=image_size, image_format=FORMAT),
    )


def _detection(dataset, evaluator, short, longest, **arguments):
    return dict(
        dataset=dataset,
        evaluator=L(evaluator)(dataset_name=dataset, **arguments),
        mapper=L(DetectionMapper)(
            is_train=False, augmentations=resize(short, longest), image_format=FORMAT
        ),
    )


def boxes(dataset, masks=True, short=800, longest=1333):
    """COCO's average precision."""
    kinds = ["bbox", "segm"] if masks else ["bbox"]
    return _detection(dataset, DetectionEvaluator, short, longest, tasks=kinds)


def lvis(dataset, short=800, longest=1333):
    """LVIS' average precision of boxes and masks, by frequency too."""
    return _detection(dataset, LVISEvaluator, short, longest, tasks=["bbox", "segm"])


def open_images(dataset, short=800, longest=1333):
    """AP50 of the Open Images challenge; its boxes for training name the most specific class."""
    return _detection(dataset, OpenImagesEvaluator, short, longest, expand_predictions=True)


def voc_ap50(dataset, short=800, longest=1333):
    """AP50 of boxes as in VOC 2012."""
    return _detection(dataset, VOCEvaluator, short, longest)


def miou(dataset, short=512, longest=2048, boundary=False, tta=None):
    """Mean IoU and its kin; ``tta=multi_scale()`` averages over scales and flips."""
    return dict(
        dataset=dataset,
        evaluator=L(SemanticEvaluator)(dataset_name=dataset, boundary=boundary),
        mapper=L(SemanticMapper)(
            is_train=False, augmentations=resize(short, longest), image_format=FORMAT
        ),
        tta=tta,
    )


def multi_scale():
    """MMSegmentation's test-time augmentation."""
    return L(SemanticTTA)(scales=[0.5, 0.75, 1.0, 1.25, 1.5, 1.75], flip=True)


def metres(dataset, short=352, longest=1216):
    return dict(
        dataset=dataset,
        evaluator=L(DepthEvaluator)(dataset_name=dataset),
        mapper=L(DepthMapper)(
            is_train=False, augmentations=resize(short, longest), image_format=FORMAT
        ),
    )


def angles(dataset, short=352, longest=1216):
    """Angles between normals, in degrees, and the shares within 11.25, 22.5 and 30."""
    return dict(
        dataset=dataset,
        evaluator=L(NormalsEvaluator)(),
        mapper=L(NormalsMapper)(
            is_train=False, augmentations=resize(short, longest), image_format=FORMAT
        ),
    )
