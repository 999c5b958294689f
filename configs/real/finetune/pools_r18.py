r"""Finetuning on a small real dataset: swimming pools from the air, 100 images.

In miniature: GPPF, section 4.3.2. Pre-train (no aerial picture in it):
    python train_net.py --config-file configs/real/pack_r18.py --num-processes 2 --data-root DIR
and then
    python train_net.py --config-file configs/real/finetune/pools_r18.py --num-processes 1 \
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
    pools=detection("pools_train", "pools_val", 1, masks=False, anchors=(8, 16, 32, 64, 128)),
)
train.output_dir = "output/pools_r18"
