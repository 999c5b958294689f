"""Create a model of the timm library and cut it into layers, whatever its family.

A model that fits is a chain: a stem, then stages, each a chain of blocks; its features of the
strides 4, 8, 16 and 32 (timm's ``feature_info``) are outputs of stages. One pass of a small image
shows where it may be cut: what one part returns is, as an object, what the next one takes, so
nothing happens between them. What runs before a stage's first block (ConvNeXt's downsampling)
belongs to that block, and what follows the last feature is left out. The same pass tells in which
order the batch norms run, and that no block writes into the feature that it takes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from detectron2.layers import ShapeSpec
from omegaconf import OmegaConf
from torch import Tensor, nn

from gppf_d2.modeling.weight_files import first_line

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
FITTING = (
    "efficientnet_b0 to _b7, tf_efficientnet_l2, tf_efficientnetv2_s, mobilenetv3_large_100, "
    "convnext_tiny, regnety_032, resnet50d"
)
_SIDE = 64  # of the image that shows the chain


@dataclass(frozen=True)
class Cut:
    """Where a model is cut. Paths are those of its modules.

    Args:
        layers: name of a layer ("stem", "res2.0", ...) -> the modules that it calls one after
            another.
        norms: name of a layer -> its batch norms in the order of their calls.
        features: name of a feature -> (the layer whose output it is, its channels and stride).
    """

    layers: Mapping[str, tuple[str, ...]]
    norms: Mapping[str, tuple[str, ...]]
    features: Mapping[str, tuple[str, ShapeSpec]]


def create(
    model: str, drop_path_rate: float = 0.0, model_args: Mapping[str, Any] | None = None
) -> nn.Module:
    """A model of timm without a classifier, freshly initialised; nothing is downloaded.

    Args:
        model: timm's name, such as "efficientnet_b7".
        drop_path_rate: stochastic depth of the last block, growing from 0 as timm has it.
        model_args: further arguments of ``timm.create_model``.

    Raises:
        ValueError: timm is missing, does not know the model, or cannot build it so.
    """
    timm = _library()
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        raise ValueError(
            f"timm {timm.__version__} has no model {model!r}; "
            + (f"close to it are {', '.join(near)}." if near else f"choose one like {FITTING}.")
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate is {drop_path_rate}; give a probability in [0, 1).")
    arguments = plain_args(model_args)
    rate = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    try:
        return timm.create_model(model, pretrained=False, num_classes=0, **rate, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"timm {timm.__version__} cannot build {model!r} with {rate | arguments} "
            f"({first_line(error)}); change the name, backbone.model_args or drop_path_rate."
        ) from error


def plain_args(model_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """The further arguments of a model as plain data, whether a config gives them or Python."""
    if OmegaConf.is_config(model_args):
        return OmegaConf.to_container(model_args, resolve=True)
    return dict(model_args or {})


def input_of(module: nn.Module) -> dict[str, tuple[float, ...]]:
    """What a model's published weights expect, by timm's word: "pixel_mean" and "pixel_std" per
    channel in RGB order and grey levels 0 to 255."""
    known = getattr(module, "default_cfg", None) or {}
    return {
        f"pixel_{key}": tuple(round(255 * value, 3) for value in known[key])
        for key in ("mean", "std")
        if known.get(key) is not None
    }


def cut(name: str, module: nn.Module) -> Cut:
    """Find the layers and features of a model.

    Args:
        name: of the model, for errors.
        module: from `create`; it gives the cut of all models of this name and arguments.

    Raises:
        ValueError: the model is no such chain.
    """
    try:
        return _cut(module)
    except _Unfit as reason:
        raise ValueError(
            f"timm's {name!r} cannot be the backbone: {reason}; give one that is a chain of blocks "
            f"with features of the strides 4, 8, 16 and 32, such as {FITTING}."
        ) from None


class _Unfit(Exception):
    """Why a model cannot be cut, half a sentence."""


class _Call(NamedTuple):
    """One call of a part in the pass of the small image."""

    given: Tensor | None  # None where the part took anything else, or more
    returned: Any
    wrote: bool  # into what it was given


@dataclass
class _Pass:
    """What happened when the small image went through a model.

    Args:
        image: what went in.
        calls: of every part that was watched.
        norms: paths of the batch norms in the order of their calls.
    """

    image: Tensor
    calls: Mapping[str, list[_Call]]
    norms: list[str]

    def once(self, path: str) -> _Call:
        """The call of a part that runs once."""
        if len(self.calls[path]) != 1:
            raise _Unfit(f"{path} runs {len(self.calls[path])} times")
        return self.calls[path][0]

    def follow(self, parts: Sequence[str], start: Tensor | None) -> Any:
        """What the last of some parts returned, if each ran once and took what the one before it
        returned; else None."""
        x = start
        for path in parts:
            if len(self.calls[path]) != 1 or x is None or self.calls[path][0].given is not x:
                return None
            x = self.calls[path][0].returned
        return x


def _library() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"The timm library cannot be imported ({first_line(error)}); install it with "
            "`pip install timm` to use its models as the backbone."
        ) from error
    return timm


def _cut(module: nn.Module) -> Cut:
    ends = _feature_modules(module)
    stem, stages = _stem_and_stages(module, ends)
    blocks = {stage: _blocks(stage, module.get_submodule(stage)) for stage in stages}
    inside = (path for groups in blocks.values() for group in groups for path in group)
    seen = _pass_an_image(module, list(dict.fromkeys([*stem, *stages, *inside])))
    if seen.follow([*stem, *stages], seen.image) is None:
        raise _Unfit("its stages do not simply follow one another")
    for stage, groups in blocks.items():
        call, parts = seen.once(stage), [path for group in groups for path in group]
        if seen.follow(parts, call.given) is not call.returned:
            blocks[stage] = [[stage]]  # its blocks do not follow one another: all are one unit

    layers, features = {"stem": _with_content(module, stem)}, {}
    left = dict(ends)
    for stage, groups in blocks.items():
        name = next(iter(left))
        first = sum(layer.startswith(f"{name}.") for layer in layers)
        filled = [group for group in groups if _with_content(module, group)]
        for index, group in enumerate(filled, start=first):
            _check_reads_only(group, seen)
            layers[f"{name}.{index}"] = _with_content(module, group)
        if left[name] == stage:
            del left[name]
            shape = _checked_shape(seen.once(stage).returned, STRIDES[name], stage)
            features[name] = (list(layers)[-1], shape)
    norms = {name: _norms_in(parts, seen.norms, module) for name, parts in layers.items()}
    return Cut(layers, norms, features)


def _feature_modules(module: nn.Module) -> dict[str, str]:
    """Name of a feature -> path of the module whose output it is."""
    known = {
        info["reduction"]: info["module"]
        for info in getattr(module, "feature_info", None) or ()
        if isinstance(info, Mapping) and {"reduction", "module"} <= info.keys()
    }
    if not set(STRIDES.values()) <= known.keys():
        raise _Unfit(f"its features have the strides {', '.join(map(str, known)) or 'unknown'}")
    return {name: known[stride] for name, stride in STRIDES.items()}


def _stem_and_stages(module: nn.Module, ends: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Paths of what runs before the stages, and of the stages up to the last feature's."""
    parent = ends["res5"].rpartition(".")[0]
    siblings = [name for name, _ in module.get_submodule(parent).named_children()]
    stages = [f"{parent}.{name}" if parent else name for name in siblings]
    if any(path not in stages for path in ends.values()):
        raise _Unfit(f"its features are those of {', '.join(ends.values())}, no stages in a row")
    top = [name for name, _ in module.named_children()]
    last = stages.index(ends["res5"]) + 1
    if not parent:
        return top[: top.index(ends["res2"])], stages[stages.index(ends["res2"]) : last]
    stem = top[: top.index(parent.partition(".")[0])]
    if not stem or last < len(stages):
        raise _Unfit(f"{parent} is not just its stages")
    return stem, stages


def _blocks(path: str, stage: nn.Module) -> list[list[str]]:
    """The parts of a stage's blocks; the first block's include what stands before the blocks."""
    children = [f"{path}.{name}" for name, _ in stage.named_children()]
    if not hasattr(stage, "blocks"):
        return [[child] for child in children] or [[path]]
    blocks = [f"{path}.blocks.{name}" for name, _ in stage.blocks.named_children()]
    before = children[: children.index(f"{path}.blocks")]
    return [[*before, *blocks[:1]], *([block] for block in blocks[1:])] if blocks else [[path]]


def _pass_an_image(module: nn.Module, parts: Sequence[str]) -> _Pass:
    """Watch the parts and the batch norms while a small image goes through, in evaluation."""
    calls: dict[str, list[_Call]] = {path: [] for path in parts}
    versions: dict[str, int] = {}
    norms: list[str] = []

    def watch(path: str) -> list[Any]:
        def before(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            versions[path] = _version(_alone(given, named))

        def after(_: nn.Module, given: tuple, named: dict[str, Any], returned: Any) -> None:
            x = _alone(given, named)
            calls[path].append(_Call(x, returned, _version(x) != versions[path]))

        part = module.get_submodule(path)
        return [
            part.register_forward_pre_hook(before, with_kwargs=True),
            part.register_forward_hook(after, with_kwargs=True),
        ]

    hooks = [hook for path in parts for hook in watch(path)]
    for path, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            hooks.append(part.register_forward_pre_hook(lambda *_, path=path: norms.append(path)))
    weight, mode = next(module.parameters()), module.training
    try:
        with torch.inference_mode(False), torch.no_grad():
            image = torch.zeros(1, 3, _SIDE, _SIDE, dtype=weight.dtype, device=weight.device)
            module.eval()(image)
    except Exception as error:
        raise _Unfit(f"it takes no image of {_SIDE} x {_SIDE} ({first_line(error)})") from error
    finally:
        module.train(mode)
        for hook in hooks:
            hook.remove()
    return _Pass(image, calls, norms)


def _alone(given: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """The tensor that a part took, if it took nothing else."""
    return given[0] if len(given) == 1 and not named and isinstance(given[0], Tensor) else None


def _version(x: Tensor | None) -> int:
    """Grows with every operation that writes into a tensor."""
    return 0 if x is None else x._version


def _check_reads_only(parts: Sequence[str], seen: _Pass) -> None:
    """All units of a layer take the same tensor, and heads take the features."""
    taken = seen.once(parts[0]).given
    for path in parts:
        call = seen.once(path)
        if call.wrote and call.given is taken:
            raise _Unfit(f"{path} writes into the feature that it takes")


def _checked_shape(feature: Any, stride: int, path: str) -> ShapeSpec:
    side = _SIDE // stride
    if not isinstance(feature, Tensor) or feature.dim() != 4 or feature.shape[2:] != (side, side):
        shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise _Unfit(f"{path} gives {shape} for an image of {_SIDE} x {_SIDE}")
    return ShapeSpec(channels=feature.shape[1], stride=stride)


def _with_content(module: nn.Module, paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(p for p in paths if not isinstance(module.get_submodule(p), nn.Identity))


def _norms_in(parts: Sequence[str], called: Sequence[str], module: nn.Module) -> tuple[str, ...]:
    """The batch norms of some parts as they are called; each must run once."""
    there = [
        f"{part}.{name}".rstrip(".")
        for part in parts
        for name, norm in module.get_submodule(part).named_modules()
        if isinstance(norm, nn.BatchNorm2d)
    ]
    inside = [path for path in called if path in there]
    if sorted(inside) != sorted(there):
        raise _Unfit(f"the batch norms of {', '.join(parts)} do not run once each")
    return tuple(inside)
