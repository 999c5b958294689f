"""Ten classification sets (paper, section 4.3.3; numbers: D.2), by the protocol of [15] and [32].

20,000 iterations of 256 images; random crops and flips only, and at test time the centre of 224
pixels of the image resized to 256 along its shorter side; SGD, momentum 0.9. Learning rate and
weight decay are searched: every set is trained on train and evaluated on val at 7 x 8 points, then
trained on train and val with the best point and evaluated on test.

    python -m gppf_d2.tools.sweep --config-file configs/finetune/classification/cars.py \
        --output output/sweep/cars --workers 8 --num-gpus 1 --data-root DIR \
        train.init_checkpoint=RUN/model_final.pth

By itself a leaf is that last training (trainval, test), with a point from the middle of the grid.

    train.init_route=in21k     row GPPF-R50(IN21K), the default
    train.init_route=dynamic   dynamic finetuning, which Table 7 does not have

What D.2 leaves open: a cosine to 0 without warm-up (it is [15], SimCLR, appendix B.8, that the
protocol comes from, which follows Kornblith et al., 2019), and Nesterov momentum as there. [15]
searches learning rates from 1e-4 where D.2 says 1e-6, and sets the momentum of batch norm's
statistics to max(1 - 10 / iterations per epoch, 0.9), in PyTorch's terms 0.1 or less; here it is
0.1. SUN397's and DTD's first split, as there.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from gppf_d2.data.mappers import ClassificationMapper
from gppf_d2.tasks.spec import Task

from .evaluations import FORMAT, top1
from .finetune import backbone, gates, input, optimizer, schedule, train
from .heads import classification

# 7 values from 1e-6 to 0.1, each 10 ** (5 / 6) = 6.8 times the one before
LEARNING_RATES = [10 ** (-6 + 5 * step / 6) for step in range(7)]
# 0 and 7 values from 1e-6 to 1e-3, each 10 ** (3 / 6) = 3.2 times the one before
WEIGHT_DECAYS = [0.0] + [10 ** (-6 + 3 * step / 6) for step in range(7)]

# percent; the last four sets: mean of the classes' accuracies
TABLE_7 = {
    "food101": (86.9, 88.3, 88.2, 88.5, 87.7),
    "cifar10": (95.9, 97.5, 97.7, 97.8, 97.9),
    "cifar100": (80.2, 86.4, 85.9, 86.1, 87.1),
    "sun397": (53.6, 64.3, 63.5, 63.7, 64.3),
    "cars": (91.4, 92.1, 91.3, 91.6, 91.8),
    "dtd": (64.8, 74.6, 73.2, 76.2, 77.2),
    "aircraft": (85.9, 86.0, 88.1, 88.1, 89.0),
    "pets": (81.5, 92.1, 89.2, 91.7, 92.3),
    "caltech101": (72.6, 93.3, 92.1, 93.8, 95.1),
    "flowers": (92.0, 97.6, 97.0, 97.0, 98.4),
}
ROWS = ("Random init [15]", "ImageNet1K[15]", "SimCLR [15]", "BYOL [32]", "GPPF-R50(IN21K)")
PER_CLASS = ("aircraft", "pets", "caltech101", "flowers")

# the fifth learning rate, the middle of [15]'s narrower grid, and the middle weight decay
optimizer.lr = LEARNING_RATES[4]
optimizer.weight_decay = WEIGHT_DECAYS[4] / LEARNING_RATES[4]
optimizer.momentum = 0.9
optimizer.nesterov = True
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
train.max_iter = 20_000
train.total_batch_size = 256
train.init_route = "in21k"
# all test images have one size, so that batches are not padded
train.eval_batch_size = 64


def metric_of(name):
    """The paper's metric of a set, as results.json names it."""
    return "classification/mean_per_class" if name in PER_CLASS else "classification/top1"


def table_7(name):
    """The rows of Table 7 for a set."""
    return dict(table="Table 7", metric=metric_of(name), rows=dict(zip(ROWS, TABLE_7[name])))


def crops_and_flips(name, num_classes):
    """The task of one set: train and val for training, test for evaluation."""
    return L(Task)(
        train=f"{name}_trainval",
        batch_size=32,
        head=classification(num_classes, label_smoothing=0.0),
        mapper=L(ClassificationMapper)(
            is_train=True, image_size=224, image_format=FORMAT, num_classes=num_classes
        ),
        evaluators=[top1(f"{name}_test")],
    )


def grid_search(name):
    """D.2's search; the weight decay of the grid is divided by the learning rate."""
    evaluation = f"tasks.{name}.evaluators.0"
    return dict(
        metric=metric_of(name),
        direction="maximize",
        grid=dict(lr=LEARNING_RATES, weight_decay=WEIGHT_DECAYS),
        set={"optimizer.lr": "lr", "optimizer.weight_decay": "weight_decay / lr"},
        search=[
            f"tasks.{name}.train={name}_train",
            f"{evaluation}.dataset={name}_val",
            f"{evaluation}.evaluator.dataset_name={name}_val",
            "train.checkpoint_period=0",
        ],
        final=[],
    )
