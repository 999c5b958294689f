"""Six tasks on small REAL datasets in one SIMT run: photographs, street scenes, cells, a room.

Datasets (see datasets/README.md; original formats and splits): CIFAR-10 as image folders, COCO128
(boxes and masks), BCCD (boxes), DSB2018 nuclei (instances), CamVid (semantic), 7-Scenes (depth).
Hardware: 2 CPU cores, 2 or 3 processes. Time: about 15 minutes. Expected: every loss falls; with a
few hundred images each and minutes of a CPU the numbers are small.
    python train_net.py --config-file configs/real/pack_r18.py --num-processes 2 --data-root DIR
"""

from detectron2.config import LazyCall as L

from gppf_d2.data.mappers import ClassificationMapper, DepthMapper, SemanticMapper
from gppf_d2.tasks.spec import Task

from ..common.evaluations import FORMAT, metres, miou, top1
from ..common.heads import classification, depth, semantic_fpn
from ..common.pack import LONGEST, SHORT, augment, detection
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

tasks = dict(
    cifar=L(Task)(
        train="cifar10_images_train",
        mapper=L(ClassificationMapper)(
            is_train=True, image_size=64, image_format=FORMAT, num_classes=10
        ),
        batch_size=32,
        weight=1.0,
        head=classification(10),
        evaluators=[top1("cifar10_images_test", image_size=64)],
    ),
    coco=detection("coco128_train", "coco128_val", 80, masks=True, weight=1.5),
    blood=detection("bccd_train", "bccd_val", 3, masks=False, weight=1.5),
    nuclei=detection(
        "nuclei_train", "nuclei_val", 1, masks=True, weight=1.0, anchors=(8, 12, 24, 40, 64)
    ),
    camvid=L(Task)(
        train="camvid_train",
        mapper=L(SemanticMapper)(
            is_train=True,
            augmentations=augment(128, 192),
            image_format=FORMAT,
            num_classes=11,
        ),
        batch_size=4,
        weight=1.0,
        head=semantic_fpn(11, channels=64, conv_dims=64),
        evaluators=[miou("camvid_val", short=SHORT, longest=LONGEST)],
    ),
    room=L(Task)(
        train="seven_scenes_train",
        mapper=L(DepthMapper)(
            is_train=True, augmentations=augment(SHORT, SHORT), image_format=FORMAT
        ),
        batch_size=4,
        weight=1.0,
        loss_weight=0.1,  # as in the paper's depth finetuning (D.2)
        head=depth(max_depth=10.0, min_depth=0.3, channels=64),
        evaluators=[metres("seven_scenes_val", short=SHORT, longest=LONGEST)],
    ),
)

train.output_dir = "output/pack_r18"
train.max_iter = 320
train.eval_batch_size = 4
train.checkpoint_period = 160
