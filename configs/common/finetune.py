"""Finetuning of one downstream task from the joint run's checkpoint (paper, sections 3.3 and D.2).

Three ways, one field: ``train.init_route`` is the task whose route becomes the backbone (fixed
path), "dynamic" (the task learns its own route among all units), or the routes.json that a dynamic
run wrote (retrain). From scratch: ``train.init_checkpoint=""``; from ImageNet:
``train.init_checkpoint=R-50.pkl train.init_route="" train.init_head=""``.

One task on any number of processes is ordinary data-parallel training: every step has
``train.total_batch_size`` samples, and batch norm is synchronised.
"""

from .base import backbone, gates, input, lr_multiplier, optimizer, schedule, train

# of the network before dynamic finetuning; what starts from a checkpoint has its units
backbone.num_units = 1
# D.2: the temperature falls during the first half
gates.temperature.fraction = 0.5
train.init_checkpoint = "output/gppf_r50/model_final.pth"
train.checkpoint_period = 1000
