"""The same around Swin-T: AdamW, layer norm (nothing is synchronised), Cascade R-CNN (paper, D.1).

Stochastic depth is not in the paper; 0.2 is Swin-T's rate in its own detection runs.
"""

from detectron2.config import LazyCall as L
from torch.optim import AdamW

from gppf_d2.engine.optimizer import parameter_groups
from gppf_d2.modeling.lego import LegoSwin

from .base import gates, input, lr_multiplier, schedule, train
from .gppf_tasks import gppf_tasks

backbone = L(LegoSwin)(size="T", num_units=2, drop_path_rate=0.2, checkpoint=True)
tasks = gppf_tasks(stages=("p0", "p1", "p2", "p3"), widths=(96, 192, 384, 768), cascade=True)
optimizer = L(AdamW)(
    params=L(parameter_groups)(
        # no decay of norms and position biases, as Swin's own settings have it
        weight_decay_norm=0.0,
        weight_decay_by_name={"relative_position_bias_table": 0.0},
        controller_lr_multiplier=1.0,
    ),
    lr=1e-4,
    weight_decay=0.05,
)
train.reference_world_size = 56
