r"""Ablation: SIMT with the batch norm of every rank alone.

GPPF, Table 1: SIMT without SyncBN: not converge (section 4.2).
Everything else as in gppf_r50_static.py, and so are hardware and command.
"""

from ..common.gppf_tasks import table_1
from .gppf_r50_static import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

backbone.norm = "BN"
train.output_dir = "output/gppf_r50_no_syncbn"
paper = table_1("GPPF-R50 without SyncBN: not converge")
