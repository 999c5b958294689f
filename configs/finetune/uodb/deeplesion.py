r"""Finetuning on UODB's DeepLesion: lesions in CT slices.

GPPF, Table 5, AP50: GPPF-R50(IN21K) 62.5, (Objects365) 61.4, (Dyfinetune) 62.6.
Table 8: 50,000 iterations of 16 images, decays at 30,000 and 40,000, test size 512, halved anchors.
What else is set, and what the paper leaves open: configs/common/uodb.py.
Hardware: 8 GPUs of 16 GB, 2 images each; any number that divides 16. Not yet run in full.
    python train_net.py --config-file configs/finetune/uodb/deeplesion.py --num-gpus 8 \
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

tasks = dict(deeplesion=detection("deeplesion", num_classes=1, size=512, anchor_sizes=HALVED))
budget(lr_multiplier, train, steps=50_000, decays=(30_000, 40_000))
train.output_dir = "output/finetune/uodb/deeplesion"
paper = table_5("deeplesion")
