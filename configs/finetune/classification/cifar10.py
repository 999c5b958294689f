r"""Finetuning on CIFAR-10: 10 kinds of objects, 50,000 and 10,000 images of 32 pixels.

GPPF, Table 7, top-1 accuracy: random init 95.9, ImageNet-1K 97.5, SimCLR 97.7, BYOL 97.8,
    GPPF-R50(IN21K) 97.9.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is a tenth of the training images, by class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/cifar10.py \
        --output output/sweep/cifar10 --num-gpus 1 --data-root DIR \
        train.init_checkpoint=RUN/model_final.pth
"""

from ...common.classification import (
    backbone,
    crops_and_flips,
    gates,
    grid_search,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    table_7,
    train,
)

tasks = dict(cifar10=crops_and_flips("cifar10", num_classes=10))
sweep = grid_search("cifar10")
train.output_dir = "output/finetune/cifar10"
paper = table_7("cifar10")
