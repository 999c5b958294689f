r"""Transfer to NYU Depth v2: metres indoors, 47,584 pictures for training and 654 for the test.

MuST, fourth column of Tables 2, 3, 5 and 6, pixels within a factor of 1.25: ImageNet supervised
81.0, with multi-task pseudo labels 87.8, SimCLR 83.7. The paper has percent, the metric shares of
one: 87.8 is depth/delta1 0.878, and so are the rows of the table.
BTS' augmentation for NYU: turned by up to 2.5 degrees, crops of 416 x 544 of 480 x 640, flips,
gamma and colours; evaluated are 1 mm to 10 m in Eigen's crop. The loss is scale-invariant, weight
0.1 as in GPPF's finetuning of depth, whose rate, 0.01, is the middle of the sweep: rates 0.0025 to
0.04. 16 images a step; 15,000, 30,000 and 60,000 steps are 5, 10 and 20 epochs. The search sees the
test set, as the paper's, as far as one can tell.
A student's depth is relative, this is in metres: of its head the convolutions come along, the last
layer starts afresh.
The sweep's rule, the command for all six, other checkpoints: configs/common/must_transfer.py.
Hardware: 4 GPUs of 16 GB for a training, 4 images each; any number that divides 16. Not yet run in
full.
    python -m gppf_d2.tools.sweep --config-file configs/must/transfer/nyu_depth.py \
        --output DIR --workers 2 --num-gpus 4 --data-root DIR \
        train.init_checkpoint=RUN/model_final.pth
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.depth_augmentations import GammaAndColor
from gppf_d2.data.mappers import DepthMapper
from gppf_d2.tasks.spec import Task

from ...common.evaluations import FORMAT, metres
from ...common.must import depth, student
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

RATE, STEPS = 0.01, 30_000

tasks = dict(
    nyu_depth=L(Task)(
        train="nyu_depth_train",
        batch_size=2,
        loss_weight=0.1,
        head=student(dict(depth=depth(max_depth=10.0))),
        mapper=L(DepthMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomRotation)(angle=[-2.5, 2.5], expand=False),
                L(T.RandomCrop)(crop_type="absolute", crop_size=(416, 544)),
                L(T.RandomFlip)(horizontal=True),
                L(GammaAndColor)(probability=0.5),
            ],
            image_format=FORMAT,
        ),
        evaluators=[metres("nyu_depth_test", short=480, longest=640)],
    )
)
tasks["nyu_depth"].evaluators[0]["evaluator"].crop = "nyu_eigen"
optimizer.lr = RATE
train.max_iter = STEPS
train.output_dir = "output/must/transfer/nyu_depth"
sweep = search("depth/delta1", RATE, STEPS)
paper = results("nyu_depth", "depth/delta1", unit=0.01)
