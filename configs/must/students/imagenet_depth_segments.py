r"""MuST on ImageNet with two pseudo labels: supervised classes, depth and segments.

Table 3, third row: CIFAR-100 85.3, Pascal detection 81.6, Pascal segmentation 78.6, NYU 87.2,
ADE20K 41.5, DIODE 52.4.
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/imagenet_depth_segments.py
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

tasks = student("pseudo_imagenet_1k_train", dict(classes=dict(pseudo=False), depth={}, segments={}))
train.output_dir = "output/must/imagenet_depth_segments"
