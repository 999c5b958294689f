r"""Tiny twin of configs/must/students/cross_dataset.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, half a minute. Data: datasets/README.md, "Miniatures".
After the labels of configs/quick/must/labels.py. Expected: it runs; its numbers mean nothing.
    python train_net.py --config-file configs/quick/must/students/cross_dataset.py \
        --num-processes 2 --data-root DIR
"""

from ....common.must_toy import shrink_must
from ....must.students.cross_dataset import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

shrink_must(backbone, tasks, train)
train.output_dir = "output/quick/must/cross_dataset"
