r"""Finetuning on Caltech-101: 101 kinds of objects and a background, 30 images of each and 6,084.

GPPF, Table 7, mean per class: random init 72.6, ImageNet-1K 93.3, SimCLR 92.1, BYOL 93.8,
    GPPF-R50(IN21K) 95.1.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is 5 of the 30 images of each class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/caltech101.py \
        --output output/sweep/caltech101 --num-gpus 1 --data-root DIR \
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

tasks = dict(caltech101=crops_and_flips("caltech101", num_classes=102))
sweep = grid_search("caltech101")
train.output_dir = "output/finetune/caltech101"
paper = table_7("caltech101")
