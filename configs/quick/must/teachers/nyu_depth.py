r"""Tiny twin of configs/must/teachers/nyu_depth.py, for the miniature datasets.

Hardware: 2 CPU cores, 2 processes, half a minute. Data: datasets/README.md, "Miniatures".
Expected: it runs; numbers of a miniature mean nothing.
    python train_net.py --config-file configs/quick/must/teachers/nyu_depth.py \
        --num-processes 2 --data-root DIR
"""

from ....common.must_toy import shrink_must
from ....must.teachers.nyu_depth import (
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
train.output_dir = "output/quick/must/teachers/nyu_depth"
