"""Heads of our own, and the rules every head has to keep, stock ones included."""

from gppf_d2.modeling.heads.bts import BTSHead
from gppf_d2.modeling.heads.class_balanced import ClassBalancedOutputLayers
from gppf_d2.modeling.heads.classification import ClassificationHead
from gppf_d2.modeling.heads.contrastive import ContrastiveHead
from gppf_d2.modeling.heads.depth import DepthHead
from gppf_d2.modeling.heads.normals import NormalsHead
from gppf_d2.modeling.heads.rules import check_input_format, prediction_layers, replace_sync_norms
from gppf_d2.modeling.heads.upernet import UperNetHead

__all__ = [
    "BTSHead",
    "ClassBalancedOutputLayers",
    "ClassificationHead",
    "ContrastiveHead",
    "DepthHead",
    "NormalsHead",
    "UperNetHead",
    "check_input_format",
    "prediction_layers",
    "replace_sync_norms",
]
