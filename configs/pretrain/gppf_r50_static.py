r"""Static GPPF-R50: one unit in every layer, the plain ResNet-50.

GPPF, Table 1 (box and mask AP, AP, AP50, mIoU, top-1):
    SIMT, SyncBN
    COCO 48.8 / 43.8, LVIS 32.2 / 31.2, Objects365 25.5, Open Images 57.6,
    ADE20K 47.2, VOC 81.9, COCO-Stuff 44.5, ImageNet-21K 40.2
Everything else as in gppf_r50.py, and so are hardware and command.
"""

from ..common.gppf_tasks import table_1
from .gppf_r50 import backbone, gates, input, lr_multiplier, optimizer, schedule, tasks, train

backbone.num_units = 1
train.output_dir = "output/gppf_r50_static"
paper = table_1("GPPF-R50 static")
