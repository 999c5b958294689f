"""Read a plain backbone's weights from a file of any origin, with Detectron2's names.

Files: ``.pth``/``.pt`` (read with ``weights_only=True``), ``.safetensors``, and ``.pkl`` of the
Detectron2 model zoo, which goes through Detectron2's own checkpointer. The layout (Detectron2,
Caffe2, torchvision, timm) and the prefix of the names ("module.", "backbone.bottom_up.", ...) are
read from the names themselves. Other models of timm than its ResNets and Swins are not known by
their names: they are found by those of the `LegoTimm` that they are for.

A state dict does not show where a bottleneck has its stride. It is known from the origin: Caffe2's
and the zoo's ResNets have it in the 1x1 convolution and take BGR, torchvision's and timm's in the
3x3 and take RGB (grouped ones, ResNeXt, have it in the 3x3 everywhere); files written by this
package say it themselves. Other backbones have no such choice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from gppf_d2.modeling.layouts import (
    CONSTANTS,
    RESNET,
    TIMM,
    Family,
    detect,
    find_prefix,
    from_layout,
    is_bottleneck,
)

SUFFIXES = (".pth", ".pt", ".safetensors", ".pkl")
METADATA_KEY = "gppf_d2"  # under which files written by this package describe themselves

_WRAPPERS = ("model", "state_dict", "model_state")


@dataclass(frozen=True, kw_only=True)
class PlainWeights:
    """A plain backbone read from a file.

    Args:
        path: the file.
        family: of the backbone.
        layout: "detectron2", "caffe2", "torchvision" (timm's ResNets too) or "timm" (its others).
        author: what the file says about its origin; "" where it says nothing.
        tensors: Detectron2's name, without prefix -> tensor.
        others: names in the file that are not tensors of the backbone (heads, ...).
        stride_in_1x1: where bottlenecks have their stride; None: not known, or the blocks have no
            choice.
        pixel_format: "RGB", "BGR", or None where it is not known.
        pixel_mean: per channel in that order, in grey levels; None where the file does not say.
        pixel_std: likewise.
    """

    path: str
    family: Family
    layout: str
    author: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = field(default=())
    stride_in_1x1: bool | None = None
    pixel_format: str | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None


def read_plain_weights(path: str | os.PathLike, wanted: Collection[str] = ()) -> PlainWeights:
    """Read the backbone of a plain checkpoint.

    Args:
        path: a local file, or an address that Detectron2's path manager knows
            (``detectron2://...``).
        wanted: Detectron2's names of the tensors of the backbone that the weights are for; a timm
            model is found by them, other families without.

    Raises:
        ValueError: no such file, unknown suffix, unreadable, or no plain backbone in it.
    """
    path = os.fspath(path)
    content = _read_file(path)
    state, author, metadata = _unwrap(path, content)
    if any(".units." in name for name in state):
        raise ValueError(
            f"{path!r} is a lego checkpoint, not a plain backbone; say with train.init_route which "
            "route to take, or export one with `python -m gppf_d2.tools.export_backbone`."
        )
    of_timm = any(map(TIMM.owns, wanted))
    try:
        if of_timm:
            family, layout, prefix = TIMM, "timm", find_prefix(state, wanted)
        else:
            family, layout, prefix = detect(state)
    except ValueError as error:
        fitting = "timm's weights of the model that backbone.model names"
        fitting = fitting if of_timm else "a plain ResNet of depth 18 to 152 or a plain Swin"
        raise ValueError(
            f"{path!r} cannot be loaded as a backbone: {error}; give {fitting}."
        ) from None
    tensors, others = _rename(state, family, layout, prefix)
    if of_timm:
        tensors, heads = _without_heads(tensors, wanted)
        others += [prefix + name.removeprefix("timm.") for name in heads]
    stride, pixels = _origin(family, layout, author, metadata, tensors)
    return PlainWeights(
        path=path, family=family, layout=layout, author=author, tensors=tensors,
        others=tuple(others), stride_in_1x1=stride, pixel_format=pixels,
        pixel_mean=_numbers(metadata, "pixel_mean"), pixel_std=_numbers(metadata, "pixel_std"),
    )  # fmt: skip


class _ZooReader(DetectionCheckpointer):
    """Detectron2's own reading of a zoo file, without a model to load it into."""

    def __init__(self) -> None:
        super().__init__(nn.Module(), save_to_disk=False)

    def read(self, path: str) -> dict[str, Any]:
        content = self._load_file(path)
        self._convert_ndarray_to_tensor(content["model"])
        return content


def _read_file(path: str) -> Any:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path!r} has the suffix {suffix!r}; weights are read from {', '.join(SUFFIXES)}."
        )
    try:
        local = PathManager.get_local_path(path)
    except Exception as error:
        raise ValueError(f"{path!r} cannot be fetched ({first_line(error)}).") from error
    if not os.path.isfile(local):
        raise ValueError(f"There is no weights file {path!r}; check the path.")
    try:
        if suffix == ".pkl":
            return _ZooReader().read(local)
        if suffix == ".safetensors":
            return _read_safetensors(local)
        return torch.load(local, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path!r} cannot be read as plain weights ({first_line(error)}); "
            "it may be truncated, or hold more than tensors: save its state dict alone."
        ) from error


def _read_safetensors(path: str) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = (file.metadata() or {}).get(METADATA_KEY)
        names = list(file.keys())
        content: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
    if metadata:
        content[METADATA_KEY] = json.loads(metadata)
    return content


def _unwrap(path: str, content: Any) -> tuple[dict[str, Tensor], str, Mapping[str, Any]]:
    author, metadata = "", {}
    while isinstance(content, Mapping):
        author = content.get("__author__", author)
        metadata = content.get(METADATA_KEY, metadata)
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
            return state, str(author), metadata if isinstance(metadata, Mapping) else {}
        content = inner
    raise ValueError(
        f"{path!r} holds a {type(content).__name__} instead of a state dict; "
        "save `model.state_dict()` into it."
    )


def _rename(
    state: dict[str, Tensor], family: Family, layout: str, prefix: str
) -> tuple[dict[str, Tensor], list[str]]:
    if layout == "caffe2":
        inside = {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}
        others = [name for name in state if not name.startswith(prefix)]
        state, _ = convert_c2_detectron_names(inside)
        layout, prefix = "detectron2", ""
    else:
        others = []
    tensors = {}
    for name, tensor in state.items():
        if name.endswith(CONSTANTS):
            continue
        inside = name.startswith(prefix)
        plain = from_layout(name[len(prefix) :], layout, family) if inside else None
        if plain is None:
            others.append(name)
        else:
            tensors[plain] = tensor
    return tensors, others


def _without_heads(
    tensors: Mapping[str, Tensor], wanted: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the modules that a lego's timm model has, and the names of the others."""
    roots = {name.split(".")[1] for name in wanted}
    kept = {name: tensor for name, tensor in tensors.items() if name.split(".")[1] in roots}
    return kept, [name for name in tensors if name not in kept]


def _numbers(metadata: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    return tuple(map(float, metadata[key])) if metadata.get(key) else None


def _origin(
    family: Family,
    layout: str,
    author: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> tuple[bool | None, str | None]:
    """Where the stride is and what pixels the weights expect, as far as the origin tells."""
    if metadata:
        return metadata.get("stride_in_1x1"), metadata.get("pixel_format")
    if family is not RESNET:
        return None, "RGB" if layout in ("torchvision", "timm") else None
    if layout == "torchvision" or author == "torchvision":
        stride, pixels = False, "RGB"
    elif layout == "caffe2" or author == "Detectron2 Model Zoo":
        conv2 = tensors.get("res2.0.conv2.weight")
        stride = conv2 is not None and conv2.shape[0] == conv2.shape[1]  # ResNeXt: in the 3x3
        pixels = "BGR"
    else:
        return None, None
    return (stride if is_bottleneck(tensors) else None), pixels


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a sentence of our own."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
