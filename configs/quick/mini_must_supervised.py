r"""The baseline of mini_must_student.py: the four labelled datasets, each image with its own label.

In miniature: MuST, section 4.2, "supervised multi-task": no loss where a label is absent, datasets
drawn with equal probability.
Hardware: 1 CPU core. Time: about ten minutes. Expected: see README, "Self-training".
    python train_net.py --config-file configs/quick/mini_must_supervised.py --num-processes 1 \
        --data-root output/data
"""

from ..common.mini_must import SUPERVISED, mapper, source
from .mini_must_student import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

tasks.student.train = tuple(SUPERVISED.values())
tasks.student.equal_datasets = True
tasks.student.mapper = mapper({label: source(label, pseudo=False) for label in SUPERVISED})
train.output_dir = "output/must/supervised"
