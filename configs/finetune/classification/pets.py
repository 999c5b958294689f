r"""Finetuning on Oxford-IIIT Pets: 37 breeds of cats and dogs, 3,680 and 3,669 images.

GPPF, Table 7, mean per class: random init 81.5, ImageNet-1K 92.1, SimCLR 89.2, BYOL 91.7,
    GPPF-R50(IN21K) 92.3.
D.2: 20,000 iterations of 256 images, SGD; learning rate and weight decay are searched. For that the
validation set is a fifth of the training images, by class.
Protocol, and what the paper leaves open: configs/common/classification.py.
Hardware: 1 GPU of 32 GB, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/pets.py \
        --output output/sweep/pets --num-gpus 1 --data-root DIR \
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

tasks = dict(pets=crops_and_flips("pets", num_classes=37))
sweep = grid_search("pets")
train.output_dir = "output/finetune/pets"
paper = table_7("pets")
