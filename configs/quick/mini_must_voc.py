r"""Transfer in miniature: boxes in drawings and aerial pictures, from a student's network.

In miniature: MuST, section 3.3 and Table 2, column "Pascal detection": another dataset than any
teacher's.
Hardware: 1 CPU core. Time: two minutes. Baselines: train.init_checkpoint= (from scratch), or the
checkpoint of a teacher with train.init_route=classes train.init_head=classes.
    python train_net.py --config-file configs/quick/mini_must_voc.py --num-processes 1 \
        --data-root output/data
"""

from detectron2.config import LazyCall as L

from gppf_d2.tasks.spec import Task

from ..common.evaluations import boxes
from ..common.mini_must import LONGEST, SIZE, detector, mapper, network
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

tasks = dict(
    voc=L(Task)(
        train="mini_voc_train",
        mapper=mapper(
            dict(boxes=dict(kind="instances", supervised=["mini_voc_train"], pseudo=False))
        ),
        batch_size=4,
        head=network(dict(boxes=detector(masks=False))),
        evaluators=[boxes("mini_voc_val", masks=False, short=SIZE, longest=LONGEST)],
    ),
)

backbone.num_units = 1
train.init_checkpoint = "output/must/student/model_final.pth"
train.init_route = train.init_head = "student"
train.output_dir = "output/must/voc"
train.max_iter = 50
train.eval_batch_size = 8
train.checkpoint_period = 0
