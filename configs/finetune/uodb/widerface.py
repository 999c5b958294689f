r"""Finetuning on UODB's WiderFace: faces.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 65.9, (Objects365) 66.5, (Dyfinetune) 66.2.
Table 8: 26,000 iterations of 16 images, decays at 18,000 and 24,000, test size 800, halved anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/widerface.py --num-gpus 8 \
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

tasks = dict(widerface=detection("widerface", num_classes=1, anchor_sizes=HALVED))
budget(lr_multiplier, train, steps=26_000, decays=(18_000, 24_000))
train.output_dir = "output/finetune/uodb/widerface"
paper = table_5("widerface")
