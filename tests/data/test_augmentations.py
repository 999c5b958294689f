"""Augmentations of MMSegmentation's settings, alone and as the recipe of a SemanticMapper."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import transforms as T
from PIL import Image

from gppf_d2.data.augmentations import PadToSize, PhotometricDistortion, ResizeByRatio
from gppf_d2.data.mappers import SemanticMapper

MEAN = (123.675, 116.28, 103.53)
OFF = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0}


def noise(height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def augment(augmentation: T.Augmentation, image: np.ndarray, seed: int = 0) -> np.ndarray:
    np.random.seed(seed)
    return augmentation(T.AugInput(image)).apply_image(image)


# resize


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (100, 1000), (512, 2048), (50, 50)])
def test_ratio_one_is_the_resize_of_evaluation(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    resized = augment(ResizeByRatio((2048, 512), (1.0, 1.0)), image)
    wanted = augment(T.ResizeShortestEdge(512, 2048), image)
    assert resized.shape == wanted.shape


def test_resize_keeps_the_aspect_within_base_size_times_ratio() -> None:
    image, resize = np.zeros((40, 60, 3), np.uint8), ResizeByRatio((200, 32), (0.5, 2.0))
    sizes = [augment(resize, image, seed).shape[:2] for seed in range(60)]
    assert all(16 <= height <= 64 and abs(width - 1.5 * height) <= 1 for height, width in sizes)
    assert min(sizes)[0] < 20 and max(sizes)[0] > 60 and len(set(sizes)) > 20
    # the longer side binds
    long = augment(ResizeByRatio((64, 32), (1.0, 1.0)), np.zeros((10, 100, 3), np.uint8))
    assert long.shape == (6, 64, 3)


def test_ranges_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio_range is \(2.0, 0.5\)"):
        ResizeByRatio((64, 32), (2.0, 0.5))
    with pytest.raises(ValueError, match="base_size is"):
        ResizeByRatio((64,), (0.5, 2.0))
    with pytest.raises(ValueError, match="'L'; choose 'RGB' or 'BGR'"):
        PhotometricDistortion(image_format="L")


# colours


def test_rgb_and_bgr_images_are_distorted_alike() -> None:
    image = noise()
    results = []
    for seed in range(40):
        rgb = augment(PhotometricDistortion(image_format="RGB"), image, seed)
        bgr = augment(PhotometricDistortion(image_format="BGR"), image[..., ::-1], seed)
        assert rgb.dtype == np.uint8 and np.array_equal(rgb, bgr[..., ::-1])
        assert np.array_equal(rgb, augment(PhotometricDistortion(), image, seed))
        results.append(rgb.tobytes())
    assert len(set(results)) > 30


def test_each_distortion_does_what_it_says() -> None:
    image = noise()
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    changed = dict.fromkeys(OFF, 0)
    for seed in range(40):
        only = {
            key: augment(PhotometricDistortion(**{**OFF, key: value}), image, seed).astype(int)
            for key, value in {
                "brightness": 32, "contrast": (0.5, 0.5), "saturation": (0.5, 0.5), "hue": 18,
            }.items()
        }  # fmt: skip
        for key, result in only.items():
            changed[key] += bool((result != image).any())
        shift = only["brightness"] - image
        inside = (only["brightness"] > 0) & (only["brightness"] < 255)
        assert abs(shift).max() <= 32 and len(set(shift[inside])) == 1
        if (only["contrast"] != image).any():
            assert np.array_equal(only["contrast"], (image / 2).round())
        if (only["saturation"] != image).any():
            after = cv2.cvtColor(only["saturation"].astype(np.uint8), cv2.COLOR_RGB2HSV)
            assert np.array_equal(after[..., 2], hsv[..., 2])
            bright = hsv[..., 2] > 64  # in dark pixels a grey level is much saturation
            assert abs(after[..., 1] - hsv[..., 1] / 2)[bright].max() <= 3
        # brightest and darkest channel of a pixel stay where only the hue turns
        assert np.array_equal(only["hue"].max(-1), image.max(-1))
        assert abs(only["hue"].min(-1) - image.min(-1)).max() <= 3
    assert all(10 <= count <= 30 for count in changed.values())


def test_hue_turns_around_the_circle() -> None:
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    turned = [augment(PhotometricDistortion(**{**OFF, "hue": 18}), red, s) for s in range(60)]
    colours = {tuple(image[0, 0]) for image in turned}
    assert all(red == 255 for red, _, _ in colours)
    assert any(green for _, green, _ in colours) and any(blue for *_, blue in colours)
    assert max(green for _, green, _ in colours) <= 18 * 2 / 60 * 255 + 1


def test_distortion_leaves_labels_and_geometry_alone() -> None:
    labels = np.arange(600, dtype=np.uint8).reshape(20, 30)
    for seed in range(5):
        np.random.seed(seed)
        augmented = T.AugInput(noise(), sem_seg=labels)
        transform = PhotometricDistortion()(augmented)
        assert np.array_equal(augmented.sem_seg, labels)
        assert transform.apply_coords(np.array([[3.0, 4.0]])).tolist() == [[3.0, 4.0]]


# padding, and the recipe as a whole


def test_padding_is_the_mean_and_ignored() -> None:
    image, labels = noise(), np.zeros((20, 30), np.uint8)
    augmented = T.AugInput(image, sem_seg=labels)
    PadToSize((25, 24), MEAN)(augmented)
    assert augmented.image.shape == (25, 30, 3) and augmented.image.dtype == np.uint8
    assert np.array_equal(augmented.image[:20], image)
    assert (augmented.image[20:] == (124, 116, 104)).all()
    assert not augmented.sem_seg[:20].any() and (augmented.sem_seg[20:] == 255).all()
    larger = T.AugInput(image, sem_seg=labels)
    PadToSize((20, 30), MEAN)(larger)
    assert larger.image is image


def recipe(size: int, image_format: str = "RGB") -> list:
    return [
        L(ResizeByRatio)(base_size=(4 * size, size), ratio_range=(0.5, 2.0)),
        L(T.RandomCrop_CategoryAreaConstraint)(
            crop_type="absolute",
            crop_size=(size, size),
            single_category_max_area=0.75,
            ignored_category=255,
        ),
        L(T.RandomFlip)(),
        L(PhotometricDistortion)(image_format=image_format),
        L(PadToSize)(size=(size, size), pad_value=MEAN),
    ]


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """Class 3 on the left half; on the right half mostly void, with strips of 5 and 6."""
    labels = np.full((96, 192), 3, np.uint8)
    labels[:, 96:] = 255
    labels[::8, 96:], labels[4::8, 96:] = 5, 6
    Image.fromarray(labels).save(tmp_path / "labels.png")
    image = np.stack([labels, np.zeros_like(labels), np.full_like(labels, 9)], -1)
    Image.fromarray(image).save(tmp_path / "image.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }


def test_the_recipe_gives_samples_of_one_size(record: dict) -> None:
    mapper = SemanticMapper(True, augmentations=instantiate(recipe(48)), num_classes=7)
    padded, images = 0, []
    for seed in [*range(12), 0]:
        np.random.seed(seed)
        sample = mapper(record)
        assert sample["image"].shape == (3, 48, 48) and sample["image"].dtype == torch.uint8
        assert sample["sem_seg"].shape == (48, 48)
        assert set(sample["sem_seg"].unique().tolist()) <= {3, 5, 6, 255}
        padded += bool((sample["image"][:, -1] == torch.tensor([124, 116, 104])[:, None]).all())
        images.append(sample["image"])
    assert 0 < padded < 12 and torch.equal(images[0], images[-1])


def test_no_class_fills_a_crop_and_void_does_not_count_as_one(record: dict) -> None:
    crop, plain = instantiate(recipe(48)[1]), T.RandomCrop("absolute", (48, 48))
    labels = np.array(Image.open(record["sem_seg_file_name"]))
    image = np.zeros((*labels.shape, 3), np.uint8)
    full = 0
    for seed in range(40):
        np.random.seed(seed)
        augmented = T.AugInput(image, sem_seg=labels)
        crop(augmented)
        counts = np.bincount(augmented.sem_seg.ravel(), minlength=256)[:255]
        full += counts.max() >= 0.75 * counts.sum()
        # three quarters of the right half are void, and yet the first crop there is taken
        places = []
        for one in (crop, plain):
            np.random.seed(seed)
            transform = one(T.AugInput(image[:, 96:], sem_seg=labels[:, 96:]))
            places.append((transform.x0, transform.y0))
        assert places[0] == places[1]
    assert full == 0
