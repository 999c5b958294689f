r"""MuST on ImageNet: supervised classes, pseudo boxes, segments and depth.

Table 2, "+ Multi-task Pseudo Labels", and the last row of Table 3: CIFAR-100 86.3, Pascal detection
85.1, Pascal segmentation 80.6, NYU 87.8, ADE20K 43.5, DIODE 52.7. Labels: configs/must/labels.py on
imagenet_1k_train. The weight of depth is to be found by a sweep:
    python -m gppf_d2.tools.sweep --config-file configs/must/students/imagenet.py --output DIR
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/imagenet.py
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

tasks = student(
    "pseudo_imagenet_1k_train",
    dict(classes=dict(pseudo=False), boxes={}, segments={}, depth={}),
)
# judged by a label that is supervised nowhere here; what the paper looked at it does not say
sweep = dict(
    metric="objects365_v2_val/bbox/AP",
    grid=dict(depth=[0.1, 0.3, 1.0, 3.0]),
    set={"tasks.student.head.weights.depth": "depth"},
    search=["train.max_iter=45000"],
)
train.output_dir = "output/must/imagenet"
