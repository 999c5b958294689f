"""The eight pre-training tasks of GPPF-15M (paper, sections 3.1 and 4.1; numbers: D.1).

        task          weight  batch  images       head
        in21k          4.0     96    11 M         linear
        coco           2.5      8    118 k        Mask R-CNN
        lvis           2.5      8    100 k        Mask R-CNN
        objects365     4.0     12    1.7 M        Faster R-CNN
        open_images    4.0     12    1.7 M        Faster R-CNN
        ade20k         1.0      8    20 k         UperNet
        coco_stuff     2.0      8    118 k        UperNet
        voc            1.0      8    10.6 k       UperNet

Batch sizes are per process. Left open by the paper and chosen here, by Detectron2's conventions:
images without an object are not trained on, LVIS repeats rare categories (threshold 0.001), and
detectors of many classes keep 300 detections an image from a score of 0.0001 on.
"""

from detectron2.config import LazyCall as L

from gppf_d2.tasks.spec import Task

from .evaluations import boxes, lvis, miou, open_images, top1
from .heads import STAGES, baseline_rcnn, classification, upernet
from .recipes import cropped_segmentation, large_scale_jitter, mixed_classification

# Table 1, a column for each metric of a task: AP, AP50, mIoU and top-1 in percent
COLUMNS = (
    ("coco", "bbox/AP"),
    ("coco", "segm/AP"),
    ("lvis", "bbox/AP"),
    ("lvis", "segm/AP"),
    ("objects365", "bbox/AP"),
    ("open_images", "open_images_challenge/AP50"),
    ("ade20k", "sem_seg/mIoU"),
    ("voc", "sem_seg/mIoU"),
    ("coco_stuff", "sem_seg/mIoU"),
    ("in21k", "classification/top1"),
)
SINGLE = "Single, ResNet-50"
UNKNOWN = (None,) * len(COLUMNS)
TABLE_1 = {
    SINGLE: (46.8, 42.0, 28.2, 26.6, 24.0, 52.4, 42.1, 76.4, 40.4, 35.8),
    "GPPF-R50 without SIMT and SyncBN: not converge": UNKNOWN,
    "GPPF-R50 without SyncBN: not converge": UNKNOWN,
    "GPPF-R50 static": (48.8, 43.8, 32.2, 31.2, 25.5, 57.6, 47.2, 81.9, 44.5, 40.2),
    "GPPF-R50, N = 2": (49.7, 44.5, 34.0, 32.1, 26.6, 57.7, 45.3, 82.2, 44.0, 40.6),
    "GPPF-R50, N = 3": (49.1, 44.0, 33.3, 31.4, 25.7, 57.1, 46.0, 80.8, 43.8, 40.6),
    "GPPF-SwinT, N = 2": (52.1, 45.3, 33.3, 30.5, 31.6, 55.9, 45.8, 79.7, 44.8, 40.7),
}

WIDTHS = (256, 512, 1024, 2048)  # channels of ResNet-50's stages
SIZE = 1024


def _segmentation(train, val, num_classes, weight, **pixels):
    """UperNet on crops of 512."""
    return L(Task)(
        train=train,
        batch_size=8,
        weight=weight,
        head=upernet(num_classes, **pixels),
        evaluators=[miou(val, boundary=True)],
        **cropped_segmentation(num_classes),
    )


def gppf_tasks(stages=STAGES, widths=WIDTHS, cascade=False):
    """All eight, around a backbone whose ``stages`` have ``widths`` channels."""
    on = dict(stages=stages, cascade=cascade)
    pixels = dict(stages=stages, widths=widths)
    return dict(
        in21k=L(Task)(
            train="imagenet_21k_p_train",
            batch_size=96,
            weight=4.0,
            head=classification(10_450, label_smoothing=0.1, stages=stages),
            evaluators=[top1("imagenet_21k_p_val")],
            **mixed_classification(10_450),
        ),
        coco=L(Task)(
            train="coco_2017_train",
            filter_empty=True,
            batch_size=8,
            weight=2.5,
            head=baseline_rcnn(80, masks=True, **on),
            evaluators=[boxes("coco_2017_val", short=SIZE, longest=SIZE)],
            **large_scale_jitter(80, masks=True, size=SIZE),
        ),
        lvis=L(Task)(
            train="lvis_v1_train",
            filter_empty=True,
            batch_size=8,
            weight=2.5,
            repeat_threshold=0.001,
            head=baseline_rcnn(1203, masks=True, many=True, **on),
            evaluators=[lvis("lvis_v1_val", short=SIZE, longest=SIZE)],
            **large_scale_jitter(1203, masks=True, size=SIZE),
        ),
        objects365=L(Task)(
            train="objects365_v2_train",
            filter_empty=True,
            batch_size=12,
            weight=4.0,
            head=baseline_rcnn(365, **on),
            evaluators=[boxes("objects365_v2_val", masks=False, short=SIZE, longest=SIZE)],
            **large_scale_jitter(365, masks=False, size=SIZE),
        ),
        open_images=L(Task)(
            train="openimages_challenge_2019_train",
            filter_empty=True,
            batch_size=12,
            weight=4.0,
            head=baseline_rcnn(500, many=True, **on),
            evaluators=[open_images("openimages_challenge_2019_val", short=SIZE, longest=SIZE)],
            **large_scale_jitter(500, masks=False, size=SIZE),
        ),
        ade20k=_segmentation("ade20k_sem_seg_train", "ade20k_sem_seg_val", 150, 1.0, **pixels),
        coco_stuff=_segmentation(
            "coco_stuff_164k_sem_seg_train", "coco_stuff_164k_sem_seg_val", 171, 2.0, **pixels
        ),
        voc=_segmentation("voc_2012_aug_sem_seg_train", "voc_2012_sem_seg_val", 21, 1.0, **pixels),
    )


def table_1(row, *tasks):
    """What Table 1 has of ``tasks`` (of all where none is named): this row, and "Single"."""
    found = {}
    for column, (task, metric) in enumerate(COLUMNS):
        if not tasks or task in tasks:
            found.setdefault(task, {})[metric] = {
                name: TABLE_1[name][column] for name in (row, SINGLE)
            }
    return dict(table="Table 1", tasks=found)


tasks = gppf_tasks()
