"""Depth on KITTI's Eigen split with the head of BTS (paper, sections 4.3.1 and D.2).

D.2 gives the optimisation; what it leaves open is BTS' own (Lee et al., arXiv 1907.10326): the
bottom 352 x 1216 of a picture, in training turned by up to 1 degree, cropped to 352 x 704, flipped,
and changed in gamma and colour; truth below 1 m is not learned from; predictions are those of a
camera with a focal length of 715.0873 pixels. Evaluated are 1 mm to 80 m in Garg's crop.

Left open by both and chosen here: the head's norms have Detectron2's momentum (BTS: 0.01), and a
convolution of the image stands in for the stem's map of stride 2 (`gppf_d2.modeling.heads.bts`).
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.depth_augmentations import BottomCenterCrop, GammaAndColor
from gppf_d2.data.mappers import DepthMapper
from gppf_d2.evaluation import DepthEvaluator
from gppf_d2.tasks.spec import Task

from .evaluations import FORMAT
from .heads import bts

WINDOW = (352, 1216)  # height, width
CROP = (352, 704)


def kitti():
    """KITTI's Eigen split, trained and evaluated as BTS does."""
    return L(Task)(
        train="kitti_eigen_train",
        mapper=L(DepthMapper)(
            is_train=True,
            augmentations=[
                L(BottomCenterCrop)(size=WINDOW),
                L(T.RandomRotation)(angle=[-1.0, 1.0], expand=False),
                L(T.RandomCrop)(crop_type="absolute", crop_size=CROP),
                L(T.RandomFlip)(horizontal=True),
                L(GammaAndColor)(probability=0.5),
            ],
            image_format=FORMAT,
        ),
        batch_size=4,
        loss_weight=0.1,
        head=bts(max_depth=80.0, min_depth=1.0, focal_reference=715.0873),
        evaluators=[
            dict(
                dataset="kitti_eigen_test",
                evaluator=L(DepthEvaluator)(
                    dataset_name="kitti_eigen_test", min_depth=1e-3, max_depth=80.0, crop="garg"
                ),
                mapper=L(DepthMapper)(
                    is_train=False,
                    augmentations=[L(BottomCenterCrop)(size=WINDOW)],
                    image_format=FORMAT,
                ),
            )
        ],
    )
