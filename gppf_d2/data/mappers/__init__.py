"""From a record of the catalog to a sample of a head, one mapper per kind of task.

Every mapper takes keyword arguments, draws its randomness from the global generators of python,
numpy and torch alone (the loader seeds them per sample), and leaves the record untouched. A file
that cannot be read is an OSError with its name; an annotation that cannot be right is a ValueError.
"""

from gppf_d2.data.mappers.classification import ClassificationMapper
from gppf_d2.data.mappers.depth import DepthMapper
from gppf_d2.data.mappers.detection import DetectionMapper
from gppf_d2.data.mappers.large_scale_jitter import LargeScaleJitterMapper
from gppf_d2.data.mappers.multi_label import Label, MultiLabelMapper
from gppf_d2.data.mappers.normals import NormalsMapper
from gppf_d2.data.mappers.semantic import SemanticMapper
from gppf_d2.data.mappers.two_views import TwoViewsMapper

__all__ = [
    "ClassificationMapper",
    "DepthMapper",
    "DetectionMapper",
    "Label",
    "LargeScaleJitterMapper",
    "MultiLabelMapper",
    "NormalsMapper",
    "SemanticMapper",
    "TwoViewsMapper",
]
