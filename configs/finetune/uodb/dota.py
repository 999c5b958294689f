r"""Finetuning on UODB's DOTA: objects in aerial images.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 72.8, (Objects365) 71.7, (Dyfinetune) 72.0.
Table 8: 26,000 iterations of 16 images, decays at 18,000 and 24,000, test size 800, COCO's anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/dota.py --num-gpus 8 \
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

tasks = dict(dota=detection("dota", num_classes=15))
budget(lr_multiplier, train, steps=26_000, decays=(18_000, 24_000))
train.output_dir = "output/finetune/uodb/dota"
paper = table_5("dota")
