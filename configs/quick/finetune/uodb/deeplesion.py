r"""Tiny twin of configs/finetune/uodb/deeplesion.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, half a minute. Data: datasets/README.md, "Miniatures".
Starts from a run of configs/quick/pretrain/gppf_r50.py. Expected: it runs; numbers of a miniature
mean nothing.
    python train_net.py --config-file configs/quick/finetune/uodb/deeplesion.py --num-processes 2 \
        --data-root DIR
"""

from ....common.toy import shrink_finetune
from ....finetune.uodb.deeplesion import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    paper,
    schedule,
    tasks,
    train,
)

shrink_finetune(backbone, tasks, train, paper)
train.output_dir = "output/quick/finetune/uodb/deeplesion"
