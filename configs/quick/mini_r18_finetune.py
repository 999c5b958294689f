r"""Finetuning in miniature: boxes in drawings and aerial pictures, from the demo's backbone.

GPPF, section 3.3. The route of `scenes` (a fixed path) and its head, without the layer that
predicts classes; the demo trained on this task too, so this shows the mechanism, not a gain.
Hardware: 2 CPU cores. Time: about two minutes. Not meant for its numbers.
    make demo
    python train_net.py --config-file configs/quick/mini_r18_finetune.py --num-processes 2 \
        --data-root output/data
    ... train.output_dir=output/dynamic train.init_route=dynamic                      # or
    ... train.output_dir=output/retrain train.init_route=output/dynamic/routes.json   # then, or
    ... train.output_dir=output/scratch train.init_checkpoint=
"""

from ..common.mini_tasks import tasks
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

for name in [name for name in tasks if name != "boxes"]:
    del tasks[name]

backbone.num_units = 1
gates.temperature.fraction = 0.5
train.init_checkpoint = "output/demo/model_final.pth"
train.init_route = "scenes"
train.init_head = "scenes"
train.total_batch_size = 8
train.output_dir = "output/mini_r18_finetune"
train.max_iter = 100
train.eval_batch_size = 8
train.checkpoint_period = 50
