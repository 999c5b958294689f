r"""ImageNet-1K from scratch: a plain ResNet-50, the baseline of Table 6.

GPPF, Table 6, top-1 / top-5: Scratch(repro) 78.12 / 93.95.
D.2: learning rate 0.1. Everything else as in imagenet_1k.py.
    python train_net.py --config-file configs/finetune/imagenet_1k_scratch.py --num-gpus 8 \
        --data-root DIR
"""

from .imagenet_1k import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    paper,
    schedule,
    tasks,
    train,
)

optimizer.lr = 0.1
train.init_checkpoint = train.init_route = ""
train.output_dir = "output/finetune/imagenet_1k_scratch"
