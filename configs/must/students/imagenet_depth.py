r"""MuST on ImageNet with one pseudo label: supervised classes and depth.

Table 3, second row: CIFAR-100 84.4, Pascal detection 79.3, Pascal segmentation 71.0, NYU 86.0,
ADE20K 39.5, DIODE 51.3.
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/imagenet_depth.py
"""

from ...common.must_runs import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    student,
    train,
)

tasks = student("pseudo_imagenet_1k_train", dict(classes=dict(pseudo=False), depth={}))
train.output_dir = "output/must/imagenet_depth"
