r"""Depth on KITTI (Eigen split) with BTS' head on the route of COCO, ResNet-50.

GPPF, Table 4: d1, d2, d3, AbsRel, SqRel, RMSE, RMSElog
    baseline [48], ResNet-50             0.954  0.992  0.998  0.061  0.250  2.803  0.098
    LapDepth [72], ResNeXt-101           0.962  0.994  0.999  0.059  0.212  2.446  0.091
    NeWCRFs [82], Swin-L                 0.974  0.997  0.999  0.052  0.155  2.129  0.079
    BinsFormer [50], Swin-L              0.974  0.997  0.999  0.052  0.151  2.098  0.145
    Scratch                              0.914  0.980  0.995  0.11   0.372  3.151  0.145
    ImageNet                             0.963  0.993  0.999  0.062  0.239  2.797  0.096
    COCO                                 0.952  0.994  0.999  0.064  0.225  2.577  0.098
    MoCo-v2 [17]                         0.955  0.994  0.999  0.061  0.216  2.534  0.095
    CLIP [64]                            0.925  0.986  0.997  0.078  0.327  3.091  0.121
    GPPF-R50(IN21K)                      0.957  0.994  0.999  0.060  0.202  2.438  0.094
    GPPF-R50(ADE20K)                     0.961  0.995  0.999  0.058  0.192  2.388  0.091
    GPPF-R50(COCO)                       0.965  0.996  0.999  0.057  0.180  2.252  0.088
    GPPF-R50(Dyfinetune)                 0.966  0.995  0.999  0.065  0.224  2.382  0.094
Other rows: train.init_route=in21k | ade20k | dynamic; from scratch train.init_checkpoint="".
Hardware: 8 GPUs of 32 GB (the paper names none for this). Not yet run in full.
    torchrun --nproc-per-node 8 train_net.py --config-file configs/finetune/kitti_depth.py \
        --data-root DIR
"""

from ..common.depth import kitti
from ..common.finetune import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    train,
)

tasks = dict(kitti=kitti())
train.init_route = "coco"
# D.2; stochastic depth rises linearly to 0.4 over the residual blocks
backbone.drop_path_rate = 0.4
optimizer.lr = 0.01
optimizer.momentum = 0.9
optimizer.weight_decay = 1e-8
train.total_batch_size = 32
train.max_iter = 30_000
lr_multiplier.warmup_length = 1_000 / 30_000
train.output_dir = "output/finetune/kitti_depth"
paper = dict(
    table="Table 4",
    metric="depth/delta1",
    rows={
        "baseline [48], ResNet-50": 0.954,
        "LapDepth [72], ResNeXt-101": 0.962,
        "NeWCRFs [82], Swin-L": 0.974,
        "BinsFormer [50], Swin-L": 0.974,
        "Scratch": 0.914,
        "ImageNet": 0.963,
        "COCO": 0.952,
        "MoCo-v2 [17]": 0.955,
        "CLIP [64]": 0.925,
        "GPPF-R50(IN21K)": 0.957,
        "GPPF-R50(ADE20K)": 0.961,
        "GPPF-R50(COCO)": 0.965,
        "GPPF-R50(Dyfinetune)": 0.966,
    },
)
