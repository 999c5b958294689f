r"""Tiny twin of configs/must/transfer/cifar100.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, half a minute. Data: datasets/README.md, "Miniatures".
Starts from a run of configs/quick/must/students/imagenet.py. Expected: it runs; numbers of a
miniature mean nothing.
    python train_net.py --config-file configs/quick/must/transfer/cifar100.py \
        --num-processes 2 --data-root DIR
"""

from ....common.must_toy import shrink_must_transfer
from ....must.transfer.cifar100 import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    paper,
    schedule,
    sweep,
    tasks,
    train,
)

shrink_must_transfer(backbone, tasks, train, sweep, paper)
train.output_dir = "output/quick/must/transfer/cifar100"
