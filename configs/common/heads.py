"""Heads of the four kinds of task, around a view of the shared backbone.

Detection and semantic segmentation are Detectron2's own meta-architectures, unmodified. Sizes are
arguments, so that the quick configs are the same heads, only thinner.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import FPN
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor, SemSegFPNHead

from gppf_d2.modeling.heads import ClassificationHead, DepthHead
from gppf_d2.modeling.view import SharedBackbone

STAGES = ["res2", "res3", "res4", "res5"]
PIXELS = dict(pixel_mean="${input.pixel_mean}", pixel_std="${input.pixel_std}")


def classification(num_classes, label_smoothing=0.1):
    """A linear layer on the pooled last feature (paper, section 4.1)."""
    return L(ClassificationHead)(
        backbone=L(SharedBackbone)(out_features=["res5"]),
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        **PIXELS,
    )


def _fpn(channels, **arguments):
    return L(FPN)(
        bottom_up=L(SharedBackbone)(out_features=STAGES),
        in_features=STAGES,
        out_channels=channels,
        **arguments,
    )


def mask_rcnn(
    num_classes,
    masks=True,
    channels=256,
    fc_dim=1024,
    anchor_sizes=(32, 64, 128, 256, 512),
    proposals=1000,
    fpn_norm="",
):
    """Mask R-CNN (or Faster R-CNN) with FPN; one anchor size per level, strides 4 to 64."""
    model = get_config("common/models/mask_rcnn_fpn.py").model
    model.backbone.bottom_up = L(SharedBackbone)(out_features=STAGES)
    model.backbone.in_features = STAGES
    model.backbone.out_channels = channels
    model.backbone.norm = fpn_norm
    model.proposal_generator.head.in_channels = channels
    model.proposal_generator.anchor_generator.sizes = [[size] for size in anchor_sizes]
    model.proposal_generator.pre_nms_topk = (2 * proposals, proposals)
    model.proposal_generator.post_nms_topk = (proposals, proposals)
    roi = model.roi_heads
    roi.num_classes = num_classes
    roi.box_head.input_shape = ShapeSpec(channels=channels, height=7, width=7)
    roi.box_head.fc_dims = [fc_dim, fc_dim]
    roi.box_predictor.input_shape = ShapeSpec(channels=fc_dim)
    if masks:
        roi.mask_head.input_shape = ShapeSpec(channels=channels, width=14, height=14)
        roi.mask_head.conv_dims = [channels] * 5
    else:
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            del roi[key]
    model.input_format = "${input.pixel_format}"
    model.update(PIXELS)
    return model


def semantic_fpn(num_classes, channels=256, conv_dims=128):
    """Detectron2's semantic FPN."""
    return L(SemanticSegmentor)(
        backbone=_fpn(channels),
        sem_seg_head=L(SemSegFPNHead)(
            input_shape={
                f"p{level}": ShapeSpec(stride=2**level, channels=channels) for level in range(2, 6)
            },
            num_classes=num_classes,
            conv_dims=conv_dims,
            common_stride=4,
            loss_weight=1.0,
            norm="GN",
            ignore_value=255,
        ),
        **PIXELS,
    )


def depth(max_depth, min_depth=1e-3, channels=128):
    """A small pixel head on all stages; predicts metres."""
    return L(DepthHead)(
        backbone=L(SharedBackbone)(out_features=STAGES),
        depth_range=(min_depth, max_depth),
        channels=channels,
        **PIXELS,
    )
