r"""Finetuning on SUN397: 397 scenes, 19,850 and 19,850 images of the first split.

GPPF, Table 7, top-1 accuracy: random init 53.6, ImageNet-1K 64.3, SimCLR 63.5, BYOL 63.7,
    GPPF-R50(IN21K) 64.3.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is a fifth of the training images, by class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/sun397.py \
        --output output/sweep/sun397 --num-gpus 1 --data-root DIR \
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

tasks = dict(sun397=crops_and_flips("sun397", num_classes=397))
sweep = grid_search("sun397")
train.output_dir = "output/finetune/sun397"
paper = table_7("sun397")
