r"""Tiny twin of configs/pretrain/single/swin_t_ade20k.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, about a minute. Data: datasets/README.md, "Miniatures".
Expected: it runs; numbers of a miniature mean nothing.
    python train_net.py --config-file configs/quick/pretrain/single/swin_t_ade20k.py \
        --num-processes 2 --data-root DIR
"""

from ....common.toy import shrink
from ....pretrain.single.swin_t_ade20k import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

shrink(backbone, tasks, train)
train.output_dir = "output/quick/single/swin_t_ade20k"
