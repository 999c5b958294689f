"""Single-task baselines of the joint run: one task, a plain backbone, a fair budget.

Budget (paper, section 4.1): the steps of the single runs add up to those of the joint one. Of its
500,000 iterations a task with weight w has the share w / sum of weights, so its baseline trains
that many iterations on the same number of ranks, and sees as many samples as in the joint run.

Initialisation (D.1): segmentation starts from ImageNet-1K, the others from scratch.
"""

SEGMENTATION = ("ade20k", "coco_stuff", "voc")
RESNET_50 = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
SWIN_T = (
    "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_tiny_patch4_window7_224.pth"
)


def single_task(name, tasks, backbone, train):
    """Keep one task and set backbone, budget and initial weights of its baseline."""
    total = sum(task.weight for task in tasks.values())
    train.max_iter = round(train.max_iter * tasks[name].weight / total)
    for other in [other for other in tasks if other != name]:
        del tasks[other]
    backbone.num_units = 1
    if name in SEGMENTATION:
        train.init_checkpoint = RESNET_50 if "depth" in backbone else SWIN_T
