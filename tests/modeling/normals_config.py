"""Surface normals of the miniature world and of the real ball; take one of them with --tasks."""
# ruff: noqa: F401, C408

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.mappers import NormalsMapper
from gppf_d2.tasks.spec import Task

from ...configs.common.evaluations import FORMAT, angles
from ...configs.common.heads import normals
from ...configs.quick.mini_r18 import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    train,
)

resize = L(T.ResizeShortestEdge)(short_edge_length=96, max_size=192)
tasks = dict(
    normals=L(Task)(
        train="mini_normals_train",
        mapper=L(NormalsMapper)(
            is_train=True,
            augmentations=[resize, L(T.RandomFlip)(horizontal=True)],
            image_format=FORMAT,
        ),
        batch_size=4,
        head=normals(channels=32),
        evaluators=[angles("mini_normals_val", short=96, longest=192)],
    ),
    ball=L(Task)(
        train="diligent_ball_train",
        mapper=L(NormalsMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomCrop)(crop_type="absolute", crop_size=(288, 288)),
                resize,
                L(T.RandomFlip)(horizontal=True),
                L(T.RandomRotation)(angle=[-90, 90], expand=False),
            ],
            image_format=FORMAT,
        ),
        batch_size=2,
        head=normals(channels=32),
        evaluators=[angles("diligent_ball_test", short=192, longest=384)],
    ),
)
train.log_period = 1
train.checkpoint_period = 0
