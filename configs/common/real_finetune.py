"""Finetuning on a small real dataset from the backbone of configs/real/pack_r18.py.

The route of coco, and its head without the layers that predict classes; 150 iterations of eight
images from either start: ``train.init_checkpoint=`` is the baseline from scratch.
"""

from .short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

backbone.num_units = 1
gates.temperature.fraction = 0.5
train.init_checkpoint = "output/pack_r18/model_final.pth"
train.init_route = "coco"
train.init_head = "coco"
train.total_batch_size = 8
train.max_iter = 150
train.eval_batch_size = 4
train.checkpoint_period = 0
