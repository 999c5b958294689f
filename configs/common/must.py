"""MuST's network (Figure 3, section 3.2): one ResNet-FPN trunk, a head for every label.

C5 serves classification, P3 to P7 detection, and P3 to P7, rescaled and summed at stride 4, every
label of pixels. Teachers, students and transfer use the same network: it has one head or several.

    tasks = dict(student=L(Task)(head=student(heads=dict(classes=classes(1000), boxes=boxes(365)))))
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from gppf_d2.data.mappers import MultiLabelMapper
from gppf_d2.modeling.heads import (
    ClassificationHead,
    DepthHead,
    MultiLabelHead,
    NormalsHead,
    PartlyMaskedROIHeads,
    RelativeDepthHead,
    SemanticHead,
    StagePyramid,
    TrunkView,
)
from gppf_d2.modeling.lego import LegoTimm
from gppf_d2.modeling.view import SharedBackbone

from .evaluations import FORMAT
from .heads import rcnn

STAGES = ("res2", "res3", "res4", "res5")
PIXELS = dict(pixel_mean="${input.pixel_mean}", pixel_std="${input.pixel_std}")
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def student(heads, weights=None, weighting="fixed", channels=256, norm="BN", stages=STAGES):
    """The trunk and its label heads.

    ``weights``: label -> factor of its loss (1 where it is not named); ``weighting`` "uncertainty"
    learns them.
    """
    return L(MultiLabelHead)(
        trunk=L(StagePyramid)(
            bottom_up=L(SharedBackbone)(out_features=list(stages)),
            in_features=list(stages[1:]),
            out_channels=channels,
            norm=norm,
            top_block=L(LastLevelP6P7)(
                in_channels=channels, out_channels=channels, in_feature="p5"
            ),
        ),
        heads=heads,
        weights=weights or {},
        weighting=weighting,
    )


def timm_backbone(model, num_units=1):
    """A lego around a model of timm, instead of the ResNet."""
    return L(LegoTimm)(model=model, num_units=num_units, norm="CrossTaskSyncBN", checkpoint=False)


def classes(num_classes, label_smoothing=0.0, stages=STAGES):
    """A linear layer on the pooled C5."""
    return L(ClassificationHead)(
        backbone=L(TrunkView)(out_features=[stages[-1]]),
        num_classes=num_classes,
        label_smoothing=label_smoothing,
        **PIXELS,
    )


def boxes(
    num_classes,
    masks=False,
    channels=256,
    fc_dim=1024,
    norm="BN",
    anchor_sizes=(32, 64, 128, 256, 512),
    proposals=1000,
    score_threshold=0.05,
    detections=100,
    samples=512,
):
    """Mask R-CNN on P3 to P7: 2 convolutions in the RPN, 4 and a fully connected layer for boxes.

    The mask branch learns from the images that have masks; ``samples`` regions of an image teach
    the box head.
    """
    model = rcnn(
        num_classes,
        masks=masks,
        channels=channels,
        box_convs=4,
        fc_dims=(fc_dim,),
        rpn_convs=2,
        head_norm=norm,
        anchor_sizes=anchor_sizes,
        proposals=proposals,
        score_threshold=score_threshold,
        detections=detections,
    )
    model.backbone = L(TrunkView)(out_features=list(LEVELS))
    strides = [2 ** int(level[1:]) for level in LEVELS]
    rpn, roi = model.proposal_generator, model.roi_heads
    rpn.in_features = list(LEVELS)
    rpn.anchor_generator.strides = strides
    roi.batch_size_per_image = samples
    roi.box_in_features = list(LEVELS)
    roi.box_pooler.scales = [1 / stride for stride in strides]
    if masks:
        roi._target_ = PartlyMaskedROIHeads
        roi.mask_in_features = list(LEVELS)
        roi.mask_pooler.scales = [1 / stride for stride in strides]
    return model


def _pixels(head, channels, norm, **arguments):
    """Three convolutions on the sum of P3 to P7 at stride 4, and a linear layer."""
    return L(head)(
        backbone=L(TrunkView)(out_features=list(LEVELS)),
        fusion="sum",
        convs=3,
        channels=channels,
        norm=norm,
        **arguments,
        **PIXELS,
    )


def segments(num_classes, channels=256, norm="BN"):
    """A class for every pixel."""
    return _pixels(SemanticHead, channels, norm, num_classes=num_classes)


def depth(max_depth, min_depth=1e-3, channels=256, norm="BN"):
    """Depth in metres."""
    return _pixels(DepthHead, channels, norm, depth_range=(min_depth, max_depth))


def inverse_depth(channels=256, norm="BN"):
    """Relative inverse depth, as a MiDaS teacher gives it."""
    return _pixels(RelativeDepthHead, channels, norm)


def normals(channels=256, norm="BN"):
    """Unit vectors."""
    return _pixels(NormalsHead, channels, norm)


def labelled(labels, size=640, scale=(0.5, 2.0)):
    """Images with all their labels: fitted into a square of a random scale, cut out, flipped.

    ``labels``: label -> arguments of ``Label``.
    """
    return L(MultiLabelMapper)(
        is_train=True, labels=labels, augmentations=jitter(size, scale), image_format=FORMAT
    )


def jitter(size, scale):
    """Large-scale jitter for any kind of label; all images of a batch have one size."""
    return [
        L(T.ResizeScale)(
            min_scale=scale[0], max_scale=scale[1], target_height=size, target_width=size
        ),
        L(T.FixedSizeCrop)(crop_size=(size, size)),
        L(T.RandomFlip)(horizontal=True),
    ]


def of_label(label, evaluation):
    """An evaluation that runs one label's head."""
    return dict(evaluation, label=label)
