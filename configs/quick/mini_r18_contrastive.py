"""A self-supervised task (SimCLR) beside the five labelled ones in one SIMT run.

Everything else as in mini_r18.py, and so are hardware and command. Beyond the paper (section 5).
The task "views" learns from the images of mini_scenes without their labels and is evaluated by the
20 nearest neighbours among the images of mini_objects_val.
"""

from detectron2.config import LazyCall as L

from gppf_d2.data.image_transforms import contrastive_view
from gppf_d2.data.mappers import ClassificationMapper, TwoViewsMapper
from gppf_d2.evaluation import NearestNeighbourEvaluator
from gppf_d2.tasks.spec import Task

from ..common.heads import contrastive
from .mini_r18 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

FORMAT, CROP = "${input.pixel_format}", 64

tasks.views = L(Task)(
    train="mini_scenes_train",
    mapper=L(TwoViewsMapper)(
        image_size=CROP,
        image_format=FORMAT,
        transform=L(contrastive_view)(image_size=CROP, blur_probability=0.0),
    ),
    batch_size=16,
    weight=1.0,
    head=contrastive(),
    evaluators=[
        dict(
            dataset="mini_objects_val",
            evaluator=L(NearestNeighbourEvaluator)(dataset_name="mini_objects_val"),
            mapper=L(ClassificationMapper)(is_train=False, image_size=CROP, image_format=FORMAT),
        )
    ],
)
train.output_dir = "output/mini_r18_contrastive"
