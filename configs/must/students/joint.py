r"""A student beside labelled tasks in one SIMT run around a lego ResNet-50, N = 2.

The student (section 3.2) is one task of a multi-task run (GPPF, section 3.2): it has a route
of its own, shares candidate units with detection on COCO and segmentation on ADE20K, and its pseudo
labels never mix with theirs. Neither paper has this experiment. Labels as in unlabelled.py.
Hardware: 32 GPUs of 32 GB. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/joint.py
"""

from ...common.gppf_tasks import gppf_tasks
from ...common.must_runs import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    schedule,
    student,
    train,
)

labelled = gppf_tasks()
tasks = dict(
    **student(
        "pseudo_pictures",
        dict(classes={}, boxes={}, segments={}, depth={}),
        learned=True,
    ),
    coco=labelled["coco"],
    ade20k=labelled["ade20k"],
)
tasks["student"].weight = 4.0
del labelled

backbone.num_units = 2
train.total_batch_size = 0
train.output_dir = "output/must/joint"
