"""Surface normals: how files are read, and that vectors turn with their image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from PIL import Image

from gppf_d2.data.catalog import diligent_ball
from gppf_d2.data.check import check_dataset
from gppf_d2.data.mappers import NormalsMapper
from gppf_d2.data.mappers.normals import read_normals, transform_normals
from gppf_d2.data.mappers.reading import read_image
from tests.data.test_real_catalog import ROOT

SIDE = 33
BALL = "diligent_ball_normals/data/DiLiGenT/pmsData/ballPNG"


def ball(side: int = SIDE) -> np.ndarray:
    """Normals of a ball that touches the edges, float64 [H, W, 3]: symmetric, so that every flip
    and rotation of the picture shows the same ball again."""
    y, x = np.mgrid[1 : -1 : side * 1j, -1 : 1 : side * 1j]
    inside = x**2 + y**2 < 0.98
    return np.stack([x, y, np.sqrt((1 - x**2 - y**2).clip(0))], -1) * inside[..., None]


def write(folder: Path, suffix: str, vectors: np.ndarray) -> dict[str, Any]:
    """A record whose image and normals lie in the folder."""
    file = folder / f"normals{suffix}"
    if suffix == ".png":
        colors = np.where(vectors.any(-1, keepdims=True), np.round((vectors + 1) * 127.5), 0)
        Image.fromarray(colors.astype(np.uint8)).save(file)
    elif suffix == ".npy":
        np.save(file, vectors.astype(np.float32))
    else:
        scipy.io.savemat(file, {"Normal_gt": vectors, "scale": 1.0})
    Image.fromarray(np.zeros((*vectors.shape[:2], 3), np.uint8)).save(folder / "image.png")
    return {"file_name": str(folder / "image.png"), "normals_file_name": str(file)}


@pytest.mark.parametrize("suffix", [".png", ".npy", ".mat"])
def test_files_of_every_kind_give_unit_vectors_and_zero_where_there_is_none(
    suffix: str, tmp_path: Path
) -> None:
    wanted = ball()
    if suffix == ".npy":
        wanted[0, 0] = np.nan
    sample = NormalsMapper(True, augmentations=[])(write(tmp_path, suffix, wanted * 1.0))
    normals = sample["normals"]
    assert normals.shape == (3, SIDE, SIDE) and normals.dtype == torch.float32
    wanted = torch.as_tensor(np.nan_to_num(wanted)).permute(2, 0, 1).float()
    assert (normals - wanted).abs().max() < (0.01 if suffix == ".png" else 1e-6)
    known = wanted.any(0)
    assert torch.equal(normals.any(0), known)
    torch.testing.assert_close(normals.norm(dim=0)[known], torch.ones(int(known.sum())))


def test_signs_turn_the_axes_of_a_file_into_ours(tmp_path: Path) -> None:
    record = {**write(tmp_path, ".npy", ball() * [1, -1, -1]), "height": SIDE, "width": SIDE}
    assert np.allclose(read_normals({**record, "normals_signs": [1, -1, -1]}), ball(), atol=1e-6)
    for wrong in ([1, 2, 1], [1, 1], 3):
        with pytest.raises(ValueError, match="normals_signs .* three factors"):
            read_normals({**record, "normals_signs": wrong})


@pytest.mark.parametrize(
    "transform",
    [
        T.HFlipTransform(SIDE),
        T.VFlipTransform(SIDE),
        T.RotationTransform(SIDE, SIDE, 90, expand=False),
        T.RotationTransform(SIDE, SIDE, 30, expand=False),
        T.TransformList(
            [T.HFlipTransform(SIDE), T.RotationTransform(SIDE, SIDE, 45, expand=False)]
        ),
    ],
    ids=["horizontal flip", "vertical flip", "90 degrees", "30 degrees", "flip and 45 degrees"],
)
def test_a_mirrored_or_rotated_ball_is_a_ball(transform: T.Transform) -> None:
    """All pictures of a ball are alike, but only if the vectors turn with the pixels."""
    wanted = ball().astype(np.float32)
    moved = transform_normals(transform, wanted)
    both = wanted.any(-1) & moved.any(-1)
    assert both.sum() > 0.9 * wanted.any(-1).sum()
    cosine = (wanted * moved).sum(-1)[both]
    assert cosine.min() > math.cos(math.radians(14)), "one pixel is up to 14 degrees at the rim"
    assert cosine.mean() > 0.998
    untouched = np.stack(
        [transform.apply_segmentation(wanted[..., i].copy()) for i in range(3)], -1
    )
    assert (wanted * untouched).sum(-1)[both].mean() < 0.98, "what this test is there to find"


def test_crops_resizes_and_pads_move_vectors_without_changing_any(tmp_path: Path) -> None:
    record = write(tmp_path, ".npy", ball())
    plain = NormalsMapper(True, augmentations=[])(record)["normals"]
    crop = T.CropTransform(4, 6, 20, 10)
    cropped = NormalsMapper(True, augmentations=[crop, T.Resize((30, 40))])(record)["normals"]
    torch.testing.assert_close(cropped[:, 1::3, ::2], plain[:, 6:16, 4:24])
    padded = NormalsMapper(True, augmentations=[T.FixedSizeCrop((40, 40))])(record)["normals"]
    torch.testing.assert_close(padded[:, :SIDE, :SIDE], plain)
    assert not padded[:, SIDE:].any() and not padded[:, :, SIDE:].any()
    sample = NormalsMapper(False, augmentations=[T.Resize((66, 66)), T.HFlipTransform(66)])(record)
    assert sample["image"].shape == (3, 66, 66) and torch.equal(sample["normals"], plain)
    assert "window" not in NormalsMapper(False, augmentations=[])(record)
    seen = NormalsMapper(False, augmentations=[crop])(record)
    assert seen["window"] == (4, 6, 24, 16)


def test_what_cannot_be_right_is_named(tmp_path: Path) -> None:
    mapper, record = NormalsMapper(True, augmentations=[]), write(tmp_path, ".npy", ball())
    with pytest.raises(ValueError, match="image.png.* has no 'normals_file_name'"):
        mapper({"file_name": record["file_name"]})
    assert "normals" not in NormalsMapper(False, augmentations=[])(
        {"file_name": record["file_name"]}
    )
    with pytest.raises(ValueError, match="image_format is 'HSV'"):
        NormalsMapper(True, augmentations=[], image_format="HSV")
    np.save(record["normals_file_name"], np.zeros((SIDE, SIDE)))
    with pytest.raises(ValueError, match=r"shape \[33, 33\], expected normals"):
        mapper(record)
    np.save(record["normals_file_name"], np.zeros((SIDE, 40, 3)))
    with pytest.raises(ValueError, match="is 40 x 33, its image 33 x 33"):
        mapper(record)
    mat = write(tmp_path, ".mat", ball())
    scipy.io.savemat(mat["normals_file_name"], {"a": ball(), "b": ball()})
    with pytest.raises(OSError, match=r"normals.mat.* 2 arrays"):
        mapper(mat)
    for suffix in (".mat", ".npy", ".png"):
        bad = write(tmp_path, suffix, ball())
        whole = Path(bad["normals_file_name"]).read_bytes()
        Path(bad["normals_file_name"]).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(OSError, match=f"cannot read .*normals{suffix}"):
            mapper(bad)


def test_images_of_16_bits_keep_their_upper_half(tmp_path: Path) -> None:
    values = np.arange(SIDE * SIDE * 3, dtype=np.uint16).reshape(SIDE, SIDE, 3) * 20
    for name, pixels in (("rgb", values), ("grey", values[..., 0])):
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        image = read_image({"file_name": str(tmp_path / f"{name}.png")}, "BGR")
        wanted = np.broadcast_to(
            (pixels if pixels.ndim == 3 else pixels[..., None]) >> 8, image.shape
        )
        assert image.dtype == np.uint8 and np.array_equal(image, wanted)


def test_the_miniature_world_has_normals_of_its_depth_scenes(mini_root: Path) -> None:
    for split, count in (("train", 12), ("val", 4)):
        records = DatasetCatalog.get(f"mini_normals_{split}")
        assert len(records) == count
        sample = NormalsMapper(True, augmentations=[])(records[0])
        normals = sample["normals"]
        assert normals.shape[1:] == sample["image"].shape[1:]
        assert normals[2].min() > -0.6, "what is seen faces the viewer, but for slanted rays"
        ground = normals[:, -3:].mean((1, 2))
        assert ground[1] > 0.5, "the ground below points up"
        assert not list(check_dataset(f"mini_normals_{split}"))


def test_the_ball_is_a_ball_and_its_split_is_fixed() -> None:
    if not (ROOT / BALL).is_dir():
        pytest.skip(f"the ball is not in '{ROOT}' (DETECTRON2_DATASETS)")
    diligent_ball.register(str(ROOT))
    train, test = (DatasetCatalog.get(f"diligent_ball_{split}") for split in ("train", "test"))
    assert [r["image_id"] for r in train] == [1, 13, 25, 49, 61, 73]
    assert [r["image_id"] for r in test] == [37, 85]
    sample = NormalsMapper(True, augmentations=[T.HFlipTransform(612)])(test[0])
    normals = sample["normals"]
    assert sample["image"].shape == (3, 512, 612) and sample["image"].max() > 5
    known = normals.any(0)
    assert known.sum() == 15791
    rows, columns = torch.nonzero(known, as_tuple=True)
    right = normals[0, rows, columns][columns > columns.float().quantile(0.9)]
    top = normals[1, rows, columns][rows < rows.float().quantile(0.1)]
    assert right.mean() > 0.7 and top.mean() > 0.7


def test_a_missing_ball_says_where_to_put_it(tmp_path: Path) -> None:
    diligent_ball.register(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="diligent_ball_train.*001.png.*does not exist"):
        DatasetCatalog.get("diligent_ball_train")
