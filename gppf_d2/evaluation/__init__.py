"""What a task's predictions are worth, one evaluator per kind of task.

All are Detectron2 ``DatasetEvaluator``s: they compare outputs with the ground truth that the
samples carry (detection: that of the catalog), keep sums where they can and predictions on disk
where they cannot, and ``evaluate()`` gathers over all ranks. It is collective: all ranks must call
it; rank 0 gets ``{kind: {metric: value}}``, the others None. A metric without any ground truth is
NaN.
"""

from gppf_d2.evaluation.classification import ClassificationEvaluator
from gppf_d2.evaluation.depth import DepthEvaluator
from gppf_d2.evaluation.detection import DetectionEvaluator
from gppf_d2.evaluation.lvis import LVISEvaluator
from gppf_d2.evaluation.nearest_neighbour import NearestNeighbourEvaluator
from gppf_d2.evaluation.normals import NormalsEvaluator
from gppf_d2.evaluation.open_images import OpenImagesEvaluator
from gppf_d2.evaluation.semantic import SemanticEvaluator
from gppf_d2.evaluation.voc import VOCEvaluator

__all__ = [
    "ClassificationEvaluator",
    "DepthEvaluator",
    "DetectionEvaluator",
    "LVISEvaluator",
    "NearestNeighbourEvaluator",
    "NormalsEvaluator",
    "OpenImagesEvaluator",
    "SemanticEvaluator",
    "VOCEvaluator",
]
