"""The layers of a network, handed out one by one while it looks at images.

A hook takes every layer's output the moment it exists, so that whoever compares layers keeps what
it computes of one (a kernel [B, B]) and never the features of all. Networks are a task's route
through a shared backbone, a plain lego (N = 1), and any torch module; the layers of a lego are its
own, those of a module its residual blocks and what stands before the first of them.

B images of a batch, S their side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from gppf_d2.data.samples import one_line
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.controller import Gate
from gppf_d2.modeling.lego.timm_cut import input_of
from gppf_d2.modeling.multitask import MultiTaskModel

CONTAINERS = (nn.Sequential, nn.ModuleList)
SHOWN = 12  # names in an error


@dataclass(frozen=True)
class Pixels:
    """What a network is given of an image; by default what torchvision's models take.

    Args:
        pixel_format: "RGB" or "BGR".
        pixel_mean: per channel in that order, in grey levels 0 to 255.
        pixel_std: likewise.
    """

    pixel_format: str = "RGB"
    pixel_mean: Sequence[float] = (123.675, 116.28, 103.53)
    pixel_std: Sequence[float] = (58.395, 57.12, 57.375)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise RGB images uint8 [B, 3, S, S]; fp32."""
        if self.pixel_format == "BGR":
            images = images.flip(1)
        mean, std = (
            torch.tensor(list(values), dtype=torch.float32, device=images.device)[:, None, None]
            for values in (self.pixel_mean, self.pixel_std)
        )
        return (images - mean) / std


@dataclass(frozen=True)
class Layers:
    """A network and those of its layers that are looked at.

    Args:
        name: of the network, in tables and pictures.
        root: the module that holds it; it is put into evaluation mode.
        run: takes normalised images [B, 3, S, S] through the network.
        modules: name of a layer -> the module whose output it is, from the input on.
        pixels: how images are normalised.
        iteration: of the checkpoint that it comes from; None where it is of no run.
    """

    name: str
    root: nn.Module
    run: Callable[[Tensor], Any]
    modules: Mapping[str, nn.Module]
    pixels: Pixels = field(default_factory=Pixels)
    iteration: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers, from the input on."""
        return tuple(self.modules)

    @torch.no_grad()
    def __call__(self, images: Tensor, take: Callable[[int, Tensor], None]) -> None:
        """Run the network in evaluation mode and hand out what its layers give.

        Args:
            images: RGB uint8 [B, 3, S, S].
            take: called with the index of a layer and its output [B, ...] as soon as it exists;
                what it keeps is all that is kept.

        Raises:
            ValueError: a layer does not run once, or gives no tensor of B rows; the network does
                not run on such images, or not on so many.
        """
        calls = [0] * len(self.modules)

        def hook(index: int, output: Any) -> None:
            calls[index] += 1
            features = _first_tensor(output)
            if features is None or len(features) != len(images):
                raise ValueError(
                    f"The layer {self.names[index]!r} of {self.name!r} does not give features of "
                    f"the {len(images)} images; choose other layers with --layers."
                )
            take(index, features)

        hooks = [
            module.register_forward_hook(lambda *call, index=index: hook(index, call[-1]))
            for index, module in enumerate(self.modules.values())
        ]
        try:
            self.root.eval()
            self.run(self.pixels(images))
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"{self.name!r} does not run on {len(images)} images of {images.shape[-1]} x "
                f"{images.shape[-1]} pixels ({one_line(error)}); try another --size or "
                "--batch-size."
            ) from error
        finally:
            for handle in hooks:
                handle.remove()
        for name, count in zip(self.names, calls):
            if count != 1:
                raise ValueError(
                    f"The layer {name!r} of {self.name!r} runs {count} times for a batch; choose "
                    "layers that run once with --layers."
                )


def route_layers(
    model: MultiTaskModel, task: str, name: str, pixels: Pixels, pattern: str = ""
) -> Layers:
    """The layers that a task's route passes, with the gates of its evaluation.

    Args:
        model: no head is needed.
        task: whose route.
        name: of the network.
        pixels: the run's input.
        pattern: which layers, see `matching`; "" takes all.

    Raises:
        ValueError: an unknown task, or a pattern that fits no layer.
    """
    if task not in model.controllers:
        raise ValueError(
            f"There is no task {task!r}; choose one of {', '.join(model.controllers)}."
        )
    backbone = model.backbone
    last = list(backbone.output_shape())[-1:]

    def run(x: Tensor) -> None:
        model.features(task, [x], last, training=False)

    return Layers(name, model, run, _chosen(backbone, backbone.layer_names, pattern, name), pixels)


def module_layers(
    module: nn.Module, name: str, pixels: Pixels | None = None, pattern: str = ""
) -> Layers:
    """The layers of a lego with N = 1, or of any module that takes images [B, 3, S, S].

    Args:
        module: such as a ResNet of Detectron2, torchvision or timm.
        name: of the network.
        pixels: None takes what timm says of its models, and torchvision's for others.
        pattern: which modules, see `matching`; "" takes a lego's layers, else `default_layers`.

    Raises:
        ValueError: a lego of several units, a pattern that fits no module, or, without a pattern,
            no blocks.
    """
    pixels = pixels or Pixels(**input_of(module))
    if isinstance(module, LegoBackbone):
        if module.num_units > 1:
            raise ValueError(
                f"{name!r} has {module.num_units} units in a layer and no route; give num_units=1, "
                "or a run with its tasks."
            )
        gates, last = [Gate.single(0)] * len(module.layer_names), list(module.output_shape())[-1:]
        chosen = _chosen(module, module.layer_names, pattern, name)
        return Layers(name, module, lambda x: module([x], gates, last), chosen, pixels)
    known = [path for path, _ in module.named_modules() if path]
    names = known if pattern else default_layers(module)
    if not names:
        raise ValueError(
            f"{name!r} is a {type(module).__name__} without blocks in a row; say with --layers "
            f"which of its modules to compare, out of {_some(known)}."
        )
    return Layers(name, module, module, _chosen(module, names, pattern, name), pixels)


def default_layers(module: nn.Module) -> list[str]:
    """Paths of the residual blocks of a module, and of what stands before the first of them.

    A block is a module with parts of its own in an ``nn.Sequential`` or ``nn.ModuleList``; one that
    has ``blocks`` of its own is a stage, and these are looked at instead.

    Returns:
        Such as maxpool, layer1.0, ... of torchvision's ResNet; empty where there is no block.
    """
    blocks = list(_blocks(module, ""))
    return [*_before(module, blocks[0]), *blocks] if blocks else []


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that fit.

    Args:
        names: with dots.
        pattern: alternatives with commas between them, of which each dotted part has a wildcard of
            the shell: "stem,res[34].*" takes the stem and the blocks of two stages, not what is in
            them.
    """
    wanted = [one.strip().split(".") for one in pattern.split(",")]

    def fits(name: str) -> bool:
        parts = name.split(".")
        return any(len(parts) == len(one) and all(map(fnmatchcase, parts, one)) for one in wanted)

    return [name for name in names if fits(name)]


def _chosen(
    root: nn.Module, names: Sequence[str], pattern: str, whose: str
) -> dict[str, nn.Module]:
    found = matching(names, pattern) if pattern else list(names)
    if not found:
        raise ValueError(f"--layers {pattern!r} fits no layer of {whose!r}; it has {_some(names)}.")
    return {name: root.get_submodule(name) for name in found}


def _some(names: Sequence[str]) -> str:
    left = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {left} more" if left > 0 else "")


def _blocks(module: nn.Module, path: str) -> Iterable[str]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        is_block = isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS)
        is_stage = isinstance(getattr(child, "blocks", None), CONTAINERS)
        if is_block and not is_stage and any(True for _ in child.children()):
            yield inner
        else:
            yield from _blocks(child, inner)


def _before(module: nn.Module, path: str) -> list[str]:
    """The module that runs before the one at ``path``, by the order in which they are held."""
    parts = path.split(".")
    for depth in reversed(range(len(parts))):
        parent = module.get_submodule(".".join(parts[:depth]))
        siblings = [name for name, child in parent.named_children()
                    if name == parts[depth] or not isinstance(child, nn.Identity)]  # fmt: skip
        position = siblings.index(parts[depth])
        if position:
            return [".".join([*parts[:depth], siblings[position - 1]])]
    return []


def _first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module returned, the first one where it returned several."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.dim() else None
