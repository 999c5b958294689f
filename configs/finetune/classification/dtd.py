r"""Finetuning on Describable Textures: 47 textures, 3,760 and 1,880 images of the first split.

GPPF, Table 7, top-1 accuracy: random init 64.8, ImageNet-1K 74.6, SimCLR 73.2, BYOL 76.2,
    GPPF-R50(IN21K) 77.2.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is the official one, half of the 3,760.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/dtd.py \
        --output output/sweep/dtd --num-gpus 1 --data-root DIR \
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

tasks = dict(dtd=crops_and_flips("dtd", num_classes=47))
sweep = grid_search("dtd")
train.output_dir = "output/finetune/dtd"
paper = table_7("dtd")
