r"""Pseudo segments alone on ImageNet, whose own labels are not used.

Table 4, student of segmentation on ImageNet: 55.5 mIoU on COCO; transferred, CIFAR-100 82.3, Pascal
detection 80.5, Pascal segmentation 79.2, NYU 86.3, ADE20K 41.8, DIODE 51.2.
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/imagenet_pseudo_segments.py
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

tasks = student("pseudo_imagenet_1k_train", dict(segments={}))
train.output_dir = "output/must/imagenet_pseudo_segments"
