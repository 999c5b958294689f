r"""GPPF-R50 with three candidate units in every layer.

GPPF, Table 1 (box and mask AP, AP, AP50, mIoU, top-1):
    SIMT, SyncBN, DyNet (N = 3)
    COCO 49.1 / 44.0, LVIS 33.3 / 31.4, Objects365 25.7, Open Images 57.1,
    ADE20K 46.0, VOC 80.8, COCO-Stuff 43.8, ImageNet-21K 40.6
Everything else as in gppf_r50.py, and so are hardware and command.
"""

from ..common.gppf_tasks import table_1
from .gppf_r50 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

backbone.num_units = 3
train.output_dir = "output/gppf_r50_n3"
paper = table_1("GPPF-R50, N = 3")
