"""Heads of the kinds of task, around a view of the shared backbone.

Detection is Detectron2's own meta-architectures, unmodified, and so is the segmentor around
UperNet. Sizes are arguments, so that the quick configs are the same heads, only thinner.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone import FPN
from detectron2.modeling.meta_arch.semantic_seg import SemanticSegmentor, SemSegFPNHead

from gppf_d2.modeling.heads import (
    BTSHead,
    ClassificationHead,
    ContrastiveHead,
    DepthHead,
    NormalsHead,
    UperNetHead,
)
from gppf_d2.modeling.view import SharedBackbone

STAGES = ("res2", "res3", "res4", "res5")
PIXELS = dict(pixel_mean="${input.pixel_mean}", pixel_std="${input.pixel_std}")


def classification(num_classes, label_smoothing=0.1, stages=STAGES):
    """A linear layer on the pooled last feature (paper, section 4.1)."""
    return L(ClassificationHead)(
        backbone=L(SharedBackbone)(out_features=[stages[-1]]),
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        **PIXELS,
    )


def contrastive(stages=STAGES):
    """SimCLR's projection of the pooled last feature: a task without labels."""
    return L(ContrastiveHead)(backbone=L(SharedBackbone)(out_features=[stages[-1]]), **PIXELS)


def _fpn(channels, stages=STAGES, **arguments):
    return L(FPN)(
        bottom_up=L(SharedBackbone)(out_features=list(stages)),
        in_features=list(stages),
        out_channels=channels,
        **arguments,
    )


def rcnn(
    num_classes,
    masks=True,
    cascade=False,
    channels=256,
    box_convs=0,
    fc_dims=(1024, 1024),
    rpn_convs=1,
    fpn_norm="",
    head_norm="",
    anchor_sizes=(32, 64, 128, 256, 512),
    proposals=1000,
    score_threshold=0.05,
    detections=100,
    stages=STAGES,
):
    """Faster, Mask or Cascade R-CNN with FPN; one anchor size per level, strides 4 to 64.

    ``box_convs`` convolutions stand before the ``fc_dims`` of every box head; ``head_norm`` follows
    the convolutions of box heads and mask head.
    """
    name = "cascade_rcnn" if cascade else "mask_rcnn_fpn"
    model = get_config(f"common/models/{name}.py").model
    model.backbone.bottom_up = L(SharedBackbone)(out_features=list(stages))
    model.backbone.in_features = list(stages)
    model.backbone.out_channels = channels
    model.backbone.norm = fpn_norm
    rpn = model.proposal_generator
    rpn.head.in_channels = channels
    rpn.head.conv_dims = [-1] * rpn_convs
    rpn.anchor_generator.sizes = [[size] for size in anchor_sizes]
    rpn.pre_nms_topk = (2 * proposals, proposals)
    rpn.post_nms_topk = (proposals, proposals)
    roi = model.roi_heads
    roi.num_classes = num_classes
    for head in roi.box_heads if cascade else [roi.box_head]:
        head.input_shape = ShapeSpec(channels=channels, height=7, width=7)
        head.conv_dims = [channels] * box_convs
        head.fc_dims = list(fc_dims)
        head.conv_norm = head_norm
    for predictor in roi.box_predictors if cascade else [roi.box_predictor]:
        predictor.input_shape = ShapeSpec(channels=fc_dims[-1])
        predictor.test_score_thresh = score_threshold
        predictor.test_topk_per_image = detections
    if masks:
        roi.mask_head.input_shape = ShapeSpec(channels=channels, width=14, height=14)
        roi.mask_head.conv_dims = [channels] * 5
        roi.mask_head.conv_norm = head_norm
    else:
        for key in ("mask_in_features", "mask_pooler", "mask_head"):
            del roi[key]
    model.input_format = "${input.pixel_format}"
    model.update(PIXELS)
    return model


def baseline_rcnn(num_classes, masks=False, many=False, **arguments):
    """R-CNN with the heads of the 100-epoch LSJ baseline [29]: 2 conv RPN, 4 conv + 1 fc box heads.

    ``many`` classes: detections from a score of 0.0001 on, 300 an image.
    """
    return rcnn(
        num_classes=num_classes,
        masks=masks,
        box_convs=4,
        fc_dims=(1024,),
        rpn_convs=2,
        fpn_norm="BN",
        head_norm="BN",
        score_threshold=1e-4 if many else 0.05,
        detections=300 if many else 100,
        **arguments,
    )


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


def upernet(
    num_classes,
    stages=STAGES,
    widths=(256, 512, 1024, 2048),
    channels=512,
    auxiliary_channels=256,
):
    """UperNet with an auxiliary FCN head on the last stage but one (paper, D.1).

    ``widths`` are the channels of the stages.
    """
    shapes = {
        stage: ShapeSpec(channels=width, stride=4 * 2**level)
        for level, (stage, width) in enumerate(zip(stages, widths))
    }
    return L(SemanticSegmentor)(
        backbone=L(SharedBackbone)(out_features=list(stages)),
        sem_seg_head=L(UperNetHead)(
            input_shape=shapes,
            num_classes=num_classes,
            channels=channels,
            auxiliary_feature=stages[-2],
            auxiliary_channels=auxiliary_channels,
            auxiliary_weight=0.4,
            ignore_value=255,
        ),
        **PIXELS,
    )


def depth(max_depth, min_depth=1e-3, channels=128):
    """A small pixel head on all stages; predicts metres."""
    return L(DepthHead)(
        backbone=L(SharedBackbone)(out_features=list(STAGES)),
        depth_range=(min_depth, max_depth),
        channels=channels,
        **PIXELS,
    )


def bts(max_depth, min_depth=1e-3, focal_reference=None, channels=512, detail_channels=64):
    """BTS' decoder on all stages, with local planar guidance (paper, section 4.3.1)."""
    return L(BTSHead)(
        backbone=L(SharedBackbone)(out_features=list(STAGES)),
        max_depth=max_depth,
        min_depth=min_depth,
        focal_reference=focal_reference,
        channels=channels,
        detail_channels=detail_channels,
        **PIXELS,
    )


def normals(channels=128):
    """A small pixel head on all stages; predicts unit vectors."""
    return L(NormalsHead)(
        backbone=L(SharedBackbone)(out_features=list(STAGES)), channels=channels, **PIXELS
    )
