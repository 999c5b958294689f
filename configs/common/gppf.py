"""The schedule of the joint pre-training (paper, D.1), on 7 x 8 GPUs: one batch each, 56 a step."""

from .base import backbone, gates, input, lr_multiplier, optimizer, schedule, train
from .gppf_tasks import tasks

# recomputation instead of stored activations, which lets 1024 px and soft gates fit
backbone.checkpoint = True
train.reference_world_size = 56
