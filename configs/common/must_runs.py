"""MuST's teachers and students at full size: datasets, batches, learning rates (sections 3 and 4).

The paper's appendix with its settings is not available. Chosen here: images of 640 pixels after
large-scale jitter of 0.5 to 2.0, the same for teachers and students (section 3.2: they differ in
data and labels alone); SGD with momentum 0.9, weight decay 1e-4, cosine schedule; 90 epochs of
ImageNet at 256 images a step for students, and

    teacher      dataset                 images a step   learning rate   steps
    classes      ImageNet-1K             256             0.1             450,000 (90 epochs)
    boxes        Objects365              64              0.08            270,000
    segments     COCO-Stuff              64              0.08            90,000
    depth        MiDaS, downloaded; or NYU Depth v2, 64, 0.02, 30,000 (metres)

The paper's Objects365 (600k images) is v1, ours v2; its COCO segmentation is COCO's 118k images,
here with the 171 classes of COCO-Stuff. Which ResNet it was, the text does not say:
``backbone.depth=101`` or 152 are other choices.
"""

from detectron2.config import LazyCall as L

from gppf_d2.modeling.heads import scaling_rule
from gppf_d2.tasks.spec import Task

from .base import backbone, gates, input, lr_multiplier, optimizer, schedule, train
from .evaluations import boxes, metres, miou, top1
from .must import boxes as boxes_head
from .must import classes as classes_head
from .must import depth as depth_head
from .must import inverse_depth as inverse_depth_head
from .must import labelled, of_label
from .must import segments as segments_head
from .must import student as network_with

SUPERVISED = dict(
    classes="imagenet_1k_train",
    boxes="objects365_v2_train",
    segments="coco_stuff_164k_sem_seg_train",
)
KINDS = dict(classes="classes", boxes="instances", segments="sem_seg", depth="inverse_depth")
COUNTS = dict(classes=1000, boxes=365, segments=171)
# images a step and learning rate of each teacher
TEACHERS = dict(classes=(256, 0.1), boxes=(64, 0.08), segments=(64, 0.08))
# of the depth loss, the one weight that the paper found by a sweep
DEPTH_WEIGHT = 1.0

backbone.num_units = 1
optimizer.lr = 0.1
optimizer.weight_decay = 1e-4
lr_multiplier.warmup_length = 0.01
train.total_batch_size = 256
train.max_iter = 450_000
train.eval_batch_size = 1


def head(label):
    """The head of a label."""
    heads = dict(
        classes=classes_head,
        boxes=boxes_head,
        segments=segments_head,
        depth=inverse_depth_head,
    )
    return heads[label](*(COUNTS[label],) if label in COUNTS else ())


def source(label, supervised=True, pseudo=True):
    """Where a label comes from: its own dataset, pseudo labels, or both."""
    own = supervised and label in SUPERVISED
    return dict(
        kind=KINDS[label],
        supervised=[SUPERVISED[label]] if own else [],
        pseudo=pseudo,
        num_classes=COUNTS.get(label),
    )


def evaluation(label):
    """The validation set of a label's own dataset; relative depth has none."""
    if label == "classes":  # objects as large as the jitter's mean makes them
        return of_label(label, top1("imagenet_1k_val", image_size=448))
    if label == "boxes":
        return of_label(label, boxes("objects365_v2_val", masks=False))
    return of_label(label, miou("coco_stuff_164k_sem_seg_val", short=640))


def teacher(label, steps):
    """The tasks of a run that trains one teacher on its own dataset."""
    batch, rate = TEACHERS[label]
    train.total_batch_size, optimizer.lr, train.max_iter = batch, rate, steps
    task = L(Task)(
        train=SUPERVISED[label],
        mapper=labelled({label: source(label, pseudo=False)}),
        batch_size=8,
        filter_empty=label == "boxes",
        head=network_with({label: head(label)}),
        evaluators=[evaluation(label)],
    )
    return {label: task}


def depth_teacher():
    """The tasks of a run that trains a teacher of depth in metres on NYU Depth v2."""
    train.total_batch_size, optimizer.lr, train.max_iter = 64, 0.02, 30_000
    labels = dict(depth=dict(kind="depth", supervised=["nyu_depth_train"], pseudo=False))
    return dict(
        depth=L(Task)(
            train="nyu_depth_train",
            # other scales would be other focal lengths: metres need one
            mapper=labelled(labels, scale=(1.0, 1.0)),
            batch_size=8,
            head=network_with(dict(depth=depth_head(10.0))),
            evaluators=[of_label("depth", metres("nyu_depth_test", short=480, longest=640))],
        )
    )


def weights(labels):
    """w = (b_s lr_t) / (b_t lr_s) of each label, and the swept one of depth (section 3.2)."""
    found = {
        label: L(scaling_rule)(
            student_batch="${train.total_batch_size}",
            student_lr="${optimizer.lr}",
            teacher_batch=TEACHERS[label][0],
            teacher_lr=TEACHERS[label][1],
        )
        for label in labels
        if label in TEACHERS
    }
    return {**found, **(dict(depth=DEPTH_WEIGHT) if "depth" in labels else {})}


def student(train_sets, labels, equal_datasets=False, learned=False):
    """The tasks of a run that trains one student.

    ``labels``: label -> arguments of ``source``; ``learned`` weights the losses by uncertainty
    instead of the scaling rule, as the paper does on JFT (section 3.2).
    """
    return dict(
        student=L(Task)(
            train=train_sets,
            mapper=labelled({name: source(name, **how) for name, how in labels.items()}),
            batch_size=8,
            equal_datasets=equal_datasets,
            head=network_with(
                {name: head(name) for name in labels},
                weights={} if learned else weights(labels),
                weighting="uncertainty" if learned else "fixed",
            ),
            evaluators=[evaluation(name) for name in labels if name != "depth"],
        )
    )
