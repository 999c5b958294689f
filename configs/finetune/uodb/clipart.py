r"""Finetuning on UODB's Clipart: twenty classes in clip art.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 68.3, (Objects365) 73.6, (Dyfinetune) 77.5.
Table 8: 1,800 iterations of 16 images, decays at 1,500 and 1,700, test size 800, COCO's anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/clipart.py --num-gpus 8 \
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

tasks = dict(clipart=detection("clipart", num_classes=20))
budget(lr_multiplier, train, steps=1800, decays=(1500, 1700))
train.output_dir = "output/finetune/uodb/clipart"
paper = table_5("clipart")
