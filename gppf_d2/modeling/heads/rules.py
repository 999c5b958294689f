"""What every head must keep: one input format for the run, and no synchronised norm of its own.
And what differs from task to task in heads of one kind: the layers that predict classes.

All tasks feed the same backbone, so their heads must normalise images alike; the config gives
format, mean and std once. And another rank may run another head: a norm in a head that
synchronises over the world would hang, so it becomes a BatchNorm with the statistics of its own
rank (its buffers are averaged over the contributors).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

logger = logging.getLogger(__name__)

_SYNCHRONISED = (nn.SyncBatchNorm, NaiveSyncBatchNorm)

# Detectron2's modules -> their parts whose outputs stand for classes; "" is the module itself
_PREDICTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    FastRCNNOutputLayers: ("",),
    MaskRCNNConvUpsampleHead: ("predictor",),
    RetinaNetHead: ("cls_score",),
    SemSegFPNHead: ("predictor",),
}


def check_input_format(
    task: str, head: nn.Module, pixel_mean: Sequence[float], pixel_std: Sequence[float]
) -> None:
    """Refuse a head that normalises images in another way than the run's config says.

    Args:
        task: named in the message.
        head: searched with its children for ``pixel_mean`` and ``pixel_std``.
        pixel_mean: per channel, in the order of the config's pixel format.
        pixel_std: per channel.

    Raises:
        ValueError: the head's values differ.
    """
    for module in head.modules():
        for name, wanted in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            value = getattr(module, name, None)
            if not isinstance(value, torch.Tensor):
                continue
            found, wanted = value.flatten().tolist(), [float(w) for w in wanted]
            if len(found) != len(wanted) or any(
                abs(a - b) > 1e-3 * max(1.0, abs(b)) for a, b in zip(found, wanted)
            ):
                raise ValueError(
                    f"The head of task {task!r} has {name}={[round(v, 4) for v in found]}, but "
                    f"input.{name} of the config is {wanted}; all heads share one backbone, so "
                    f"write ${{input.{name}}} in the head."
                )


def replace_sync_norms(head: nn.Module) -> int:
    """Replace SyncBN-type norms of a head by BatchNorm2d, in place, with a log line.

    Args:
        head: its children are searched; a view's backbone is not among them.

    Returns:
        How many were replaced.
    """
    found = list(_synchronised(head, ""))
    for parent, attribute, norm, _ in found:
        setattr(parent, attribute, _plain_norm(norm))
    if found:
        names = ", ".join(name for *_, name in found[:3]) + (", ..." if len(found) > 3 else "")
        kinds = ", ".join(sorted({type(norm).__name__ for _, _, norm, _ in found}))
        logger.info(
            "%d norm(s) of type %s in a head (%s) became BatchNorm2d: other ranks may run other "
            "heads, so norms in heads never synchronise.", len(found), kinds, names,
        )  # fmt: skip
    return len(found)


def _synchronised(module: nn.Module, path: str) -> Iterator[tuple[nn.Module, str, nn.Module, str]]:
    for name, child in module.named_children():
        if isinstance(child, _SYNCHRONISED):
            yield module, name, child, path + name
        else:
            yield from _synchronised(child, f"{path}{name}.")


def _plain_norm(norm: nn.Module) -> nn.BatchNorm2d:
    tracks = norm.track_running_stats
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, tracks)
    plain.load_state_dict(norm.state_dict())
    reference = next((t for t in norm.state_dict().values() if t.is_floating_point()), None)
    if reference is not None:
        plain.to(device=reference.device, dtype=reference.dtype)
    for name, parameter in norm.named_parameters():
        getattr(plain, name).requires_grad_(parameter.requires_grad)
    return plain.train(norm.training)


def prediction_layers(head: nn.Module) -> tuple[str, ...]:
    """Paths of the modules whose outputs stand for the classes of a task.

    A module of one's own says it with an attribute ``prediction_layers``, a tuple of names below
    it; of Detectron2's they are known.

    Args:
        head: a task's head; it and all modules in it are asked.
    """
    found = []
    for path, module in head.named_modules():
        names = getattr(module, "prediction_layers", None)
        if names is None:
            names = next((n for kind, n in _PREDICTIONS.items() if isinstance(module, kind)), ())
        found += [".".join(filter(None, (path, name))) for name in names]
    return tuple(found)
