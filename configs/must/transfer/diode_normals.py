r"""Transfer to DIODE: surface normals outdoors, 16,884 and 446 pictures; no teacher knows the task.

MuST, sixth column of Tables 2, 3, 5 and 6: ImageNet supervised 48.9, with multi-task pseudo labels
52.7, SimCLR 52.8. The paper prints one number, more is better, and does not say of what. Here it is
taken for the percent of pixels within 11.25 degrees: networks of its time, trained and tested on
NYU v2, have some 40 to 60 % there and some 70 % and more within the others, 22.5 and 30, for which
49 to 56 % would be little. That is an inference; results.json has all three, mean and median.
The cosine loss. Pictures of 768 x 1024 with a shorter side of 384 to 576 pixels, crops of 384 x
512, flips, colours; in the test 480 x 640, compared at the size of the file. Nothing usual is known
of rates: the loss is 2 at most and small soon, so they are four times those of segmentation, 0.01
to 0.16. 16 images a step; 10,000, 20,000 and 40,000 steps are 9, 19 and 38 epochs. The search sees
val, the set that is reported: the test's pictures are not public.
The sweep's rule, the command for all six, other checkpoints: configs/common/must_transfer.py.
Hardware: 4 GPUs of 16 GB for a training, 4 images each; any number that divides 16. Not yet run in
full.
    python -m gppf_d2.tools.sweep --config-file configs/must/transfer/diode_normals.py \
        --output DIR --workers 2 --num-gpus 4 --data-root DIR \
        train.init_checkpoint=RUN/model_final.pth
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.augmentations import PhotometricDistortion
from gppf_d2.data.mappers import NormalsMapper
from gppf_d2.tasks.spec import Task

from ...common.evaluations import FORMAT, angles
from ...common.must import normals, student
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

RATE, STEPS = 0.04, 20_000

tasks = dict(
    diode_normals=L(Task)(
        train="diode_normals_train",
        batch_size=2,
        head=student(dict(normals=normals())),
        mapper=L(NormalsMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=(384, 576), max_size=1024, sample_style="range"
                ),
                L(T.RandomCrop)(crop_type="absolute", crop_size=(384, 512)),
                L(T.RandomFlip)(horizontal=True),
                L(PhotometricDistortion)(image_format=FORMAT),
            ],
            image_format=FORMAT,
        ),
        evaluators=[angles("diode_normals_val", short=480, longest=640)],
    )
)
optimizer.lr = RATE
train.max_iter = STEPS
train.output_dir = "output/must/transfer/diode_normals"
sweep = search("normals/within_11.25", RATE, STEPS)
paper = results("diode_normals", "normals/within_11.25")
