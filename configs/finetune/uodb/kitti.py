r"""Finetuning on UODB's KITTI: cars, pedestrians and cyclists.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 71.3, (Objects365) 74.2, (Dyfinetune) 76.1.
Table 8: 4,000 iterations of 16 images, decays at 3,000 and 3,500, test size 800, COCO's anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/kitti.py --num-gpus 8 \
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

tasks = dict(kitti=detection("kitti", num_classes=3))
budget(lr_multiplier, train, steps=4000, decays=(3000, 3500))
train.output_dir = "output/finetune/uodb/kitti"
paper = table_5("kitti")
