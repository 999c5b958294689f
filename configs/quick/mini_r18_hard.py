"""Ablation: hard gates - only the sampled unit is computed (section 3.2, hard sample trick).

Everything else as in mini_r18.py, and so are hardware, time and command.
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

gates.mode = "hard"
train.output_dir = "output/mini_r18_hard"
