r"""MuST on pictures that nobody has labelled: four pseudo labels, learned weights.

Table 6, "Multi-Task Pseudo Labels" on 300M images: CIFAR-100 87.6, Pascal detection 87.8, Pascal
segmentation 82.2, NYU 89.8, ADE20K 47.0, DIODE 56.2. The paper learns the weights there [25].
Labels:
    python -m gppf_d2.tools.pseudo_label --config-file configs/must/labels.py \
        dataset= images=PICTURES output=DIR/pseudo/pictures
Hardware: 32 GPUs of 32 GB, 8 images each; any number that divides 256. Not yet run in full.
    torchrun --nnodes 4 --nproc-per-node 8 [rendezvous] train_net.py --data-root DIR \
        --config-file configs/must/students/unlabelled.py
"""

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

tasks = student(
    "pseudo_pictures",
    dict(classes={}, boxes={}, segments={}, depth={}),
    learned=True,
)
train.output_dir = "output/must/unlabelled"
