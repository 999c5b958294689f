"""Training recipes of the three kinds of pre-training task (paper, sections 4.1 and D.1)."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from gppf_d2.data.augmentations import PadToSize, PhotometricDistortion, ResizeByRatio
from gppf_d2.data.batch_transforms import CopyPaste, MixUpCutMix
from gppf_d2.data.image_transforms import classification_recipe
from gppf_d2.data.mappers import ClassificationMapper, LargeScaleJitterMapper, SemanticMapper

FORMAT = "${input.pixel_format}"


def mixed_classification(num_classes, image_size=224):
    """RandAugment, Random Erasing 0.25, then MixUp 0.8 or CutMix 1.0 over the batch."""
    return dict(
        mapper=L(ClassificationMapper)(
            is_train=True,
            image_size=image_size,
            image_format=FORMAT,
            num_classes=num_classes,
            transform=L(classification_recipe)(image_size=image_size, erasing=0.25),
        ),
        batch_transform=L(MixUpCutMix)(mixup_alpha=0.8, cutmix_alpha=1.0),
    )


def large_scale_jitter(num_classes, masks=True, size=1024):
    """Scale 0.1 to 2.0, flip; with masks also Copy-Paste."""
    recipe = dict(
        mapper=L(LargeScaleJitterMapper)(
            is_train=True,
            size=size,
            scale=(0.1, 2.0),
            flip=0.5,
            image_format=FORMAT,
            use_instance_mask=masks,
            num_classes=num_classes,
        ),
    )
    if masks:
        recipe["batch_transform"] = L(CopyPaste)()
    return recipe


def cropped_segmentation(num_classes, crop=512, longest=2048):
    """MMSegmentation's settings: resize ratio 0.5 to 2, crop, flip, photometric distortion."""
    return dict(
        mapper=L(SemanticMapper)(
            is_train=True,
            augmentations=[
                L(ResizeByRatio)(base_size=(longest, crop), ratio_range=(0.5, 2.0)),
                L(T.RandomCrop_CategoryAreaConstraint)(
                    crop_type="absolute",
                    crop_size=(crop, crop),
                    single_category_max_area=0.75,
                    ignored_category=255,
                ),
                L(T.RandomFlip)(horizontal=True),
                L(PhotometricDistortion)(image_format=FORMAT),
                L(PadToSize)(size=(crop, crop), pad_value="${input.pixel_mean}"),
            ],
            image_format=FORMAT,
            num_classes=num_classes,
        ),
    )
