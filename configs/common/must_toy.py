"""Make full MuST configs small enough for two CPU processes and miniature datasets.

Tasks, labels, classes, kinds of heads, augmentations, schedule and optimizer stay as they are;
widths, image sizes, batches and iterations shrink. For heads of ``must.py``, and for mappers of
many labels or of one: what an augmentation cuts out, or else the shorter side that it makes, gets
``SIZE`` pixels, and its other sides shrink alike.
"""

from detectron2.layers import ShapeSpec

from .toy import CHANNELS, SIZE, keep_metric, shrink

CUT = ("crop_size", "size")
SHORT = ("short_edge_length", "target_height")
SIDES = (*CUT, *SHORT, "max_size", "base_size", "target_width")


def shrink_must(backbone, tasks, train):
    """Shrink the sections of a config of teachers or students, in place."""
    shrink(backbone, {}, train)
    for task in tasks.values():
        task.batch_size = 2
        _network(task.head)
        for mapper in (task.mapper, *(evaluation["mapper"] for evaluation in task.evaluators)):
            _pictures(mapper)
        if "image_size" in task.mapper:
            task.batch_size = 4
    train.total_batch_size = min(train.total_batch_size, 4)
    train.accumulation = 1


def shrink_must_transfer(backbone, tasks, train, sweep, paper):
    """Shrink a transfer config, in place; it starts from the twin of a student."""
    shrink_must(backbone, tasks, train)
    keep_metric(paper)
    train.init_checkpoint = "output/quick/must/imagenet/model_final.pth"
    train.max_iter = 4
    train.checkpoint_period = 0
    sweep.grid = dict(lr=list(sweep.grid.lr)[1:3], steps=[2, 4])


def _network(head):
    """The trunk and every label head of it."""
    trunk = head.trunk
    trunk.out_channels = trunk.top_block.in_channels = trunk.top_block.out_channels = CHANNELS
    for label in head.heads.values():
        if "roi_heads" in label:
            _detector(label)
        elif "channels" in label:
            label.channels = CHANNELS


def _detector(model):
    """Mask R-CNN: channels, anchors, proposals, detections."""
    rpn, roi = model.proposal_generator, model.roi_heads
    rpn.head.in_channels = CHANNELS
    rpn.anchor_generator.sizes = [
        [side // 8 for side in sides] for sides in rpn.anchor_generator.sizes
    ]
    rpn.pre_nms_topk, rpn.post_nms_topk = (100, 50), (50, 50)
    for name in ("box_head", "mask_head"):
        if name in roi:
            head = roi[name]
            side = head.input_shape.height or head.input_shape.width
            head.input_shape = ShapeSpec(channels=CHANNELS, height=side, width=side)
            head.conv_dims = [CHANNELS] * len(head.conv_dims)
    roi.box_head.fc_dims = [CHANNELS] * len(roi.box_head.fc_dims)
    predictor = roi.box_predictor
    predictor.input_shape = ShapeSpec(channels=CHANNELS)
    # hardly trained, every box would pass as every class
    predictor.test_topk_per_image = min(predictor.test_topk_per_image, 50)


def _pictures(mapper):
    """The sides of the images that a mapper makes."""
    if "image_size" in mapper:  # of classification, as in the other twins
        mapper.image_size = SIZE * 2 // 3
        if mapper.get("transform") is not None:
            mapper.transform.image_size = mapper.image_size
    elif "size" in mapper:  # large-scale jitter
        mapper.size = SIZE
    else:
        augmentations = mapper.augmentations
        largest = _largest(augmentations, CUT) or _largest(augmentations, SHORT)
        for augmentation in augmentations:
            for key in SIDES:
                if key in augmentation:
                    augmentation[key] = _scaled(augmentation[key], SIZE / largest)


def _largest(augmentations, keys):
    """The largest side under some keys of all augmentations, 0 where there is none."""
    found = [0]
    for augmentation in augmentations:
        for value in (augmentation[key] for key in keys if key in augmentation):
            found += [value] if isinstance(value, int) else value
    return max(found)


def _scaled(value, factor):
    """A side or several, at least one pixel."""
    if isinstance(value, int):
        return max(1, round(value * factor))
    return [_scaled(side, factor) for side in value]
