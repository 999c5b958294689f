r"""Transfer in miniature: surface normals, which no teacher knows, from a student's network.

In miniature: MuST, section 3.3 and Table 2, column "DIODE normal".
Hardware: 1 CPU core. Time: a minute. Baselines: train.init_checkpoint= (from scratch), or the
checkpoint of a teacher with train.init_route=classes train.init_head=classes.
    python train_net.py --config-file configs/quick/mini_must_normals.py --num-processes 1 \
        --data-root output/data
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.mappers import NormalsMapper
from gppf_d2.tasks.spec import Task

from ..common.evaluations import FORMAT
from ..common.mini_must import CHANNELS, LONGEST, SIZE, network, normals_val
from ..common.must import normals as normals_head
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

tasks = dict(
    normals=L(Task)(
        train="mini_normals_train",
        mapper=L(NormalsMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=SIZE, max_size=LONGEST),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format=FORMAT,
        ),
        batch_size=4,
        head=network(dict(normals=normals_head(channels=CHANNELS))),
        evaluators=[normals_val()],
    ),
)

backbone.num_units = 1
train.init_checkpoint = "output/must/student/model_final.pth"
train.init_route = train.init_head = "student"
train.output_dir = "output/must/normals"
train.max_iter = 50
train.eval_batch_size = 8
train.checkpoint_period = 0
