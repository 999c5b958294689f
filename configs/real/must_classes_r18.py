r"""The other baseline of must_student_r18.py: classes alone, as ImageNet pre-training has them.

    python train_net.py --config-file configs/real/must_classes_r18.py --num-processes 1 \
        --data-root DIR
Hardware: 1 CPU core. Time: about ten minutes.
"""

from ..common.real_must import evaluations, mapper, network
from .must_student_r18 import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    tasks,
    train,
)

tasks.student.train = "cifar10_images_train"
tasks.student.mapper = mapper(["classes"], pseudo=False)
tasks.student.head = network(["classes"])
tasks.student.evaluators = evaluations(["classes"])
train.output_dir = "output/must_r18/classes"
