"""Pascal VOC 2012 segmentation, 21 classes: as released, and with SBD's labels.

Layout: ``VOC2012/{JPEGImages,SegmentationClass,SegmentationClassAug,ImageSets/Segmentation}``.

    voc_2012_sem_seg_{train,val}    VOC's own train and val, 1,464 and 1,449 images
    voc_2012_aug_sem_seg_train      10,582: the list trainaug.txt, the maps of SegmentationClassAug

``datasets/prepare_voc_2012_aug.py`` makes the augmented list and its maps from VOC and SBD; VOC's
own splits are read as they were unpacked. 0 is background, 255 (borders of objects) is ignored.
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.registration import register_dataset

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
# VOC's own palette
COLORS = [
    (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
    (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128),
    (192, 0, 128), (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0),
    (128, 192, 0), (0, 64, 128),
]  # fmt: skip


def load_list(list_file: str, image_root: str, label_root: str) -> list[dict]:
    """Records of the images that a list names, in its order.

    Args:
        list_file: a name without suffix per line.
        image_root: folder of JPEGs.
        label_root: folder of PNGs.

    Raises:
        FileNotFoundError: there is no list, or no folder of label maps.
    """
    with open(list_file) as file:
        names = file.read().split()
    os.stat(label_root)
    return [
        {
            "file_name": os.path.join(image_root, f"{name}.jpg"),
            "image_id": index,
            "sem_seg_file_name": os.path.join(label_root, f"{name}.png"),
        }
        for index, name in enumerate(names)
    ]


def register(root: str) -> None:
    """Register the three datasets; ``root`` is the folder that holds ``VOC2012``."""
    folder = os.path.join(root, "VOC2012")
    image_root = os.path.join(folder, "JPEGImages")
    script = (
        f"run `python datasets/prepare_voc_2012_aug.py --root {root}` on the official downloads"
    )
    unpack = f"unpack VOCtrainval_11-May-2012.tar and move its VOCdevkit/VOC2012 into '{root}'"
    for name, split, labels, hint in (
        ("voc_2012_aug_sem_seg_train", "trainaug", "SegmentationClassAug", script),
        ("voc_2012_sem_seg_train", "train", "SegmentationClass", unpack),
        ("voc_2012_sem_seg_val", "val", "SegmentationClass", unpack),
    ):
        list_file = os.path.join(folder, "ImageSets", "Segmentation", f"{split}.txt")
        label_root = os.path.join(folder, labels)
        register_dataset(
            name,
            root,
            functools.partial(load_list, list_file, image_root, label_root),
            hint=hint,
            image_root=image_root,
            sem_seg_root=label_root,
            stuff_classes=list(CLASSES),
            stuff_colors=COLORS,
            ignore_label=255,
            evaluator_type="sem_seg",
        )
