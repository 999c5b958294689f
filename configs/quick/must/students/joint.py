r"""Tiny twin of configs/must/students/joint.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, half a minute. Data: datasets/README.md, "Miniatures".
After the labels of configs/quick/must/labels.py. Expected: it runs; its numbers mean nothing.
    python train_net.py --config-file configs/quick/must/students/joint.py \
        --num-processes 2 --data-root DIR
"""

from ....common.must_toy import shrink_must
from ....common.toy import shrink
from ....must.students.joint import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

shrink_must(backbone, dict(student=tasks.student), train)
shrink(backbone, dict(coco=tasks.coco, ade20k=tasks.ade20k), train)
train.output_dir = "output/quick/must/joint"
