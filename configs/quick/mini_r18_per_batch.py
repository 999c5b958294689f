"""Ablation: one task per batch (Table 1, the first row that does not converge).

Everything else as in mini_r18.py, and so are hardware, time and command.
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

backbone.num_units = 1
schedule.policy = "per_batch"
train.output_dir = "output/mini_r18_per_batch"
