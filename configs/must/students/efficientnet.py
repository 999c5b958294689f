r"""Bootstrapping from a given checkpoint: the student of unlabelled.py around an EfficientNet-B7.

Section 4.3, Figure 5: teachers and student start from one backbone file; the paper's is ALIGN's,
which is not public: give any EfficientNet-B7 of timm. The teachers are configs/must/teachers/*.py
with `backbone` replaced in the same way (configs/common/must.py, timm_backbone).
Hardware: 64 GPUs of 32 GB, 4 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 8 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/efficientnet.py train.init_checkpoint=FILE.safetensors
"""

from ...common.must import timm_backbone
from .unlabelled import (
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

backbone = timm_backbone("tf_efficientnet_b7")
train.output_dir = "output/must/efficientnet"
