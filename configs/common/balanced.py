"""The class-balanced loss in the place of a detector's own, for any R-CNN of these configs."""

from detectron2.config import LazyCall as L

from gppf_d2.data.class_counts import ClassCounts
from gppf_d2.modeling.heads import ClassBalancedOutputLayers


def balance_classes(task, beta):
    """Balance the classes of a task's box predictors, which keep their weights' names.

    The counts are those of the training set, read when training begins.
    """
    roi = task.head.roi_heads
    for predictor in roi.box_predictors if "box_predictors" in roi else [roi.box_predictor]:
        predictor._target_ = ClassBalancedOutputLayers
        predictor.class_counts = L(ClassCounts)(datasets=task.train)
        predictor.beta = beta
