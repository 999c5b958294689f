r"""Finetuning on UODB's PASCAL VOC: twenty classes of photographs.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 87.3, (Objects365) 88.4, (Dyfinetune) 88.1.
Table 8: 18,000 iterations of 16 images, decays at 12,000 and 16,000, test size 800, COCO's anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/pascal_voc.py --num-gpus 8 \
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

tasks = dict(pascal_voc=detection("pascal_voc", num_classes=20))
budget(lr_multiplier, train, steps=18_000, decays=(12_000, 16_000))
train.output_dir = "output/finetune/uodb/pascal_voc"
paper = table_5("pascal_voc")
