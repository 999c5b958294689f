"""Ablation: independent draws of every rank, the schedule of the paper (section 3.2).

Everything else as in mini_r18.py, and so are hardware, time and command.
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

schedule.policy = "sampled"
train.output_dir = "output/mini_r18_sampled"
