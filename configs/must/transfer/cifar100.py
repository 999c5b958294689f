r"""Transfer to CIFAR-100: 100 kinds of objects, 50,000 and 10,000 images of 32 pixels.

MuST, first column of Tables 2, 3, 5 and 6, top-1 accuracy: ImageNet supervised 85.4, with
multi-task pseudo labels 86.3, SimCLR 87.1.
256 images a step of 224 pixels, random crops and flips, as in the linear and finetuning protocol of
SimCLR (appendix B.8), whose 20,000 steps (102 epochs) are the middle of the sweep; rates 0.005 to
0.08. It searches on a tenth of the training images, held out by class; the last training has all.
The sweep's rule, the command for all six, other checkpoints: configs/common/must_transfer.py.
Hardware: 1 GPU of 32 GB for a training, or any number that divides 256. Not yet run in full.
    python -m gppf_d2.tools.sweep --config-file configs/must/transfer/cifar100.py \
        --output DIR --workers 8 --num-gpus 1 --data-root DIR \
        train.init_checkpoint=RUN/model_final.pth
"""

from detectron2.config import LazyCall as L

from gppf_d2.data.mappers import ClassificationMapper
from gppf_d2.tasks.spec import Task

from ...common.evaluations import FORMAT, top1
from ...common.must import classes, student
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

RATE, STEPS = 0.02, 20_000

tasks = dict(
    cifar100=L(Task)(
        train="cifar100_trainval",
        batch_size=32,
        head=student(dict(classes=classes(100))),
        mapper=L(ClassificationMapper)(
            is_train=True, image_size=224, image_format=FORMAT, num_classes=100
        ),
        evaluators=[top1("cifar100_test")],
    )
)
optimizer.lr = RATE
train.max_iter = STEPS
train.total_batch_size = 256
# all test images have one size, so that batches are not padded
train.eval_batch_size = 64
train.output_dir = "output/must/transfer/cifar100"
sweep = search(
    "classification/top1",
    RATE,
    STEPS,
    searching=[
        "tasks.cifar100.train=cifar100_train",
        "tasks.cifar100.evaluators.0.dataset=cifar100_val",
        "tasks.cifar100.evaluators.0.evaluator.dataset_name=cifar100_val",
    ],
    final=[],
)
paper = results("cifar100", "classification/top1")
