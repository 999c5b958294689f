r"""One student of four labels on every image: pseudo labels, and supervised ones where there are.

In miniature: MuST, Figure 1 and section 3.2; images without labels and COCO-like scenes, whose
boxes are supervised.
Hardware: 1 CPU core. Time: about ten minutes. Expected: see README, "Self-training". After the
teachers (mini_must_teachers.py) and the labels:
    for set in mini_unlabelled mini_scenes_train; do
        python -m gppf_d2.tools.pseudo_label --config-file configs/quick/mini_must_labels.py \
            --data-root output/data dataset=$set output=output/data/pseudo/$set
    done
    python train_net.py --config-file configs/quick/mini_must_student.py --num-processes 1 \
        --data-root output/data
"""

from detectron2.config import LazyCall as L

from gppf_d2.tasks.spec import Task

from ..common.mini_must import SUPERVISED, evaluation, head, mapper, network, source
from ..common.short import backbone, gates, input, lr_multiplier, optimizer, schedule, train

tasks = dict(
    student=L(Task)(
        train=("pseudo_mini_unlabelled", "pseudo_mini_scenes_train"),
        mapper=mapper({label: source(label) for label in SUPERVISED}),
        batch_size=8,
        # depth as in the teacher; the others have the teachers' batch size and learning rate
        head=network({label: head(label) for label in SUPERVISED}, weights=dict(depth=0.1)),
        evaluators=[evaluation(label) for label in SUPERVISED],
    ),
)

backbone.num_units = 1
train.output_dir = "output/must/student"
train.max_iter = 150
train.eval_batch_size = 8
train.checkpoint_period = 50
