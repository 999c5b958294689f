r"""Finetuning on a small real dataset: faces with and without masks, 3 classes, 226 images.

In miniature: GPPF, section 4.3.2. Pre-train (no face mask in it):
    python train_net.py --config-file configs/real/pack_r18.py --num-processes 2 --data-root DIR
and then
    python train_net.py --config-file configs/real/finetune/faces_r18.py --num-processes 1 \
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
    faces=detection("facemask_train", "facemask_val", 3, masks=False, anchors=(8, 16, 32, 64, 128)),
)
train.output_dir = "output/faces_r18"
