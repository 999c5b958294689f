r"""Ablation: one task per batch on all ranks, no SIMT and no SyncBN.

GPPF, Table 1, first row of GPPF-R50: not converge (section 4.2).
Everything else as in gppf_r50_no_syncbn.py, and so are hardware and command.
"""

from ..common.gppf_tasks import table_1
from .gppf_r50_no_syncbn import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

schedule.policy = "per_batch"
train.output_dir = "output/gppf_r50_per_batch"
paper = table_1("GPPF-R50 without SIMT and SyncBN: not converge")
