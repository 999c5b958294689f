r"""Finetuning on a small real dataset: blood cells under the microscope, 3 classes, 205 images.

In miniature: GPPF, section 4.3.2. Pre-train without it:
    python train_net.py --config-file configs/real/pack_r18.py --num-processes 2 --data-root DIR \
        --tasks cifar,coco,nuclei,camvid,room train.max_iter=600
and then
    python train_net.py --config-file configs/real/finetune/blood_r18.py --num-processes 1 \
        --data-root DIR [train.init_checkpoint=] [train.init_route=dynamic]
Hardware: 1 CPU core. Time: about three minutes. Not meant for its numbers.
"""

from ...common.pack import detection
from ...common.real_finetune import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    train,
)

tasks = dict(
    blood=detection("bccd_train", "bccd_test", 3, masks=False),
)
train.output_dir = "output/blood_r18"
