r"""The baseline of must_student_r18.py: the teacher's four datasets, each image with its own label.

MuST, section 4.2, "supervised multi-task".
    python train_net.py --config-file configs/real/must_supervised_r18.py --num-processes 1 \
        --data-root DIR
Hardware: 1 CPU core. Time: about 20 minutes.
"""

from ..common.real_must import SUPERVISED, mapper
from .must_student_r18 import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

tasks.student.train = tuple(dataset for dataset, _, _ in SUPERVISED.values())
tasks.student.equal_datasets = True
tasks.student.mapper = mapper(SUPERVISED, pseudo=False)
train.output_dir = "output/must_r18/supervised"
