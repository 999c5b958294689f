"""Single-task baselines of the joint run: one task, a plain backbone, a fair budget.

Budget (paper, section 4.1): the steps of the single runs add up to those of the joint one. Of its
500,000 iterations a task with weight w has the share w / sum of weights, so its baseline trains
that many iterations on the same number of ranks, and sees as many samples as in the joint run.

Initialisation (D.1): segmentation starts from ImageNet-1K, the others from scratch.
"""

SEGMENTATION = ("ade20k", "coco_stuff", "voc")


def single_task(name, tasks, backbone, train, imagenet_1k):
    """Keep one task and set backbone, budget and initial weights of its baseline."""
    total = sum(task.weight for task in tasks.values())
    train.max_iter = round(train.max_iter * tasks[name].weight / total)
    for other in [other for other in tasks if other != name]:
        del tasks[other]
    backbone.num_units = 1
    if name in SEGMENTATION:
        train.init_checkpoint = imagenet_1k
