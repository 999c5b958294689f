r"""Finetuning on ADE20K: semantic segmentation of 150 classes, UperNet, ResNet-50.

GPPF, Table 3, mIoU without test-time augmentation: GPPF-R50 45.3, GPPF-SwinT 45.8, ImageNet's
ResNet-50 42.1. The paper gives no hyperparameters: 160,000 iterations of 16 crops, 127 epochs of
20,210 images, and the rest as configs/common/segmentation.py has it from MMSegmentation.
Hardware: 4 GPUs of 16 GB, 4 crops each; any number that divides 16. Not yet run in full.
    torchrun --nproc-per-node 4 train_net.py --config-file configs/finetune/ade20k.py \
        --data-root DIR train.init_checkpoint=RUN/model_final.pth
"""

from ..common.segmentation import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    segmentation,
    table_3,
    train,
)

tasks = segmentation("ade20k", train, steps=160_000)
paper = table_3(0)
