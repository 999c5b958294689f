"""Labels come back from their cells and from shards as they were put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pycocotools.mask as mask_util
import pytest

from gppf_d2.data.pseudo_coding import StoredLabel, decode, encode, stored_size
from gppf_d2.data.pseudo_labels import Row, Shard, read_labels, shard_batch

SIZE = (30, 41)


def there_and_back(label: StoredLabel, value, size=SIZE):
    return decode(label, encode(label, value), size)


def test_a_class_distribution_comes_back_whole() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(50)).astype(np.float32)
    found = there_and_back(StoredLabel(kind="classes", num_classes=50), shares)
    assert found.dtype == np.float32 and found.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found, shares, rtol=2e-3, atol=1e-6)


def test_the_remainder_of_the_most_probable_classes_is_spread_over_the_others() -> None:
    shares = np.array([0.05, 0.5, 0.1, 0.3, 0.05], np.float32)
    found = there_and_back(StoredLabel(kind="classes", num_classes=5, top_k=2), shares)
    np.testing.assert_allclose(found, [0.2 / 3, 0.5, 0.2 / 3, 0.3, 0.2 / 3], rtol=1e-3)


@pytest.mark.parametrize("shares", [[0.5, 0.1], [0.5, 0.5, 0.0], [2.0, -1.0]])
def test_what_is_no_distribution_is_refused(shares) -> None:
    with pytest.raises(ValueError, match="expected 2 probabilities; let it apply softmax"):
        encode(StoredLabel(kind="classes", num_classes=2), shares)


def test_objects_of_no_class_and_numbers_that_are_none_are_refused() -> None:
    label = StoredLabel(kind="instances", num_classes=2)
    value = {"boxes": [[0, 0, 1, 1]], "scores": [1.0], "categories": [2]}
    with pytest.raises(ValueError, match="object of class 2, expected 0 to 1"):
        encode(label, value)
    with pytest.raises(FloatingPointError, match="boxes are not finite"):
        encode(label, {**value, "boxes": [[0, 0, np.inf, 1]], "categories": [1]})
    with pytest.raises(FloatingPointError, match="probabilities are not finite"):
        encode(StoredLabel(kind="classes", num_classes=2), [np.nan, 1.0])


@pytest.mark.parametrize("scale", [1e-7, 1.0, 3e8])
@pytest.mark.parametrize("kind", ["depth", "inverse_depth"])
def test_measurements_keep_eleven_bits_whatever_their_unit(kind: str, scale: float) -> None:
    values = scale * np.random.default_rng(0).normal(3, 1, SIZE).astype(np.float32)
    found = there_and_back(StoredLabel(kind=kind), values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values, rtol=2**-11, atol=scale * 1e-6)


def test_unknown_inverse_depths_stay_unknown() -> None:
    values = np.full(SIZE, -2.0, np.float32)
    values[3] = np.nan
    found = there_and_back(StoredLabel(kind="inverse_depth"), values)
    np.testing.assert_array_equal(found, values)
    nothing = np.full(SIZE, np.nan, np.float32)
    assert np.isnan(there_and_back(StoredLabel(kind="inverse_depth"), nothing)).all()


def test_label_maps_come_back_exactly() -> None:
    values = np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)
    found = there_and_back(StoredLabel(kind="sem_seg"), values)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)
    found[0, 0] = 1  # callers may write


def test_smaller_maps_come_back_at_the_images_size() -> None:
    label = StoredLabel(kind="sem_seg", longest=20)
    assert stored_size(30, 40, 20) == (15, 20) and stored_size(30, 40, 50) == (30, 40)
    values = np.arange(300).reshape(15, 20).astype(np.uint8)
    found = there_and_back(label, values, (30, 40))
    np.testing.assert_array_equal(found, values.repeat(2, 0).repeat(2, 1))


def test_rows_of_a_shard_are_read_without_the_rest(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8, order="F")
    mask[4:9, 2:7] = 1
    labels = {
        "boxes": StoredLabel(kind="instances", num_classes=3, masks=True),
        "segments": StoredLabel(kind="sem_seg", num_classes=2),
        "classes": StoredLabel(kind="classes", num_classes=2),
        "depth": StoredLabel(kind="depth"),
    }
    rows = []
    for index, count in enumerate([2, 0, -1, 1]):
        row = Row(
            index=40 + index, file_name=f"{index}.png", image_hash=bytes(16), height=SIZE[0],
            width=SIZE[1], error="" if count >= 0 else "truncated",
        )  # fmt: skip
        values = {
            "boxes": {
                "boxes": [[1, 2, 3, 4 + i] for i in range(count)],
                "scores": [0.5] * count,
                "categories": [2] * count,
                "masks": [mask_util.encode(mask)["counts"]] * count,
            },
            "segments": np.full(SIZE, index),
            "classes": [0.25, 0.75],
            "depth": np.full(SIZE, 1 + index),
        }
        if not row.error:
            row.cells = {name: encode(label, values[name]) for name, label in labels.items()}
        rows.append(row)
    path = tmp_path / "shard.arrow"
    batch = shard_batch(labels, rows, {"note": 1})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    shard = Shard(path)
    assert shard.facts == {"note": 1} and shard.labels == labels and len(shard) == 4
    assert shard.column("index").to_pylist() == [40, 41, 42, 43]
    first, second = shard.read(0)["boxes"]
    assert (first["bbox"], second["bbox"]) == ([1, 2, 3, 4], [1, 2, 3, 5])
    assert first["category_id"] == 2 and first["score"] == 0.5 and first["iscrowd"] == 0
    np.testing.assert_array_equal(mask_util.decode(first["segmentation"]), mask)
    record = {"pseudo_shard": str(path), "pseudo_row": 3}
    found = read_labels(record, ["depth", "boxes"])
    assert list(found) == ["depth", "boxes"] and (found["depth"] == 4).all()
    assert len(found["boxes"]) == 1 and shard.read(1, ["boxes"])["boxes"] == []
    with pytest.raises(ValueError, match="'2.png' has no pseudo labels: truncated"):
        shard.read(2)
    with pytest.raises(KeyError, match="No pseudo label 'sky'; there are boxes, segments"):
        shard.read(0, ["sky"])


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.arrow"
    with pytest.raises(FileNotFoundError, match="no such shard"):
        Shard(path)
    path.write_bytes(b"ARROW1\0\0 cut off")
    with pytest.raises(ValueError, match="shard-00000.arrow' is damaged .* makes it anew"):
        Shard(path)
