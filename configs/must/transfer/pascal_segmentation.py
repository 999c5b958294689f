r"""Transfer to Pascal segmentation: VOC 2012 as released, 1,464 and 1,449 images, 21 classes.

MuST, third column of Tables 2, 3, 5 and 6, mean IoU: ImageNet supervised 70.6, with multi-task
pseudo labels 80.6, SimCLR 72.2.
Without SBD's labels (Table 1: 1.5k images). 16 crops of 512 pixels a step, augmented as in
MMSegmentation; its rate, 0.01, is the middle of the sweep: rates 0.0025 to 0.04. So few images are
seen often: 5,000, 10,000 and 20,000 steps are 55, 109 and 219 epochs. The search sees val, the set
that the paper reports: the test's labels are not public, and it names no other.
The sweep's rule, the command for all six, other checkpoints: configs/common/must_transfer.py.
Hardware: 4 GPUs of 16 GB for a training, 4 crops each; any number that divides 16. Not yet run in
full.
    python -m gppf_d2.tools.sweep --config-file configs/must/transfer/pascal_segmentation.py \
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

RATE, STEPS = 0.01, 10_000

tasks = dict(pascal_segmentation=segmentation("voc_2012_sem_seg_train", "voc_2012_sem_seg_val", 21))
optimizer.lr = RATE
train.max_iter = STEPS
train.output_dir = "output/must/transfer/pascal_segmentation"
sweep = search("sem_seg/mIoU", RATE, STEPS)
paper = results("pascal_segmentation", "sem_seg/mIoU")
