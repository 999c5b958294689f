r"""MuST's teacher of boxes: Objects365 from scratch, the network of Figure 3 with one head.

Table 4: 26.1 AP on Objects365; transferred, CIFAR-100 84.0, Pascal detection 87.6, Pascal
segmentation 78.8, NYU 90.1, ADE20K 46.0, DIODE 55.6. Settings: common/must_runs.py.
Hardware: 8 GPUs of 32 GB, 8 images each; any number that divides 64. Not yet run in full.
    torchrun --nproc-per-node 8 train_net.py --config-file configs/must/teachers/objects365.py \
        --data-root DIR
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

tasks = teacher("boxes", steps=270_000)
train.output_dir = "output/must/teachers/objects365"
