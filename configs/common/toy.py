"""Make a full pre-training config small enough for two CPU processes and miniature datasets.

Tasks, classes, kinds of heads, augmentations, schedule, optimizer and gates stay as they are;
widths, image sizes, batches and iterations shrink.
"""

from detectron2.layers import ShapeSpec

WIDTHS = {
    "res2": 64,
    "res3": 128,
    "res4": 256,
    "res5": 512,
    "p0": 24,
    "p1": 48,
    "p2": 96,
    "p3": 192,
}
CHANNELS = 32
SIZE = 96  # of detection images; a classification image has two thirds, a crop half of it


def shrink(backbone, tasks, train):
    """Shrink the sections of a config, in place."""
    if "depth" in backbone:
        backbone.depth = 18
    elif "model" in backbone:
        backbone.model = "efficientnet_b0"
    else:
        backbone.update(
            embed_dim=WIDTHS["p0"], depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4
        )
    for task in tasks.values():
        task.batch_size = 2
        if "roi_heads" in task.head:
            _detector(task)
        elif "sem_seg_head" in task.head:
            _segmentor(task)
        else:
            _classifier(task)
    train.init_checkpoint = ""
    train.max_iter = 40
    train.reference_world_size = 0
    train.num_workers = 0
    train.eval_batch_size = 4
    train.log_period = train.route_period = 5
    train.checkpoint_period = 20
    train.hooks = {}


def shrink_finetune(backbone, tasks, train, paper):
    """Shrink a finetuning config, in place; it starts from the twin of the joint run."""
    shrink(backbone, tasks, train)
    keep_metric(paper)
    train.init_checkpoint = "output/quick/gppf_r50/model_final.pth"
    train.total_batch_size = 4
    train.accumulation = 1
    train.max_iter = 4
    train.checkpoint_period = 0


def keep_metric(paper):
    """Keep what a twin is judged by, not the paper's numbers, which a miniature's do not meet."""
    for key in set(paper) - {"metric"}:
        del paper[key]


def _classifier(task):
    task.batch_size = 4
    side = SIZE * 2 // 3
    task.mapper.image_size = task.evaluators[0]["mapper"].image_size = side
    if task.mapper.get("transform") is not None:
        task.mapper.transform.image_size = side


def _detector(task):
    if "size" in task.mapper:  # large-scale jitter
        task.mapper.size = SIZE
    else:
        resize, *_ = task.mapper.augmentations
        resize.short_edge_length, resize.max_size = [SIZE * 3 // 4, SIZE], SIZE
    _resize(task, SIZE, SIZE)
    model = task.head
    model.backbone.out_channels = CHANNELS
    rpn = model.proposal_generator
    rpn.head.in_channels = CHANNELS
    rpn.anchor_generator.sizes = [[size // 8] for (size,) in rpn.anchor_generator.sizes]
    rpn.pre_nms_topk, rpn.post_nms_topk = (100, 50), (50, 50)
    roi = model.roi_heads
    cascade = "box_heads" in roi
    for head in roi.box_heads if cascade else [roi.box_head]:
        head.input_shape = ShapeSpec(channels=CHANNELS, height=7, width=7)
        head.conv_dims = [CHANNELS] * len(head.conv_dims)
        head.fc_dims = [CHANNELS] * len(head.fc_dims)
    for predictor in roi.box_predictors if cascade else [roi.box_predictor]:
        predictor.input_shape = ShapeSpec(channels=CHANNELS)
        # hardly trained, every box would pass as every class
        predictor.test_score_thresh = max(predictor.test_score_thresh, 0.01)
        # the mask head predicts every class for every box: 300 of LVIS' would take gigabytes
        predictor.test_topk_per_image = min(predictor.test_topk_per_image, 50)
    if "mask_head" in roi:
        roi.mask_head.input_shape = ShapeSpec(channels=CHANNELS, width=14, height=14)
        roi.mask_head.conv_dims = [CHANNELS] * len(roi.mask_head.conv_dims)


def _segmentor(task):
    crop = SIZE // 2
    resize, random_crop, *_, pad = task.mapper.augmentations
    resize.base_size = (4 * crop, crop)
    random_crop.crop_size = pad.size = (crop, crop)
    _resize(task, crop, 4 * crop)
    head = task.head.sem_seg_head
    head.input_shape = {
        name: ShapeSpec(channels=WIDTHS[name], stride=shape.stride)
        for name, shape in head.input_shape.items()
    }
    head.channels, head.auxiliary_channels = CHANNELS, CHANNELS // 2


def _resize(task, short, longest):
    (resize,) = task.evaluators[0]["mapper"].augmentations
    resize.short_edge_length, resize.max_size = short, longest
