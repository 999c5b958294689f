"""Load a plain ImageNet ResNet, Swin or model of timm into every unit of its lego.

All N units of a layer start from the same block of the checkpoint; an optional relative Gaussian
noise on the weights (not on biases and norms) of units 1..N-1 breaks the symmetry: without it the
units of a layer get gradients that differ only by their gates. Unit 0 is always the checkpoint
itself. The noise of a tensor depends on (seed, unit, name) alone, so that every rank, and every
later run, gets the same. Units of another kind than the stock block take the tensors that they
share with it; the others keep their initial values and are reported as missing.

What is wrong is refused before anything is written: another depth, another shape, and the stride
in the other convolution of the bottleneck, which would load without a word and compute something
else. A file for a `LegoTimm` has exactly the tensors of its model, besides its head.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn

from gppf_d2.modeling.layouts import CONSTANTS, TIMM, Family, family_of, parts_of, stock_name
from gppf_d2.modeling.weight_files import PlainWeights, read_plain_weights
from gppf_d2.tasks.random import hash64

logger = logging.getLogger(__name__)

_UNIT_KEY = re.compile(r"(?P<layer>.+?)\.units\.(?P<unit>\d+)\.(?P<rest>.+)")

_BACKBONE_LIKE = re.compile(
    r"(.*\.)?(stem|res\d|res_|layer\d|conv1|bn1|patch_embed|layers\.\d|features\.\d)[._]"
)
_COUNTER = ".num_batches_tracked"  # may be absent anywhere
_PLACE = {True: "1x1", False: "3x3", None: "unknown"}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What :func:`load_pretrained` did. Names are Detectron2's, without the unit.

    Args:
        path: the file.
        layout: "detectron2", "caffe2", "torchvision" (timm's ResNets too) or "timm" (its others).
        num_units: N, into each of which the weights went.
        architecture: such as "ResNet-50", "Swin-2-2-6-2" or "efficientnet_b7".
        stages: prefixes of the names, for the table.
        matched: tensors loaded.
        identity: running statistics that the file has folded into the affine: set to mean 0,
            variance 1.
        missing: tensors of the lego that the file lacks; they keep their values.
        unexpected: backbone tensors of the file that the lego lacks.
        ignored: names in the file that belong to heads.
        stride_in_1x1: the file's; None where it is not known.
        pixel_format: "RGB", "BGR", or None where it is not known.
        noise: standard deviation relative to the tensor's own, on units 1..N-1.
        pixel_mean: that the weights expect, in grey levels; None where nobody says.
        pixel_std: likewise.
        pixels_by: who says it, "the file" or "timm", which knows a model's usual weights.
    """

    path: str
    layout: str
    num_units: int
    architecture: str
    stages: tuple[str, ...]
    matched: tuple[str, ...]
    identity: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    stride_in_1x1: bool | None
    pixel_format: str | None
    noise: float
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    pixels_by: str = ""

    def __str__(self) -> str:
        """A table of stages, then one line for everything that is not a plain match."""
        rows = [
            (
                stage,
                *(_count(names, stage) for names in (self.matched, self.identity, self.missing)),
            )
            for stage in self.stages
        ]
        stride = f"stride of a bottleneck in the {_PLACE[self.stride_in_1x1]}, "
        stride = "" if self.layout == "timm" else stride  # where there is no such choice
        lines = [
            f"{self.architecture} weights from {self.path} ({self.layout} layout) into each of "
            f"{self.num_units} unit(s) a layer",
            tabulate(rows, headers=["stage", "loaded", "set to identity", "missing"]),
            f"{stride}pixels {self.pixel_format or 'unknown'}, noise {self.noise:g}",
        ]
        if self.pixel_mean and self.pixel_std:
            lines.append(
                f"by the word of {self.pixels_by} the weights expect input.pixel_mean="
                f"{list(self.pixel_mean)} and input.pixel_std={list(self.pixel_std)}"
            )
        for word in ("missing", "unexpected", "ignored"):
            names = getattr(self, word)
            if names:
                more = f" and {len(names) - 6} more" if len(names) > 6 else ""
                lines.append(f"{word}: {', '.join(names[:6])}{more}")
        return "\n".join(lines)


def load_pretrained(
    backbone: nn.Module,
    path: str | os.PathLike,
    noise: float = 0.0,
    seed: int = 0,
    *,
    allow_stride_mismatch: bool = False,
) -> LoadReport:
    """Load a plain checkpoint into all units of a lego backbone.

    No collective: every rank may call it and gets the same, or rank 0 alone before the first
    broadcast.

    Args:
        backbone: a ``LegoResNet``, ``LegoSwin`` or ``LegoTimm``.
        path: ``.pth``, ``.pt``, ``.safetensors`` or a zoo ``.pkl``; see ``weight_files``.
        noise: symmetry breaking, the standard deviation relative to that of each weight tensor,
            >= 0.
        seed: of the noise.
        allow_stride_mismatch: load although the stride is in the other convolution.

    Returns:
        What matched and what did not; printing it shows a table. Logged where something is missing
        or unexpected.

    Raises:
        ValueError: a bad file, another family, depth or shape, the stride elsewhere, a negative
            noise.
    """
    if noise < 0:
        raise ValueError(f"The noise is {noise}; give 0 for none or a positive fraction like 0.01.")
    state = backbone.state_dict()
    slots = _slots(backbone, state)
    weights = read_plain_weights(path, [slot.name for slot in slots.values()])
    family, size = _check_size(weights, slots)
    _check_shapes(weights, state, slots)
    if family is TIMM:
        _check_whole(weights, slots, backbone.title)
    if not allow_stride_mismatch:
        _check_stride(weights, stride_in_1x1(backbone))

    values = {
        key: _value_for(slot, state[key], weights, noise, seed) for key, slot in slots.items()
    }
    loaded = {key: value for key, value in values.items() if value is not None}
    backbone.load_state_dict({**state, **loaded})
    title = getattr(backbone, "title", "") or family.title(size)
    defaults = getattr(backbone, "input_defaults", {})
    report = _report(weights, slots, loaded, title, noise, defaults)
    if report.missing or report.unexpected:
        logger.warning("Not everything matched.\n%s", report)
    return report


def stride_in_1x1(backbone: nn.Module) -> bool | None:
    """Whether a lego's bottlenecks stride in the 1x1 convolution; None for basic blocks."""
    strided = [
        module.conv1.stride != (1, 1)
        for name, module in backbone.named_modules()
        if name.startswith("res3.0.units.") and hasattr(module, "conv3")
    ]
    return strided[0] if strided else None


class _Slot(NamedTuple):
    """One tensor of one unit; what all units share counts as unit 0's."""

    name: str  # Detectron2's, without the unit
    unit: int


def _slots(backbone: nn.Module, state: Mapping[str, Tensor]) -> dict[str, _Slot]:
    found = {key: _UNIT_KEY.fullmatch(key) for key in state if not key.endswith(CONSTANTS)}
    if not any(found.values()):
        raise ValueError(
            f"{type(backbone).__name__} has no lego layers to load into; give a LegoResNet, "
            "LegoSwin or LegoTimm."
        )
    return {
        key: _Slot(stock_name(f"{m['layer']}.{m['rest']}"), int(m["unit"])) if m else _Slot(key, 0)
        for key, m in found.items()
    }


def _value_for(
    slot: _Slot, like: Tensor, weights: PlainWeights, noise: float, seed: int
) -> Tensor | None:
    """What goes into a slot; None leaves it as it is."""
    if slot.name in weights.tensors:
        return _with_noise(weights.tensors[slot.name], noise, seed, slot)
    if weights.layout == "caffe2" and slot.name.endswith((".running_mean", ".running_var")):
        # as Detectron2 leaves them: the affine alone is applied
        return torch.full_like(like, float(slot.name.endswith("var")))
    return None


def _report(
    weights: PlainWeights,
    slots: Mapping[str, _Slot],
    loaded: Mapping[str, Tensor],
    architecture: str,
    noise: float,
    defaults: Mapping[str, tuple[float, ...]],
) -> LoadReport:
    said = weights.pixel_mean is not None and weights.pixel_std is not None
    wanted = {slot.name for slot in slots.values()}
    filled = {slots[key].name for key in loaded}
    left = {slot.name for key, slot in slots.items() if key not in loaded}
    unexpected = [name for name in weights.tensors if name not in wanted]
    if weights.family is not TIMM:  # of which tensors of the backbone are all known
        unexpected += [name for name in weights.others if _BACKBONE_LIKE.match(name)]
    return LoadReport(
        path=weights.path,
        layout=weights.layout,
        num_units=1 + max(slot.unit for slot in slots.values()),
        architecture=architecture,
        stages=weights.family.stages or parts_of(slot.name for slot in slots.values()),
        matched=tuple(sorted(filled & weights.tensors.keys())),
        identity=tuple(sorted(filled - weights.tensors.keys())),
        missing=tuple(sorted(name for name in left if not name.endswith(_COUNTER))),
        unexpected=tuple(name for name in unexpected if not name.endswith(_COUNTER)),
        ignored=tuple(name for name in weights.others if name not in unexpected),
        stride_in_1x1=weights.stride_in_1x1,
        pixel_format=weights.pixel_format,
        noise=noise,
        pixel_mean=weights.pixel_mean if said else defaults.get("pixel_mean"),
        pixel_std=weights.pixel_std if said else defaults.get("pixel_std"),
        pixels_by="the file" if said else "timm" if defaults else "",
    )


def _check_size(
    weights: PlainWeights, slots: Mapping[str, _Slot]
) -> tuple[Family, int | tuple[int, ...]]:
    names = {slot.name for slot in slots.values()}
    try:
        family = family_of(names)
        wanted, given = family.size_of(names), weights.family.size_of(weights.tensors)
    except ValueError as error:
        raise ValueError(f"{weights.path!r} cannot be loaded: {error}.") from None
    if (weights.family, given) != (family, wanted):
        change = f"set backbone.{family.size_key}={given} or " if family is weights.family else ""
        raise ValueError(
            f"{weights.path!r} holds a {weights.family.title(given)} and the lego is a "
            f"{family.title(wanted)}; {change}give weights of a {family.title(wanted)}."
        )
    return family, wanted


def _check_shapes(
    weights: PlainWeights, state: Mapping[str, Tensor], slots: Mapping[str, _Slot]
) -> None:
    for key, slot in slots.items():
        given = weights.tensors.get(slot.name)
        if given is not None and given.shape != state[key].shape:
            raise ValueError(
                f"{slot.name!r} has the shape {tuple(given.shape)} in {weights.path!r} and "
                f"{tuple(state[key].shape)} in the lego; make the widths, groups or windows of the "
                "backbone agree."
            )


def _check_whole(weights: PlainWeights, slots: Mapping[str, _Slot], model: str) -> None:
    """Refuse the weights of another model of timm, of which a part would load without a word."""
    wanted = {slot.name for slot in slots.values()}
    lacking = [name for name in wanted - weights.tensors.keys() if not name.endswith(_COUNTER)]
    more = sorted(weights.tensors.keys() - wanted)
    if lacking or more:
        raise ValueError(
            f"{weights.path!r} holds another model of timm than the lego's {model}: it lacks "
            f"{len(lacking)} of {len(wanted)} tensors and has {len(more)} more (such as "
            f"{(sorted(lacking) + more)[0].removeprefix('timm.')!r}); set backbone.model to the "
            f"file's model, or give weights of {model}."
        )


def _check_stride(weights: PlainWeights, wanted: bool | None) -> None:
    given = weights.stride_in_1x1
    if given is None or wanted is None or given == wanted:
        return
    raise ValueError(
        f"{weights.path!r} ({weights.layout} layout, {weights.pixel_format} pixels) has the stride "
        f"of its bottlenecks in the {_PLACE[given]} convolution and the lego in the "
        f"{_PLACE[wanted]}; set backbone.stride_in_1x1={given} and the input's format and means to "
        "match, or give other weights."
    )


def _with_noise(tensor: Tensor, noise: float, seed: int, slot: _Slot) -> Tensor:
    if noise == 0 or slot.unit == 0 or tensor.dim() < 2:
        return tensor
    generator = torch.Generator().manual_seed(hash64("pretrained", seed, slot.unit, slot.name))
    draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
    return tensor + (noise * tensor.float().std() * draw).to(tensor.dtype)


def _count(names: tuple[str, ...], stage: str) -> int:
    return sum(name.startswith(f"{stage}.") for name in names)
