"""Settings for runs of minutes on a CPU: ResNet-18, AdamW, controllers that decide quickly."""

from torch.optim import AdamW

from .base import backbone, gates, input, lr_multiplier, optimizer, schedule, train

backbone.depth = 18
schedule.policy = "stratified"

# AdamW learns more than SGD in a few hundred steps
optimizer._target_ = AdamW
optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
optimizer.params.controller_lr_multiplier = 50.0
del optimizer["momentum"]
lr_multiplier.warmup_length = 0.05

train.clip_norm = 5.0
train.num_workers = 0
train.log_period = 20
train.route_period = 20
train.hooks = {}
