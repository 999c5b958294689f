r"""Finetuning on PASCAL VOC 2012 with SBD's labels: semantic segmentation of 21 classes, UperNet,
ResNet-50.

GPPF, Table 3, mIoU without test-time augmentation: GPPF-R50 82.2, GPPF-SwinT 79.9, ImageNet's
ResNet-50 76.4. The paper gives no hyperparameters: 40,000 iterations of 16 crops, 60 epochs of
10,582 images, and the rest as configs/common/segmentation.py has it from MMSegmentation.
Hardware: 4 GPUs of 16 GB, 4 crops each; any number that divides 16. Not yet run in full.
    torchrun --nproc-per-node 4 train_net.py --config-file configs/finetune/voc.py \
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

tasks = segmentation("voc", train, steps=40_000)
paper = table_3(1)
