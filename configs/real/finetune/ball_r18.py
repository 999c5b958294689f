r"""Finetuning on a small real dataset: surface normals of one ball under six lamps.

In miniature: GPPF, section 4.3, with a kind of task that pre-training has not: no head comes along.
Pre-train:
    python train_net.py --config-file configs/real/pack_r18.py --num-processes 2 --data-root DIR
and then
    python train_net.py --config-file configs/real/finetune/ball_r18.py --num-processes 1 \
        --data-root DIR [train.init_checkpoint=] [train.init_route=dynamic]
Hardware: 1 CPU core. Time: about a minute. Train and test show the same ball under other lamps: it
measures how fast the normals are fitted, not whether they generalise.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.mappers import NormalsMapper
from gppf_d2.tasks.spec import Task

from ...common.evaluations import FORMAT, angles
from ...common.heads import normals
from ...common.pack import LONGEST, SHORT
from ...common.real_finetune import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    train,
)

tasks = dict(
    ball=L(Task)(
        train="diligent_ball_train",
        mapper=L(NormalsMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=SHORT, max_size=LONGEST),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format=FORMAT,
        ),
        batch_size=4,
        head=normals(channels=64),
        evaluators=[angles("diligent_ball_test", short=SHORT, longest=LONGEST)],
    ),
)
train.init_head = ""
train.total_batch_size = 4
train.max_iter = 60
train.output_dir = "output/ball_r18"
