r"""Finetuning on FGVC-Aircraft: 100 variants of aircraft, 6,667 and 3,333 images.

GPPF, Table 7, mean per class: random init 85.9, ImageNet-1K 86.0, SimCLR 88.1, BYOL 88.1,
    GPPF-R50(IN21K) 89.0.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is the official one, half of the 6,667.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/aircraft.py \
        --output output/sweep/aircraft --num-gpus 1 --data-root DIR \
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

tasks = dict(aircraft=crops_and_flips("aircraft", num_classes=100))
sweep = grid_search("aircraft")
train.output_dir = "output/finetune/aircraft"
paper = table_7("aircraft")
