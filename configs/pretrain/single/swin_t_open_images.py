r"""Single-task baseline: Open Images detection, Swin-T.

Not in the paper, whose single-task baselines are ResNet-50s. From scratch (D.1).
Budget: 500,000 iterations x 4.0 / 21 = 95,238 (configs/common/single_task.py).
Hardware: 7 x 8 GPUs of 32 GB. Not yet run in full.
    torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        train_net.py --config-file configs/pretrain/single/swin_t_open_images.py --data-root DIR
"""

from ...common.gppf_swin import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)
from ...common.single_task import single_task

single_task("open_images", tasks, backbone, train)
train.output_dir = "output/single/swin_t_open_images"
