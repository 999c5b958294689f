"""How pseudo labels are coded: from a label of an image to the cells of its row, and back.

Columns of a label, by kind (see ``pseudo_labels`` for the files):

    classes        .probabilities float16 [K]; or, of the k most probable classes, .top,
                   .probabilities [k] and .remainder, what all others have together
    instances      .boxes [R, 4] (x0, y0, x1, y1 in pixels), .scores, .categories, and, where the
                   teacher predicts masks, .masks (counts of COCO's compressed RLE)
    sem_seg        .map, uint8 [h, w], 255 is ignored
    depth,         .map, float16 [h, w], and .exponent: values are map * 2^-exponent, so that the
    inverse_depth  11 significant bits of a float16 serve whatever the unit is

h, w are the image's H, W, or less where the label has ``longest``. Maps are compressed losslessly
(zstd; measurements as differences of neighbours, high and low bytes apart).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from detectron2.structures import BoxMode

KINDS = ("classes", "instances", "sem_seg", "depth", "inverse_depth")
IGNORE = 255
_CODEC = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True, kw_only=True)
class StoredLabel:
    """One label of a folder: what it is and how it was stored.

    Args:
        kind: one of ``KINDS``.
        classes: names of the classes; empty where nobody knows them, and for measurements.
        num_classes: K; 0 for measurements, and where nobody knows it.
        teacher: key of the teacher in the manifest.
        threshold: scores (instances) or probabilities of pixels (sem_seg) below it were dropped.
        top_k: how many classes were kept; 0 keeps all.
        masks: whether instances have masks where the teacher predicts some.
        longest: longest side of stored maps, in pixels; 0 keeps the image's size.
        counts: what there is of it, in manifests: "images", and "instances", "masks", "per_class"
            or "labelled", the share of pixels that have one.
    """

    kind: str
    classes: tuple[str, ...] = ()
    num_classes: int = 0
    teacher: str = ""
    threshold: float = 0.0
    top_k: int = 0
    masks: bool = False
    longest: int = 0
    counts: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Everything but the counts, as JSON."""
        found = {**asdict(self), "classes": list(self.classes)}
        del found["counts"]
        return found

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> StoredLabel:
        """From JSON."""
        return cls(**{**facts, "classes": tuple(facts["classes"])})


def stored_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Size of the stored map of an image: h and w, at most ``longest`` where that is not 0."""
    most = max(height, width)
    if not 0 < longest < most:
        return height, width
    return tuple(max(1, round(side * longest / most)) for side in (height, width))


def encode(label: StoredLabel, value: Any) -> dict[str, Any]:
    """The cells of a label for one image.

    Args:
        label: what it is.
        value: probabilities [K]; for instances a dict of "boxes" [R, 4], "scores" [R],
            "categories" [R] and, with masks, "masks", R bytes; or a map of ``stored_size``.

    Returns:
        Column, without the label's name -> value.

    Raises:
        ValueError: probabilities that are none, or objects of a class that there is not.
        FloatingPointError: numbers that are not finite, as an overflow gives them.
    """
    if label.kind == "classes":
        return _encode_classes(label, np.asarray(value, np.float32))
    if label.kind == "instances":
        return _encode_instances(label, value)
    if label.kind == "sem_seg":
        return {"map": _compress(np.ascontiguousarray(value, np.uint8))}
    return _encode_measurements(np.asarray(value, np.float32))


def _encode_instances(label: StoredLabel, value: Mapping[str, Any]) -> dict[str, Any]:
    cells = {
        "boxes": np.asarray(value["boxes"], np.float32).reshape(-1, 4),
        "scores": np.asarray(value["scores"], np.float32),
        "categories": np.asarray(value["categories"], np.int32),
    }
    if not np.isfinite(cells["boxes"]).all():
        raise FloatingPointError("the teacher's boxes are not finite")
    categories, count = cells["categories"], label.num_classes
    wrong = categories[(categories < 0) | ((categories >= count) & (count > 0))]
    if wrong.size:
        limit = f"0 to {count - 1}" if count else "0 or more"
        raise ValueError(f"the teacher has an object of class {wrong[0]}, expected {limit}")
    return {**cells, "masks": list(value.get("masks") or ())} if label.masks else cells


def _encode_classes(label: StoredLabel, shares: np.ndarray) -> dict[str, Any]:
    good = shares.shape == (label.num_classes,)
    if good and not np.isfinite(shares).all():
        raise FloatingPointError("the teacher's probabilities are not finite")
    if not good or shares.min() < -1e-3 or abs(float(shares.sum()) - 1) > 0.02:
        raise ValueError(
            f"the teacher's classes are an array of shape {list(shares.shape)} with the sum "
            f"{shares.sum():.3g}, expected {label.num_classes} probabilities; let it apply softmax"
        )
    if not label.top_k:
        return {"probabilities": shares.astype(np.float16)}
    top = np.argsort(-shares, kind="stable")[: label.top_k]
    kept = shares[top].astype(np.float16)
    remainder = max(0.0, float(np.delete(shares, top).sum(dtype=np.float64)))
    return {"top": top.astype(np.int32), "probabilities": kept, "remainder": remainder}


def _compress(values: np.ndarray) -> bytes:
    return _CODEC.compress(values.data if values.size else b"", asbytes=True)


def _encode_measurements(values: np.ndarray) -> dict[str, Any]:
    largest = float(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max())
    exponent = 15 - int(np.frexp(largest)[1]) if largest else 0
    bits = np.ldexp(values, exponent).astype(np.float16).view(np.uint16)
    change = bits.copy()
    change[1:] -= bits[:-1]  # modulo 2^16
    change[:, 1:] -= change[:, :-1].copy()
    planes = change.view(np.uint8).reshape(*change.shape, 2).transpose(2, 0, 1)
    return {"map": _compress(np.ascontiguousarray(planes)), "exponent": exponent}


def decode(label: StoredLabel, cells: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """A label of one image.

    Args:
        label: what it is.
        cells: of its columns; maps and masks as buffers.
        size: H, W of the image.

    Returns:
        classes: float32 [K], sum 1 (of the k most probable, the remainder is spread evenly over
        the others); instances: Detectron2 annotations with "score"; sem_seg: uint8 [H, W], 255
        ignored; depth, inverse_depth: float32 [H, W], NaN where the teacher says nothing about an
        inverse depth, 0 where it says nothing about a depth.
    """
    if label.kind == "classes":
        return _decode_classes(label, cells)
    if label.kind == "instances":
        return _decode_instances(cells, size)
    rows, columns = stored_size(*size, label.longest)
    if label.kind == "sem_seg":
        values = _decompress(cells["map"], rows * columns).reshape(rows, columns)
    else:
        planes = _decompress(cells["map"], 2 * rows * columns).reshape(2, rows, columns)
        bits = np.ascontiguousarray(planes.transpose(1, 2, 0)).view(np.uint16)[..., 0]
        for axis in (1, 0):
            bits = np.add.accumulate(bits, axis, dtype=np.uint16)
        values = np.ldexp(bits.view(np.float16).astype(np.float32), -int(cells["exponent"]))
    if (rows, columns) == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _decompress(data: Any, length: int) -> np.ndarray:
    return np.frombuffer(_CODEC.decompress(data, length), np.uint8).copy()


def _decode_classes(label: StoredLabel, cells: Mapping[str, Any]) -> np.ndarray:
    shares = np.asarray(cells["probabilities"], np.float32)
    if label.top_k:
        kept, others = shares, label.num_classes - len(shares)
        shares = np.full(label.num_classes, cells["remainder"] / max(others, 1), np.float32)
        shares[np.asarray(cells["top"])] = kept
    return shares / shares.sum(dtype=np.float64).astype(np.float32)


def _decode_instances(cells: Mapping[str, Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    masks = cells.get("masks") or ()
    found = [
        {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": category,
            "iscrowd": 0,
            "score": score,
        }
        for box, score, category in zip(cells["boxes"], cells["scores"], cells["categories"])
    ]
    for annotation, counts in zip(found, masks):
        annotation["segmentation"] = {"size": list(size), "counts": bytes(counts)}
    return found


def columns_of(label: StoredLabel) -> dict[str, pa.DataType]:
    """The columns of a label, without its name."""
    half, word = pa.float16(), pa.int32()
    if label.kind == "classes":
        kept = label.top_k or label.num_classes
        if not label.top_k:
            return {"probabilities": pa.list_(half, kept)}
        return {
            "top": pa.list_(word, kept),
            "probabilities": pa.list_(half, kept),
            "remainder": pa.float32(),
        }
    if label.kind == "instances":
        boxes = {
            "boxes": pa.list_(pa.list_(pa.float32(), 4)),
            "scores": pa.list_(pa.float32()),
            "categories": pa.list_(word),
        }
        return {**boxes, "masks": pa.list_(pa.large_binary())} if label.masks else boxes
    maps = {"map": pa.large_binary()}
    return maps if label.kind == "sem_seg" else {**maps, "exponent": pa.int16()}
