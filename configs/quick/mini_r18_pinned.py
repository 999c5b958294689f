"""Ablation: a rank keeps its task; needs as many processes as tasks.

Everything else as in mini_r18.py, and so are hardware, time and command.
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

schedule.policy = "pinned"
train.output_dir = "output/mini_r18_pinned"
