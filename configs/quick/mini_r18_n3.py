"""Ablation: N = 3 units a layer (Table 1, last ResNet row).

Everything else as in mini_r18.py, and so are hardware, time and command.
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

backbone.num_units = 3
train.output_dir = "output/mini_r18_n3"
