r"""A teacher of depth in metres: NYU Depth v2, the network of Figure 3 with one head.

The paper downloads MiDaS, a teacher of relative depth (configs/must/labels.py has it); this one is
for those who want metres, or nothing from elsewhere. Settings: common/must_runs.py.
Hardware: 8 GPUs of 32 GB, 8 images each; any number that divides 64. Not yet run in full.
    torchrun --nproc-per-node 8 train_net.py --config-file configs/must/teachers/nyu_depth.py \
        --data-root DIR
"""

from ...common.must_runs import (
    backbone,
    depth_teacher,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    train,
)

tasks = depth_teacher()
train.output_dir = "output/must/teachers/nyu_depth"
