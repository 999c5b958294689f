r"""Finetuning on Oxford Flowers: 102 flowers, 2,040 and 6,149 images.

GPPF, Table 7, mean per class: random init 92.0, ImageNet-1K 97.6, SimCLR 97.0, BYOL 97.0,
    GPPF-R50(IN21K) 98.4.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is the official one, half of the 2,040.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/flowers.py \
        --output output/sweep/flowers --num-gpus 1 --data-root DIR \
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

tasks = dict(flowers=crops_and_flips("flowers", num_classes=102))
sweep = grid_search("flowers")
train.output_dir = "output/finetune/flowers"
paper = table_7("flowers")
