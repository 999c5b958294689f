"""From what a network puts out to what is stored, on the network's device (MuST, section 3.1).

    instances       those with a score of at least the threshold
    sem_seg         the most probable class of each pixel, 255 where its probability is below the
                    threshold
    classes         the whole distribution
    depth,          as predicted; where the mapper cropped, pixels that the network did not see are
    inverse_depth   0 (NaN for inverse depth), and 255 in segmentation

Scores [C, H, W] without a negative value are probabilities (as test-time augmentation or mask
classification give them) and are taken as they are; others are logits and go through softmax. It is
asked of about 4,096 pixels on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gppf_d2.data.pseudo_coding import stored_size
from gppf_d2.data.pseudo_labels import IGNORE, StoredLabel
from gppf_d2.evaluation.masks import encode_masks

ASKED_PIXELS = 4096
SMALLEST = -60.0  # difference of logits; exp takes many times as long for results near 1e-38
CHUNK = 1 << 16  # scores that softmax takes at a time on a CPU: they stay in its cache


def reduce_output(
    label: StoredLabel, output: Any, size: tuple[int, int], window: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """The part of an output that is stored, still on its device.

    Args:
        label: what it is and how it is stored.
        output: of a head for one image.
        size: H, W of the image.
        window: x0, y0, x1, y1 in pixels of the image that the network saw; None is all.

    Returns:
        Small tensors by name, see `host_value`.

    Raises:
        ValueError: a shape that the kind does not have.
    """
    if label.kind == "instances":
        return _instances(label, output)
    if not isinstance(output, Tensor):
        output = torch.as_tensor(np.asarray(output))
    if label.kind == "classes":
        return {"value": output.detach().flatten().float()}
    stored = stored_size(*size, label.longest)
    if label.kind == "sem_seg":
        if output.dim() != 3:
            raise ValueError(f"sem_seg has shape {list(output.shape)}, expected [C, H, W]")
        labels = _label_map(output, stored, label.threshold)
        return {"value": _outside(labels, window, size, IGNORE)}
    if output.dim() == 3 and len(output) == 1:
        output = output[0]
    if output.dim() != 2:
        raise ValueError(f"{label.kind} has shape {list(output.shape)}, expected [H, W]")
    unknown = 0.0 if label.kind == "depth" else math.nan
    values = _measurements(output.float(), size, stored)
    if label.kind == "depth":
        values = values.nan_to_num(0.0, 0.0, 0.0).clamp_(min=0)
    return {"value": _outside(values, window, size, unknown)}


def _instances(label: StoredLabel, instances: Any) -> dict[str, Tensor]:
    numbers = instances.pred_boxes.tensor.shape[1]
    if numbers != 4:
        raise ValueError(f"instances have boxes of {numbers} numbers, expected x0, y0, x1, y1")
    kept = instances.scores >= label.threshold
    found = {
        "boxes": instances.pred_boxes.tensor[kept].float(),
        "scores": instances.scores[kept].float(),
        "categories": instances.pred_classes[kept],
    }
    if label.masks and instances.has("pred_masks"):
        masks = instances.pred_masks
        found["masks"] = getattr(masks, "tensor", masks)[kept].bool()
        some = found["masks"].flatten(1).any(1)  # an object without a pixel is none
        found = {key: value[some] for key, value in found.items()}
    return found


def _label_map(scores: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """uint8 [h, w] of ``size`` from scores [C, H, W]."""
    step = max(1, math.isqrt(scores.shape[1] * scores.shape[2] // ASKED_PIXELS))
    are_probabilities = bool((scores[:, ::step, ::step] >= 0).all())
    scores = scores.float()
    if tuple(scores.shape[1:]) != size:
        scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    rows = max(1, CHUNK // max(1, scores.shape[0] * scores.shape[2]))
    parts = scores.split(rows, 1) if scores.device.type == "cpu" else [scores]
    return torch.cat([_most_probable(part, threshold, are_probabilities) for part in parts])


def _most_probable(scores: Tensor, threshold: float, are_probabilities: bool) -> Tensor:
    best, labels = scores.max(0)
    if are_probabilities:
        sure = best >= threshold
    else:  # p = 1 / sum_j exp(s_j - s_best)
        differences = (scores - best).clamp_(min=SMALLEST)
        sure = differences.exp_().sum(0) * threshold <= 1
    return torch.where(sure, labels, IGNORE).to(torch.uint8)


def _measurements(values: Tensor, size: tuple[int, int], stored: tuple[int, int]) -> Tensor:
    """A map at the image's size (bilinear), then at the stored one (nearest: none is invented)."""
    for wanted, mode in ((size, "bilinear"), (stored, "nearest-exact")):
        if tuple(values.shape) != wanted:
            values = F.interpolate(values[None, None], wanted, mode=mode)[0, 0]
    return values


def _outside(
    values: Tensor, window: Sequence[int] | None, size: tuple[int, int], unknown: float
) -> Tensor:
    """A map with ``unknown`` where the network did not see the image."""
    if window is None:
        return values
    height, width = values.shape
    scale = np.array([width / size[1], height / size[0]] * 2)
    x0, y0, x1, y1 = (np.asarray(window) * scale).round().astype(int).clip(0).tolist()
    whole = torch.full_like(values, unknown)
    whole[y0:y1, x0:x1] = values[y0:y1, x0:x1]
    return whole


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the host's memory; from a GPU the copies are under way (pinned memory), so
    wait for an event before they are read."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.is_cuda:
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            tensor = pinned.copy_(tensor, non_blocking=True)
        found[name] = tensor.detach()
    return found


def host_value(label: StoredLabel, tensors: Mapping[str, Tensor]) -> Any:
    """What ``gppf_d2.data.pseudo_labels.encode`` takes, from reduced tensors on the host."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if label.kind != "instances":
        return arrays["value"]
    if "masks" in arrays:
        arrays["masks"] = encode_masks(np.ascontiguousarray(arrays["masks"]))[0]
    return arrays
