r"""Tiny twin of configs/finetune/kitti_depth.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, half a minute. Data: datasets/README.md, "Miniatures".
Starts from a run of configs/quick/pretrain/gppf_r50.py. Expected: it runs; numbers of a miniature
mean nothing.
    python train_net.py --config-file configs/quick/finetune/kitti_depth.py --num-processes 2 \
        --data-root DIR
"""

from ...common.toy import shrink_finetune
from ...finetune.kitti_depth import (
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


def shrink_task(task):
    """The head's widths and the sides of crops."""
    task.head.channels, task.head.detail_channels = 32, 8
    window, _, crop, *_ = task.mapper.augmentations
    (evaluation,) = task.evaluators
    window.size = evaluation["mapper"].augmentations[0].size = (64, 128)
    crop.crop_size = (64, 96)


shrink_finetune(backbone, {}, train, paper)
shrink_task(tasks.kitti)
train.output_dir = "output/quick/finetune/kitti_depth"
