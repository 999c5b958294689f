"""Self-supervision on the images of a detection dataset beside a classification task with MixUp."""
# ruff: noqa: F401, C408

from detectron2.config import LazyCall as L

from gppf_d2.data.batch_transforms import MixUpCutMix
from gppf_d2.data.image_transforms import classification_recipe
from gppf_d2.data.mappers import ClassificationMapper, TwoViewsMapper
from gppf_d2.evaluation import NearestNeighbourEvaluator
from gppf_d2.modeling.heads import ContrastiveHead
from gppf_d2.modeling.view import SharedBackbone
from gppf_d2.tasks.spec import Task

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

objects = tasks.objects
objects.batch_size = 4
objects.mapper.transform = L(classification_recipe)(image_size=32)
objects.batch_transform = L(MixUpCutMix)()

tasks = dict(
    objects=objects,
    views=L(Task)(
        train="mini_scenes_train",
        mapper=L(TwoViewsMapper)(image_size=32, image_format="${input.pixel_format}"),
        batch_size=4,
        head=L(ContrastiveHead)(
            backbone=L(SharedBackbone)(out_features=["res5"]),
            pixel_mean="${input.pixel_mean}",
            pixel_std="${input.pixel_std}",
            out_channels=32,
        ),
        evaluators=[
            dict(
                dataset="mini_objects_train",
                evaluator=L(NearestNeighbourEvaluator)(dataset_name="mini_objects_train"),
                mapper=L(ClassificationMapper)(
                    is_train=False, image_size=32, image_format="${input.pixel_format}"
                ),
            )
        ],
    ),
)
train.checkpoint_period = 0
