r"""MuST's teacher of classes: ImageNet-1K from scratch, the network of Figure 3 with one head.

It is also the baseline "ImageNet Supervised" of Tables 2 and 3. Settings: common/must_runs.py.
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/teachers/imagenet.py
"""

from ...common.must_runs import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    teacher,
    train,
)

tasks = teacher("classes", steps=450_000)
train.output_dir = "output/must/teachers/imagenet"
