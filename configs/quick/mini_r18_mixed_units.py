"""Units of different architecture in one layer: a stock, a deformable and a depthwise block.

Everything else as in mini_r18.py, and so are hardware and command. Beyond the paper (section 5
leaves it as future work).
"""

from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

backbone.num_units = 3
backbone.units = ["basic", "deformable", "depthwise"]
train.output_dir = "output/mini_r18_mixed_units"
