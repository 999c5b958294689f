r"""Single-task baseline: COCO-Stuff segmentation, ResNet-50.

GPPF, Table 1, row Single: mIoU 40.4. From ImageNet-1K weights (D.1).
Budget: 500,000 iterations x 2.0 / 21 = 47,619 (configs/common/single_task.py).
Hardware: 7 x 8 GPUs of 32 GB. Not yet run in full.
    torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        train_net.py --config-file configs/pretrain/single/r50_coco_stuff.py --data-root DIR
"""

from ...common.gppf import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train
from ...common.gppf_tasks import SINGLE, table_1
from ...common.single_task import single_task

single_task("coco_stuff", tasks, backbone, train)
train.output_dir = "output/single/r50_coco_stuff"
paper = table_1(SINGLE, "coco_stuff")
