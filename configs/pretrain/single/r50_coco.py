r"""Single-task baseline: COCO detection and instance segmentation, ResNet-50.

GPPF, Table 1, row Single: box AP 46.8, mask AP 42.0. From scratch (D.1).
Budget: 500,000 iterations x 2.5 / 21 = 59,524 (configs/common/single_task.py).
Hardware: 7 x 8 GPUs of 32 GB. Not yet run in full.
    torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        train_net.py --config-file configs/pretrain/single/r50_coco.py --data-root DIR
"""

from ...common.gppf import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train
from ...common.gppf_tasks import SINGLE, table_1
from ...common.single_task import single_task

single_task("coco", tasks, backbone, train)
train.output_dir = "output/single/r50_coco"
paper = table_1(SINGLE, "coco")
