r"""Five tasks of the miniature world around a lego ResNet-18, N = 2: what `make demo` runs.

In miniature: GPPF, Table 1, row SIMT + SyncBN + DyNet N = 2.
Hardware: 2 CPU cores. Time: about 5 minutes. Expected: see README, "What the demo prints".
    python datasets/make_mini.py --root output/data
    python train_net.py --config-file configs/quick/mini_r18.py --num-processes 2 \
        --data-root output/data
"""

from detectron2.config import LazyCall as L

from ..common.mini_tasks import tasks
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

train.output_dir = "output/mini_r18"
train.max_iter = 260
train.hooks = dict(pictures=L("gppf_d2.analysis.TrainingPictures")(period=130))
train.eval_batch_size = 8
train.checkpoint_period = 130
