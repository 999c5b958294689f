"""Two kinds that the package does not know, beside one that it does: a config and a head class.

``count`` is a head of this folder; ``retina`` is Detectron2's RetinaNet, unmodified.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config

from gppf_d2.data.mappers import DetectionMapper
from gppf_d2.evaluation import DetectionEvaluator
from gppf_d2.modeling.view import SharedBackbone
from gppf_d2.tasks.spec import Task
from tests.plugin.counting import CountEvaluator, CountHead, CountMapper

from ...configs.quick.mini_r18 import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

retina = get_config("common/models/retinanet.py").model
retina.backbone.bottom_up = L(SharedBackbone)(out_features=["res3", "res4", "res5"])
retina.backbone.out_channels = 32
retina.backbone.top_block.in_channels = 512
retina.head.input_shape = [ShapeSpec(channels=32)] * 5
retina.head.conv_dims = [32]
retina.num_classes = 8
retina.pixel_mean = "${input.pixel_mean}"
retina.pixel_std = "${input.pixel_std}"
retina.input_format = "RGB"

resize = [L(T.ResizeShortestEdge)(short_edge_length=64, max_size=128)]

tasks = dict(
    objects=tasks.objects,
    count=L(Task)(
        train="mini_scenes_train",
        mapper=L(CountMapper)(size=64),
        batch_size=4,
        head=L(CountHead)(
            backbone=L(SharedBackbone)(out_features=["res4"]),
            pixel_mean="${input.pixel_mean}",
            pixel_std="${input.pixel_std}",
        ),
        evaluators=[
            dict(
                dataset="mini_scenes_val",
                evaluator=L(CountEvaluator)(),
                mapper=L(CountMapper)(size=64),
            )
        ],
    ),
    retina=L(Task)(
        train="mini_voc_train",
        mapper=L(DetectionMapper)(is_train=True, augmentations=resize),
        batch_size=2,
        head=retina,
        evaluators=[
            dict(
                dataset="mini_voc_val",
                evaluator=L(DetectionEvaluator)(dataset_name="mini_voc_val", tasks=["bbox"]),
                mapper=L(DetectionMapper)(is_train=False, augmentations=resize),
            )
        ],
    ),
)
schedule.policy = "pinned"
