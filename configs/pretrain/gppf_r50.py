r"""GPPF-R50: eight tasks around a lego ResNet-50, N = 2, soft gates.

GPPF, Table 1 (box and mask AP, AP, AP50, mIoU, top-1):
    SIMT, SyncBN, DyNet (N = 2)
    COCO 49.7 / 44.5, LVIS 34.0 / 32.1, Objects365 26.6, Open Images 57.7,
    ADE20K 45.3, VOC 82.2, COCO-Stuff 44.0, ImageNet-21K 40.6
Hardware: 7 x 8 GPUs of 32 GB (paper: V100, about two weeks). Not yet run in full.
    torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        train_net.py --config-file configs/pretrain/gppf_r50.py --data-root DIR
"""

from ..common.gppf import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train
from ..common.gppf_tasks import table_1

train.output_dir = "output/gppf_r50"
paper = table_1("GPPF-R50, N = 2")
