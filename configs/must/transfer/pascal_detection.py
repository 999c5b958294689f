r"""Transfer to Pascal detection: twenty classes, trainval of VOC 2007 and 2012, test of 2007.

MuST, second column of Tables 2, 3, 5 and 6, AP50: ImageNet supervised 79.3, with multi-task pseudo
labels 85.1, SimCLR 83.3.
16,551 images (Table 1: 16.5k) and 4,952. Sizes are those of Detectron2's own VOC config: a shorter
side of 480 to 800 pixels in training and 800 in the test, 16 images a step; its 18,000 steps (17
epochs) are the middle of the sweep, half of its rate too (it has 0.02 and steps, here is a cosine):
rates 0.0025 to 0.04. AP50 is the area under the curve, as in VOC 2010 and later; the paper does not
say which. The search sees the test set, as the paper's, as far as one can tell; so does its table.
The sweep's rule, the command for all six, other checkpoints: configs/common/must_transfer.py.
Hardware: 8 GPUs of 16 GB for a training, 2 images each; any number that divides 16. Not yet run in
full.
    python -m gppf_d2.tools.sweep --config-file configs/must/transfer/pascal_detection.py \
        --output DIR --num-gpus 8 --data-root DIR train.init_checkpoint=RUN/model_final.pth
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.mappers import DetectionMapper
from gppf_d2.tasks.spec import Task

from ...common.evaluations import FORMAT, voc_ap50
from ...common.must import boxes, student
from ...common.must_transfer import (
    backbone,
    gates,
    input,
    lr_multiplier,
    optimizer,
    results,
    schedule,
    search,
    train,
)

RATE, STEPS = 0.01, 18_000

tasks = dict(
    pascal_detection=L(Task)(
        train="uodb_pascal_voc_train",
        filter_empty=True,
        batch_size=2,
        head=student(dict(boxes=boxes(20))),
        mapper=L(DetectionMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=list(range(480, 801, 32)),
                    max_size=1333,
                    sample_style="choice",
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format=FORMAT,
            num_classes=20,
        ),
        evaluators=[voc_ap50("uodb_pascal_voc_test")],
    )
)
optimizer.lr = RATE
train.max_iter = STEPS
train.output_dir = "output/must/transfer/pascal_detection"
sweep = search("voc/AP50", RATE, STEPS)
paper = results("pascal_detection", "voc/AP50")
