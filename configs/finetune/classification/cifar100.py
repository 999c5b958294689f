r"""Finetuning on CIFAR-100: 100 kinds of objects, 50,000 and 10,000 images of 32 pixels.

GPPF, Table 7, top-1 accuracy: random init 80.2, ImageNet-1K 86.4, SimCLR 85.9, BYOL 86.1,
    GPPF-R50(IN21K) 87.1.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is a tenth of the training images, by class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/cifar100.py \
        --output output/sweep/cifar100 --num-gpus 1 --data-root DIR \
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

tasks = dict(cifar100=crops_and_flips("cifar100", num_classes=100))
sweep = grid_search("cifar100")
train.output_dir = "output/finetune/cifar100"
paper = table_7("cifar100")
