r"""Pseudo boxes alone on ImageNet, whose own labels are not used.

Table 4, student of detection on ImageNet: 20.6 AP on Objects365; transferred, CIFAR-100 83.2,
Pascal detection 86.0, Pascal segmentation 78.5, NYU 88.5, ADE20K 44.7, DIODE 55.2.
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/imagenet_pseudo_boxes.py
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

tasks = student("pseudo_imagenet_1k_train", dict(boxes={}))
train.output_dir = "output/must/imagenet_pseudo_boxes"
