r"""Finetuning on Food-101: 101 dishes, 75,750 and 25,250 images.

GPPF, Table 7, top-1 accuracy: random init 86.9, ImageNet-1K 88.3, SimCLR 88.2, BYOL 88.5,
    GPPF-R50(IN21K) 87.7.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is a tenth of the training images, by class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/food101.py \
        --output output/sweep/food101 --num-gpus 1 --data-root DIR \
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

tasks = dict(food101=crops_and_flips("food101", num_classes=101))
sweep = grid_search("food101")
train.output_dir = "output/finetune/food101"
paper = table_7("food101")
