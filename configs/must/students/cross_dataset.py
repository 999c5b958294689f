r"""MuST across ImageNet, Objects365 and COCO: every image has every label, most of them pseudo.

Table 5, "+ Pseudo Labels": CIFAR-100 86.3, Pascal detection 86.2, Pascal segmentation 82.3, NYU
88.2, ADE20K 45.4, DIODE 54.7. Supervised labels where they exist, pseudo labels where they do not;
images are drawn uniformly from the union. Labels: configs/must/labels.py on each of the three
datasets.
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/cross_dataset.py
"""

from ...common.must_runs import (
    SUPERVISED,
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    student,
    train,
)

tasks = student(
    tuple(f"pseudo_{name}" for name in SUPERVISED.values()),
    dict(classes={}, boxes={}, segments={}),
)
train.output_dir = "output/must/cross_dataset"
