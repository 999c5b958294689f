"""Five tasks of the miniature world around a lego ResNet-18, N = 2: what `make demo` runs.

The tiny twin of configs/pretrain (GPPF, Table 1, row SIMT + SyncBN + DyNet N = 2).
Hardware: 2 CPU cores. Time: about 5 minutes. Expected: see README, "What the demo prints".
    python datasets/make_mini.py --root output/data
    python train_net.py --config-file configs/quick/mini_r18.py --num-processes 2 --data-root
    output/data
"""

from ..common.base import backbone, gates, input, lr_multiplier, optimizer, schedule, train
from ..common.mini_tasks import tasks

backbone.depth = 18
schedule.policy = "stratified"

optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.controller_lr_multiplier = 5.0
lr_multiplier.warmup_length = 0.05

train.output_dir = "output/mini_r18"
train.max_iter = 320
train.clip_norm = 5.0
train.num_workers = 0
train.eval_batch_size = 8
train.log_period = 20
train.route_period = 20
train.checkpoint_period = 160
