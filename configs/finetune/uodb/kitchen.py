r"""Finetuning on UODB's Kitchen: eleven products in a kitchen.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 95.1, (Objects365) 95.8, (Dyfinetune) 95.7.
Table 8: 13,500 iterations of 16 images, decays at 9,000 and 12,000, test size 800, COCO's anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/kitchen.py --num-gpus 8 \
        --data-root DIR train.init_checkpoint=RUN/model_final.pth [train.init_route=dynamic]
"""

from ...common.uodb import (
    backbone,
    budget,
    detection,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    table_5,
    train,
)

tasks = dict(kitchen=detection("kitchen", num_classes=11))
budget(lr_multiplier, train, steps=13_500, decays=(9000, 12_000))
train.output_dir = "output/finetune/uodb/kitchen"
paper = table_5("kitchen")
