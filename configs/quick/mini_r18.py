"""Five tasks of the miniature world around a lego ResNet-18, N = 2: what `make demo` runs.

In miniature: GPPF, Table 1, row SIMT + SyncBN + DyNet N = 2.
Hardware: 2 CPU cores. Time: about 5 minutes. Expected: see README, "What the demo prints".
    python datasets/make_mini.py --root output/data
    python train_net.py --config-file configs/quick/mini_r18.py --num-processes 2 \\
        --data-root output/data
"""

from torch.optim import AdamW

from ..common.base import backbone, gates, input, lr_multiplier, optimizer, schedule, train
from ..common.mini_tasks import tasks

backbone.depth = 18
schedule.policy = "stratified"

# AdamW learns more than SGD in a few hundred steps
optimizer._target_ = AdamW
optimizer.lr = 1e-3
optimizer.weight_decay = 0.05
optimizer.params.controller_lr_multiplier = 50.0
del optimizer["momentum"]
lr_multiplier.warmup_length = 0.05

train.output_dir = "output/mini_r18"
train.max_iter = 260
train.clip_norm = 5.0
train.num_workers = 0
train.eval_batch_size = 8
train.log_period = 20
train.route_period = 20
train.checkpoint_period = 130
