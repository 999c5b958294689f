r"""MuST on small real datasets: four labels on photographs, streets, cells and a room.

Teacher: the lego run of configs/real/pack_r18.py, four of its tasks. Images: those of six sets;
where one is a teacher's own training set, its supervised labels stay.
    python train_net.py --config-file configs/real/pack_r18.py --num-processes 2 --data-root DIR
    for set in bccd_train camvid_train camvid_test coco128_train nuclei_train seven_scenes_train
    do
        python -m gppf_d2.tools.pseudo_label --config-file configs/real/must_labels.py \
            --data-root DIR dataset=$set output=DIR/pseudo/$set
    done
    python train_net.py --config-file configs/real/must_student_r18.py --num-processes 1 \
        --data-root DIR
Hardware: 1 CPU core. Time: about 20 minutes.
"""

from detectron2.config import LazyCall as L

from gppf_d2.tasks.spec import Task

from ..common.real_must import SUPERVISED, evaluations, mapper, network
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

SETS = (
    "bccd_train",
    "camvid_train",
    "camvid_test",
    "coco128_train",
    "nuclei_train",
    "seven_scenes_train",
)

tasks = dict(
    student=L(Task)(
        train=tuple(f"pseudo_{name}" for name in SETS),
        mapper=mapper(SUPERVISED),
        batch_size=8,
        head=network(SUPERVISED),
        evaluators=evaluations(SUPERVISED),
    ),
)

backbone.num_units = 1
train.output_dir = "output/must_r18/student"
train.max_iter = 200
train.eval_batch_size = 4
train.checkpoint_period = 100
