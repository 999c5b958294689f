"""Heads of our own, and the rules every head has to keep, stock ones included."""

from gppf_d2.modeling.heads.bts import BTSHead
from gppf_d2.modeling.heads.class_balanced import ClassBalancedOutputLayers
from gppf_d2.modeling.heads.classification import ClassificationHead
from gppf_d2.modeling.heads.contrastive import ContrastiveHead
from gppf_d2.modeling.heads.depth import DepthHead
from gppf_d2.modeling.heads.label_weights import scaling_rule
from gppf_d2.modeling.heads.multi_label import MultiLabelHead
from gppf_d2.modeling.heads.normals import NormalsHead
from gppf_d2.modeling.heads.partial_masks import PartlyMaskedROIHeads
from gppf_d2.modeling.heads.relative_depth import RelativeDepthHead
from gppf_d2.modeling.heads.rules import check_input_format, prediction_layers, replace_sync_norms
from gppf_d2.modeling.heads.semantic import SemanticHead
from gppf_d2.modeling.heads.trunk import StagePyramid, TrunkView
from gppf_d2.modeling.heads.upernet import UperNetHead

__all__ = [
    "BTSHead",
    "ClassBalancedOutputLayers",
    "ClassificationHead",
    "ContrastiveHead",
    "DepthHead",
    "MultiLabelHead",
    "NormalsHead",
    "PartlyMaskedROIHeads",
    "RelativeDepthHead",
    "SemanticHead",
    "StagePyramid",
    "TrunkView",
    "UperNetHead",
    "check_input_format",
    "prediction_layers",
    "replace_sync_norms",
    "scaling_rule",
]
