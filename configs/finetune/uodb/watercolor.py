r"""Finetuning on UODB's Watercolor: six classes in watercolours.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 56.0, (Objects365) 66.4, (Dyfinetune) 68.2.
Table 8: 1,800 iterations of 16 images, decays at 1,500 and 1,700, test size 800, COCO's anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/watercolor.py --num-gpus 8 \
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

tasks = dict(watercolor=detection("watercolor", num_classes=6))
budget(lr_multiplier, train, steps=1800, decays=(1500, 1700))
train.output_dir = "output/finetune/uodb/watercolor"
paper = table_5("watercolor")
