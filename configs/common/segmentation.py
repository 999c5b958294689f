"""Finetuning of semantic segmentation: UperNet with an auxiliary FCN head (paper, Table 3).

The paper gives no hyperparameters of a segmentation finetune: its own rows of Table 3 are the joint
run (Table 1, N = 2) as it is. Chosen here is MMSegmentation, whose settings it follows elsewhere
(section 4.1), with UperNet on a ResNet-50: SGD of 0.01 with momentum 0.9 and weight decay 5e-4, the
learning rate falling as (1 - t)^0.9 without warm-up, 16 images a step, crops of 512. Its learning
rate ends at 1e-4, this one at 0. Norms of the head stay local, there they are synchronised.

Backbone and head come from the joint run's task of the same name, with the layers that predict
classes; train.init_predictions=False starts these fresh. Evaluation is without test-time
augmentation, as in Table 3; with it (NAME is the task)

    'tasks.NAME.evaluators.0.tta={_target_: gppf_d2.modeling.tta.SemanticTTA}'
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from .finetune import backbone, gates, input, optimizer, schedule, train
from .gppf_tasks import gppf_tasks

# mIoU in percent: backbone and head, ADE20K, VOC
TABLE_3 = {
    "ResNet50, UperNet": (42.1, 76.4),
    "Swin-T [53], UperNet": (44.5, None),
    "BYOL [32], ResNet-50, FCN": (None, 75.7),
    "MoCo-v3 [18], ViT-B, UperNet": (47.3, None),
    "BEiT [5], ViT-B, UperNet": (47.1, None),
    "MAE [39], ViT-B, UperNet": (48.1, None),
    "MDP [71], ResNet-50, DeepLab-v3": (42.7, 77.8),
    "GPPF-R50": (45.3, 82.2),
    "GPPF-SwinT": (45.8, 79.9),
}

optimizer.lr = 0.01
optimizer.momentum = 0.9
optimizer.weight_decay = 5e-4
lr_multiplier = L(PolynomialDecayParamScheduler)(base_value=1.0, power=0.9)
train.total_batch_size = 16


def segmentation(name, train, steps):
    """The joint run's task of this name, which goes on from there for ``steps`` iterations."""
    train.init_route = train.init_head = name
    train.init_predictions = True
    train.max_iter = steps
    train.checkpoint_period = steps // 10
    train.output_dir = f"output/finetune/{name}"
    return {name: gppf_tasks()[name]}


def table_3(column):
    """The rows of Table 3 that have a value: ``column`` 0 is ADE20K, 1 is VOC."""
    rows = {name: values[column] for name, values in TABLE_3.items()}
    rows = {name: value for name, value in rows.items() if value is not None}
    return dict(table="Table 3", metric="sem_seg/mIoU", rows=rows)
