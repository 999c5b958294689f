"""Ablation: N = 1 - the static backbone (Table 1, SIMT + SyncBN).

Everything else as in mini_r18.py, and so are hardware, time and command.
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

backbone.num_units = 1
train.output_dir = "output/mini_r18_static"
