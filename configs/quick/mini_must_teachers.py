r"""Four specialised teachers on the miniature world, each trained alone on a dataset of its own.

In miniature: MuST, sections 3.1 and 3.2 (the network of Figure 3 with one head).
Hardware: 1 CPU core. Time: three to six minutes each. Expected: see README, "Self-training".
    python datasets/make_mini.py --root output/data
    for label in classes boxes segments depth; do
        python train_net.py --config-file configs/quick/mini_must_teachers.py --num-processes 1 \
            --data-root output/data --tasks $label train.output_dir=output/must/teachers/$label
    done        # `make must` gives boxes 300 iterations
"""

from detectron2.config import LazyCall as L

from gppf_d2.tasks.spec import Task

from ..common.mini_must import SUPERVISED, evaluation, head, mapper, network, source
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

tasks = {
    label: L(Task)(
        train=dataset,
        mapper=mapper({label: source(label, pseudo=False)}),
        batch_size=8,
        head=network({label: head(label)}),
        loss_weight=0.1 if label == "depth" else 1.0,
        evaluators=[evaluation(label)],
    )
    for label, dataset in SUPERVISED.items()
}

backbone.num_units = 1
train.output_dir = "output/must/teachers"
train.max_iter = 150
train.eval_batch_size = 8
train.checkpoint_period = 0
