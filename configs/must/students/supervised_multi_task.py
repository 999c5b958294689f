r"""The baseline of cross-dataset training: every image has the label of its own dataset only.

Table 5, "Supervised Multi-Task": CIFAR-100 85.3, Pascal detection 85.1, Pascal segmentation 82.1,
NYU 87.6, ADE20K 43.9, DIODE 53.4. No loss where a label is absent; the datasets are drawn with
equal probability (section 4.2).
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/supervised_multi_task.py
"""

from ...common.must_runs import (
    SUPERVISED,
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    student,
    train,
)

tasks = student(
    tuple(SUPERVISED.values()),
    dict(classes=dict(pseudo=False), boxes=dict(pseudo=False), segments=dict(pseudo=False)),
    equal_datasets=True,
)
train.output_dir = "output/must/supervised_multi_task"
