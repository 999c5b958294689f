r"""Transfer to ADE20K: semantic segmentation of 150 classes, 20,210 and 2,000 images.

MuST, fifth column of Tables 2, 3, 5 and 6, mean IoU: ImageNet supervised 39.8, with multi-task
pseudo labels 43.5, SimCLR 41.0.
16 crops of 512 pixels a step, augmented as in MMSegmentation, whose schedules of 40,000, 80,000 and
160,000 steps (32, 63 and 127 epochs) are the sweep's and whose rate, 0.01, is its middle: rates
0.0025 to 0.04. The search sees val, the set that the paper reports: the test's labels are not
public, and it names no other.
The sweep's rule, the command for all six, other checkpoints: configs/common/must_transfer.py.
Hardware: 4 GPUs of 16 GB for a training, 4 crops each; any number that divides 16. Not yet run in
full.
    python -m gppf_d2.tools.sweep --config-file configs/must/transfer/ade20k.py \
        --output DIR --workers 2 --num-gpus 4 --data-root DIR \
        train.init_checkpoint=RUN/model_final.pth
"""

from ...common.must_transfer import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    results,
    schedule,
    search,
    segmentation,
    train,
)

RATE, STEPS = 0.01, 80_000

tasks = dict(ade20k=segmentation("ade20k_sem_seg_train", "ade20k_sem_seg_val", 150))
optimizer.lr = RATE
train.max_iter = STEPS
train.output_dir = "output/must/transfer/ade20k"
sweep = search("sem_seg/mIoU", RATE, STEPS)
paper = results("ade20k", "sem_seg/mIoU")
