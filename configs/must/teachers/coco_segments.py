r"""MuST's teacher of segments: COCO-Stuff from scratch, the network of Figure 3 with one head.

Table 4 (on COCO's panoptic classes): 53.8 mIoU; transferred, CIFAR-100 80.8, Pascal detection 82.2,
Pascal segmentation 80.2, NYU 86.6, ADE20K 42.8, DIODE 51.0. Settings: common/must_runs.py.
Hardware: 8 GPUs of 32 GB, 8 images each; any number that divides 64. Not yet run in full.
    torchrun --nproc-per-node 8 train_net.py --config-file configs/must/teachers/coco_segments.py \
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

tasks = teacher("segments", steps=90_000)
train.output_dir = "output/must/teachers/coco_segments"
