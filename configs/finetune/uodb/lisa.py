r"""Finetuning on UODB's LISA: traffic signs.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 96.2, (Objects365) 95.9, (Dyfinetune) 96.8.
Table 8: 18,000 iterations of 16 images, decays at 12,000 and 16,000, test size 800, halved anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/lisa.py --num-gpus 8 \
        --data-root DIR train.init_checkpoint=RUN/model_final.pth [train.init_route=dynamic]
"""

from ...common.uodb import (
    HALVED,
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

tasks = dict(lisa=detection("lisa", num_classes=4, anchor_sizes=HALVED))
budget(lr_multiplier, train, steps=18_000, decays=(12_000, 16_000))
train.output_dir = "output/finetune/uodb/lisa"
paper = table_5("lisa")
