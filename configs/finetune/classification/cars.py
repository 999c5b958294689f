r"""Finetuning on Stanford Cars: 196 models of cars, 8,144 and 8,041 images.

GPPF, Table 7, top-1 accuracy: random init 91.4, ImageNet-1K 92.1, SimCLR 91.3, BYOL 91.6,
    GPPF-R50(IN21K) 91.8.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is a fifth of the training images, by class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/cars.py \
        --output output/sweep/cars --num-gpus 1 --data-root DIR \
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

tasks = dict(cars=crops_and_flips("cars", num_classes=196))
sweep = grid_search("cars")
train.output_dir = "output/finetune/cars"
paper = table_7("cars")
