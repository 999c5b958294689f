r"""GPPF-SwinT: eight tasks around a lego Swin-T, N = 2; AdamW, Cascade R-CNN.

GPPF, Table 1 (box and mask AP, AP, AP50, mIoU, top-1):
    SIMT, SyncBN, DyNet (N = 2); LayerNorm has nothing to synchronise. Tables 2 and 3 differ for
    LVIS (two-stage) and VOC (79.9)
    COCO 52.1 / 45.3, LVIS 33.3 / 30.5, Objects365 31.6, Open Images 55.9,
    ADE20K 45.8, VOC 79.7, COCO-Stuff 44.8, ImageNet-21K 40.7
Hardware: 7 x 8 GPUs of 32 GB (paper: V100, about two weeks). Not yet run in full.
    torchrun --nnodes 7 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
        train_net.py --config-file configs/pretrain/gppf_swin_t.py --data-root DIR
"""

from ..common.gppf_swin import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)
from ..common.gppf_tasks import table_1

train.output_dir = "output/gppf_swin_t"
paper = table_1("GPPF-SwinT, N = 2")
